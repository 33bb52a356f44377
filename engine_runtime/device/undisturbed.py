"""Keeps other threads from what breaks a capture: from collecting garbage, and the host's from work on the GPU."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from ..registry import registry


class Uncollected:
    """A context in which no thread collects garbage, however many threads are inside.

    A graph that is freed on a capturing thread breaks the capture.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._on = threading.Lock(), 0, False

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._on = gc.isenabled()
                gc.disable()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside and self._on:
                gc.enable()


def uncollected() -> Uncollected:
    """Return the process's: no thread collects garbage inside of it."""
    return registry.one(Uncollected)


class Neighbours:
    """Keeps the host's own threads from the GPU while a stream is captured.

    Until a capture ends, PyTorch refuses every thread a wait for the whole device, and every other thread a random
    number of CUDA's default generator. A wait that was refused spoils the capture too (seen with PyTorch 2.11 on an
    H100).

    Attributes:
        still: makes a context that keeps them still; it yields false where they are at work.
    """

    def __init__(self) -> None:
        self.still: Callable[[], AbstractContextManager[bool]] = lambda: nullcontext(True)
