"""Running out of device memory, as an error that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .errors import MemoryShortage


@contextmanager
def guarded(given: str, allowed: str, remedy: str) -> Iterator[None]:
    """Turn PyTorch's error into a `MemoryShortage` with this sentence."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryShortage(given, allowed, remedy) from error
