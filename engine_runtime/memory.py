"""Running out of device memory, as an error that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .errors import MemoryShortage

# PyTorch's CPU allocator and CUDA's libraries say it in plain RuntimeErrors.
_WORDS = ("can't allocate memory", "out of memory", "ALLOC_FAILED")


def is_shortage(error: BaseException) -> bool:
    """Whether an error means that there was no room."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)


@contextmanager
def guarded(given: str, allowed: str, remedy: str) -> Iterator[None]:
    """Turn such an error into a `MemoryShortage` with this sentence."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_shortage(error):
            raise
        raise MemoryShortage(given, allowed, remedy) from error
