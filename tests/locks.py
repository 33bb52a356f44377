"""Watches in which order the package takes its locks, in every test: two orders are a deadlock that waits to happen.

The order is the one that `Runtime` writes down. `watch` must be called before the package is imported.
"""

from __future__ import annotations

import linecache
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

PACKAGE = "ostinato"
# by the module and the attribute; whatever else the package has is a leaf, which nobody holds while taking another
ORDER = (
    "play.tensorrt opening",
    "stage step_lock",
    "live_vae _lock",
    "lane lock",
    "play.tensorrt _lock",
    "play.executor lock",
)
LEAF = len(ORDER)

violations: list[str] = []
_held = threading.local()


class Watched:
    """A lock that notes what its thread holds when it is taken."""

    def __init__(self, lock: Any, name: str) -> None:
        self._lock, self.name = lock, name
        self.rank = next((rank for rank, known in enumerate(ORDER) if name.endswith(known)), LEAF)

    def acquire(self, *args: Any, **kwargs: Any) -> bool:
        held: list[Watched] = _held.__dict__.setdefault("locks", [])
        if self not in held and held and max(other.rank for other in held) >= self.rank:
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
    """`module attribute` of a lock that the package makes in this frame; None for another's."""
    module = frame.f_globals.get("__name__", "")
    if module.split(".")[0] != PACKAGE:
        return None
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
    return f"{module} {line.split('=')[0].split(':')[0].replace('self.', '').strip()}"


def watch() -> None:
    """Have every lock that the package makes from now on watched."""

    def watched(real: Callable[[], Any]) -> Callable[[], Any]:
        def make() -> Any:
            name = _name(sys._getframe(1))
            return real() if name is None else Watched(real(), name)

        return make

    threading.Lock, threading.RLock = watched(threading.Lock), watched(threading.RLock)  # type: ignore[misc]
