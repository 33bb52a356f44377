"""Sizes of ACE-Step 1.5 that every module shares, and the pack's version."""

VERSION = "0.1.0"  # as in pyproject.toml

SAMPLE_RATE = 48_000  # Hz
LATENT_HZ = 25  # frames per second
HOP = SAMPLE_RATE // LATENT_HZ  # samples per frame
LATENT_DIM = 64
CONTEXT_DIM = 2 * LATENT_DIM  # source or silence channels, then chunk-mask channels
PATCH = 2  # frames per decoder token
MAX_DEPTH = 8
MAX_STEPS = 1000  # of one request
MAX_SECONDS = 600  # of music in one generation or clip
ROWS, MAX_ROWS = 2 * MAX_DEPTH, 64  # rows of one execute, unless told otherwise, and at most
MAX_CONDITIONS = 4  # of one request
MAX_STRENGTH = 10.0  # of an adapter, either way
KINDS = ("eager", "compiled", "fp8")  # of engines that run in PyTorch

# The built-in models and whether guidance is distilled in: trained ones, and random ones for tests, which are noise.
PRESETS = {"tiny": "turbo", "tiny-base": "base", "random": "turbo", "random-base": "base"}
RANDOM = ("random", "random-base")
