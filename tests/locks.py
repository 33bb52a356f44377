"""Watches in which order the package takes its locks, in every test: two orders are a deadlock that waits to happen.

The order is `registry.LOCKS`. `watch` must be called before the package is imported.
"""

from __future__ import annotations

import functools
import linecache
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

PACKAGE = "ostinato"
violations: list[str] = []
_held = threading.local()


@functools.cache
def _rank(name: str) -> int:
    from ostinato.engine_runtime.registry import LOCKS, OTHER  # not before `watch`, for it makes a lock

    return LOCKS.index(name if name in LOCKS else OTHER)


class Watched:
    """A lock that notes what its thread holds when it is taken."""

    def __init__(self, lock: Any, name: str) -> None:
        self._lock, self.name = lock, name

    def acquire(self, *args: Any, **kwargs: Any) -> bool:
        held: list[Watched] = _held.__dict__.setdefault("locks", [])
        if self not in held and held and max(_rank(other.name) for other in held) >= _rank(self.name):
            violations.append(f"{self.name} is taken by who holds {', '.join(other.name for other in held)}")
        taken = self._lock.acquire(*args, **kwargs)
        if taken:
            held.append(self)
        return taken

    def release(self) -> None:
        held = _held.__dict__["locks"]
        del held[len(held) - 1 - held[::-1].index(self)]
        self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lock, name)


def _name(frame: FrameType) -> str | None:
    """`Class.attribute` of a lock that the package makes in this frame; None for another's."""
    module = frame.f_globals.get("__name__", "")
    if module.split(".")[0] != PACKAGE:
        return None
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
    attribute = line.split("=")[0].split(":")[0].split(",")[0].replace("self.", "").strip()
    return f"{frame.f_code.co_qualname.split('.')[0]}.{attribute}"


def watch() -> None:
    """Have every lock that the package makes from now on watched."""

    def watched(real: Callable[[], Any]) -> Callable[[], Any]:
        def make() -> Any:
            name = _name(sys._getframe(1))
            return real() if name is None else Watched(real(), name)

        return make

    threading.Lock, threading.RLock = watched(threading.Lock), watched(threading.RLock)  # type: ignore[misc]
