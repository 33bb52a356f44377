"""The listener of a live session's sound: where it is, and how far ahead it wants sound."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from .level import SAMPLE_RATE

GONE = 3.0  # seconds without a report after which a listener is taken to have left
GUESS = int(0.25 * SAMPLE_RATE)  # samples that a listener is taken to have moved on without a report


class Listener:
    """The place where a listener is, between its reports.

    Args:
        clock: of its moves, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.position, self.lead, self._when, self.moving = 0, 0, -math.inf, False

    @property
    def here(self) -> bool:
        """Return whether it has reported lately."""
        return self._clock() - self._when < GONE

    def report(self, position: int, lead: int, moving: bool) -> None:
        """Note the position that sounds now, the samples wanted ahead of it, and whether it moves."""
        self.position, self.lead, self.moving, self._when = position, lead, moving, self._clock()

    def now(self) -> int:
        """Guess the position now."""
        passed = (self._clock() - self._when) * SAMPLE_RATE if self.moving else 0
        return self.position + int(min(GUESS, passed))
