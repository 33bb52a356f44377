"""Everything that a process has one of: TensorRT's library, its open engines, the builds, the streams.

Locks are taken in the order of `LOCKS`, from which any may be left out; the tests watch it (`tests/locks.py`). `OTHER`
stands for each of the others, which guards a few lines: no thread that holds one takes another of them. What a function
remembers of its arguments alone (`functools.cache`) stays with the function.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

OTHER = "any other"
LOCKS = (
    "Keep._lock",
    "Sessions.changing",
    "Control.turning",
    "TensorRT.opening",
    "Stage.step_lock",
    "LiveVae._lock",
    "Lane.lock",
    "TensorRT._lock",
    "Executor.lock",
    OTHER,
    "Registry._lock",
)
T = TypeVar("T")


class Registry:
    """Holds one object of each class that is asked for. Thread-safe. Use `registry`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[type, Any] = {}

    def one(self, kind: type[T]) -> T:
        """Return the process's object of a class; the first call makes it.

        Args:
            kind: made without arguments; it takes no lock meanwhile.
        """
        with self._lock:
            if kind not in self._held:
                self._held[kind] = kind()
            found: T = self._held[kind]
            return found

    @contextmanager
    def fresh(self, *kinds: type) -> Iterator[None]:
        """Have new objects of these classes inside the block, for tests."""
        with self._lock:
            before = {kind: self._held.pop(kind) for kind in kinds if kind in self._held}
        try:
            yield
        finally:
            with self._lock:
                for kind in kinds:
                    self._held.pop(kind, None)
                self._held |= before


registry = Registry()
