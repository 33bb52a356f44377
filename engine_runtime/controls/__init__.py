"""What can be turned while music plays: values, knobs, curves, automation. Most of it needs no torch."""
