"""Pictures of curves, profiles, runs and benchmarks."""
