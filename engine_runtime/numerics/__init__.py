"""The formulas: schedule, steps, guidance, wavelet correction."""
