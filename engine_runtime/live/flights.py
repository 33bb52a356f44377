"""The requests that a live ring has in flight, and when the first of them ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ..stream.request import Request
from .line import Heard

LOST = 2.0  # times the usual that a step may take before nothing can be said


@dataclass(frozen=True)
class Flight:
    """A request in flight.

    Attributes:
        heard: the changes that it was made with; further hot ones may act on it.
        ends: the step that finishes it.
        at, kept: for a stretch, the moment of its first new frame, and the frames before that it repeats.
    """

    heard: Heard
    ends: int
    at: int = 0
    kept: int = 0


class Flights:
    """The requests in flight, and the time of the steps that carry them.

    The ring's thread changes them, any other may ask.

    Attributes:
        tick: seconds that a step takes.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.tick = 0.1
        self._clock, self._began = clock, 0.0
        self._all: dict[int, Flight] = {}  # by the request's identity

    def __len__(self) -> int:
        return len(self._all)

    @property
    def first(self) -> Flight | None:
        """Return the flight that began first; None where there is none."""
        return next(iter(self._all.values()), None)

    @property
    def ends(self) -> list[int]:
        """List the steps that finish one."""
        return [flight.ends for flight in list(self._all.values())]

    def of(self, request: Request) -> Flight:
        return self._all[id(request)]

    def add(self, request: Request, flight: Flight) -> None:
        self._all[id(request)] = flight

    def drop(self, request: Request) -> None:
        del self._all[id(request)]

    def clear(self) -> None:
        self._all.clear()

    def step_begins(self) -> None:
        """Note that a step begins."""
        self._began = self._clock()

    def step_ends(self) -> None:
        """Learn how long the step took."""
        self.tick += 0.1 * (self._clock() - self._began - self.tick)

    def until_end(self, steps: int) -> float:
        """Return the seconds until the first ends; 0 where none is in flight, or the step takes so long that nothing
        can be said.

        Args:
            steps: that were made.
        """
        passed, ends = self._clock() - self._began, self.ends
        if not ends or passed > LOST * self.tick:
            return 0.0
        return max((min(ends) - steps) * self.tick - passed, 0.1 * self.tick)
