"""Bounds that every module shares, and the pack's version; the sizes of a model are in `spec.py`."""

VERSION = "0.1.0"  # as in pyproject.toml

MAX_DEPTH = 8
MAX_STEPS = 1000  # of one request
ROWS, MAX_ROWS = 2 * MAX_DEPTH, 64  # rows of one execute, unless told otherwise, and at most
MAX_CONDITIONS = 4  # of one request
MAX_STRENGTH = 10.0  # of an adapter, either way
KINDS = ("eager", "compiled", "fp8", "int8")  # of engines that run in PyTorch

# The built-in models and whether guidance is distilled in: trained ones, and random ones for tests, which are noise.
PRESETS = {"tiny": "turbo", "tiny-base": "base", "random": "turbo", "random-base": "base"}
RANDOM = ("random", "random-base")
LIVE_MODES = ("loop", "endless")  # of a live session: T seconds go round, or music that goes on from what was heard
