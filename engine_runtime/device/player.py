"""The players of a process, by thread: whoever takes a device's memory away asks them to rest first."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Protocol


class Player(Protocol):
    """Whoever plays on weights that a host may take away."""

    def rest(self, room: Callable[[], bool] | None) -> None:
        """Let go of the weights and give back what memory there is; returns once that is done.

        Args:
            room: tells whether it may be taken again, asked from time to time; None where the user has to say so.
        """
        ...

    @property
    def awaited(self) -> bool:
        """Return whether somebody waits for what its threads do now: they do not wait for a host's job then, for that
        may be the job that waits.
        """
        ...


PLAYER: ContextVar[Player | None] = ContextVar("PLAYER", default=None)  # of this thread
