"""Running out of device memory, as an error that says what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from safetensors import SafetensorError

from ..errors import MemoryShortage

# PyTorch's CPU allocator, oneDNN, the C++ library, CUDA's libraries and safetensors say it in plain errors.
_WORDS = (
    "can't allocate memory",
    "could not create a primitive",
    "Cannot allocate memory",
    "out of memory",
    "ALLOC_FAILED",
    "bad_alloc",
)


def is_shortage(error: BaseException | None) -> bool:
    """Return true where an error, or its cause, means that memory ran out; false for a `MemoryShortage`, already
    reported.
    """
    if error is None or isinstance(error, MemoryShortage):
        return False
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, RuntimeError | SafetensorError) and any(word in str(error) for word in _WORDS):
        return True
    return is_shortage(error.__cause__)


@contextmanager
def guarded(given: str, allowed: str, remedy: str) -> Iterator[None]:
    """Turn an error of memory that ran out into a `MemoryShortage` with this message."""
    try:
        yield
    except Exception as error:
        if not is_shortage(error):
            raise
        raise MemoryShortage(given, allowed, remedy) from error
