"""Automation of knobs: a number per tick that a session plays back. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..constants import MAX_DEPTH
from ..errors import InputError, check_choice, check_range, check_whole
from .knobs import KNOBS

DEPTH = "depth"  # structural: it goes through `Session.configure`, every other one through `Session.set`
AUTOMATABLE = (DEPTH, *(name for name, knob in KNOBS.items() if not knob.options))


@dataclass(frozen=True)
class Track:
    """The values of one knob over the ticks of a session, or over a run whose length is known.

    Attributes:
        knob: one of `AUTOMATABLE`.
        values: one number a tick; a switch is on from 0.5. Kept as a tuple of checked values.
        start: the tick of the first value; before it the track does nothing.
        loop: repeat from the first value after the last, instead of holding the last.
        span: shares of a run, 0 to 1, over which all values are laid out; None counts ticks.
        ticks: over which they are laid out where a track with a span plays in a session without an end.

    Raises:
        InputError: for another knob, no values, a value out of the knob's range, or a span that does not end after it
            starts.
    """

    knob: str
    values: Sequence[float]
    start: int = 0
    loop: bool = False
    span: tuple[float, float] | None = None
    ticks: int = 100

    def __post_init__(self) -> None:
        if self.span is not None and not 0.0 <= self.span[0] < self.span[1] <= 1.0:
            raise InputError(
                f"the automation runs from {self.span[0]:g} to {self.span[1]:g} of the run",
                "it ends after it starts, within 0 to 1",
                "0 to 1 is the whole run",
            )
        check_choice("the automated knob", self.knob, AUTOMATABLE)
        check_whole("the track's start", self.start, 0, 1 << 53, "give the tick of its first value")
        listed = getattr(self.values, "tolist", lambda: self.values)()
        if not isinstance(listed, list | tuple) or not listed:
            raise InputError(f"the track of {self.knob} has no values", "one a tick is needed", "give at least one")
        object.__setattr__(self, "values", tuple(self._taken(number) for number in listed))

    def at(self, tick: int) -> Any:
        """Return the knob's value at a tick, counted from 0; None before the start."""
        place = tick - self.start
        if place < 0:
            return None
        return self.values[place % len(self.values) if self.loop else min(place, len(self.values) - 1)]

    def endless(self) -> Track:
        """Return the track for a session without an end: its values by ticks."""
        if self.span is None:
            return self
        last = len(self.values) - 1
        values = [self.values[round(i * last / max(self.ticks - 1, 1))] for i in range(self.ticks)]
        return Track(self.knob, values, self.start, self.loop)

    def in_run(self, share: float) -> Any:
        """Return the knob's value where that share of a run is done, from 0 to 1; None before the span."""
        first, last = self.span or (0.0, 1.0)
        if share < first:
            return None
        return self.values[round(min((share - first) / (last - first), 1.0) * (len(self.values) - 1))]

    def _taken(self, number: Any) -> float:
        """Convert a number to the knob's type and check it against the knob's range."""
        if not isinstance(number, int | float):
            raise InputError(f"the track of {self.knob} holds {number!r}", "allowed are numbers", "give one a tick")
        if self.knob == DEPTH:
            whole = int(number) if float(number).is_integer() else number
            check_whole(DEPTH, whole, 1, MAX_DEPTH, "choose how many generations are in flight")
            return whole
        knob = KNOBS[self.knob]
        if isinstance(knob.default, bool):
            check_range(knob.name.replace("_", " "), number, 0.0, 1.0, "0 is off, 1 is on")
            return number >= 0.5
        knob.check(number)
        return float(number)
