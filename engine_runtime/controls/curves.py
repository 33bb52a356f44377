"""Curves: one number for every latent frame, computed once the number of frames is known.

Frame `i` of `n` lies at `i / rate` seconds, and at `i / (n-1)` of the whole length. The rate is the model's, known when
the curve is computed. Torch-free; float64 until `Curve.values` returns float32.

While music plays on and on, a curve goes on with it: what is told in seconds or Hz counts from the start of play, and
what is told over the whole length comes again with each length.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, check_choice, check_range, check_whole
from ..spec import ACE_STEP

Array = NDArray[np.float64]

SHAPES = ("sine", "triangle", "square", "random")
UNITS = ("Hz", "cycles")
EDGES = ("hold", "wrap")

MAX_SECONDS = ACE_STEP.max_seconds
MAX_FRAMES = ACE_STEP.max_frames
MAX_RATE = ACE_STEP.frame_rate / 2  # Hz; what swings faster than every other frame looks like something slower
MAX_CURVES = 8192  # that one is made of; each has up to 120 kB while it is drawn
STEP = 0.5  # the farthest a random walk goes from one cycle to the next, as a share of its range
EXACT = 9  # decimals of a phase: an edge must not fall to the side that rounding picks


class Times(NamedTuple):
    """The frames that a curve is computed for.

    Attributes:
        frames: their number, the whole length.
        rate: how many of them are a second, Hz.
        start: the frame of play that is the first of them; None where nothing plays.
    """

    frames: int
    rate: float
    start: int | None = None

    @property
    def moments(self) -> NDArray[np.int64]:
        """Return the frames, counted from the start of play: `[frames]`."""
        return np.arange(self.frames) + (self.start or 0)

    @property
    def places(self) -> NDArray[np.int64]:
        """Return the frames, counted from where the whole length began last: `[frames]`."""
        return self.moments % self.frames


@dataclass(frozen=True, eq=False)
class Curve:
    """A number for every frame.

    Attributes:
        make: computes `[frames]` float64 from the times and the values of each part.
        frames: its only length, for a measured curve; None for a curve that fits any length.
        parts: the curves it is computed from.
        drawn_at: number of frames at which its parts are computed; None for its own.
        later: seconds by which it shows its parts later.
    """

    make: Callable[..., Array]
    frames: int | None = None
    parts: tuple[Curve, ...] = field(default=(), repr=False)
    drawn_at: int | None = None
    later: float = 0.0

    def values(self, frames: int, rate: float = ACE_STEP.frame_rate, start: int | None = None) -> NDArray[np.float32]:
        """Compute the curve: `[frames]` float32, finite.

        Args:
            rate: frames a second, Hz.
            start: the frame of play that is the first of them; None for the length alone.

        Raises:
            InputError: for a length that is not its only one, for a value that float32 cannot hold, and for a curve
                made of more than `MAX_CURVES`.
        """
        _check_length(frames)
        with np.errstate(over="ignore", invalid="ignore"):
            return _narrowed(self._evaluate(Times(frames, rate, start)), rate)

    def _evaluate(self, times: Times) -> Array:
        """Compute `[frames]` float64, in a loop: a chain of parts may be longer than Python's stack.

        Each part is computed once, however many curves use it, and dropped after its last use.
        """
        root = (self, times)
        graph: dict[tuple[Curve, Times], list[tuple[Curve, Times]]] = {}
        found = [root]
        while found:
            curve, asked = one = found.pop()
            if one not in graph:
                graph[one] = [(part, curve._asks(asked)) for part in curve.parts]
                found += graph[one]
            if len(graph) > MAX_CURVES:
                raise InputError(
                    "a curve is made of more curves than can be drawn", f"allowed are {MAX_CURVES}", "use fewer"
                )
        uses = Counter(part for parts in graph.values() for part in parts)
        made: dict[tuple[Curve, Times], Array] = {}
        for one in TopologicalSorter(graph).static_order():
            made[one] = one[0].make(one[1], *(made[part] for part in graph[one]))
            uses.subtract(graph[one])
            for part in {part for part in graph[one] if not uses[part]}:
                del made[part]
        return made[root]

    def _asks(self, asked: Times) -> Times:
        """Return the times for which its parts are computed."""
        if self.drawn_at:
            return Times(self.drawn_at, asked.rate)
        return asked if asked.start is None else asked._replace(start=asked.start - _whole(self.later * asked.rate))


def _whole(frames: float) -> int:
    return math.ceil(round(frames, EXACT))


def _narrowed(values: Array, rate: float) -> NDArray[np.float32]:
    made = values.astype(np.float32)
    if not np.isfinite(made).all():
        at = int(np.argmin(np.isfinite(made))) / rate
        raise InputError(
            f"the curve is NaN or infinite at {at:g} s", "allowed are finite numbers", "look at what it is made of"
        )
    return made


def constant(value: float) -> Curve:
    """Make a curve with the same number everywhere."""
    check_finite("the value", value)
    return Curve(lambda times: np.full(times.frames, float(value)))


def ramp(start: float, end: float, begin: float = 0.0, until: float = 0.0) -> Curve:
    """Make a straight line from `start` to `end`, held before `begin` and after `until` (s; 0 is the last frame)."""
    for name, value in (("the start", start), ("the end", end)):
        check_finite(name, value)
    check_range("the beginning of a ramp", begin, 0, MAX_SECONDS, "give seconds")
    check_range("the end of a ramp", until, 0, MAX_SECONDS, "give seconds, or 0 for the last frame")
    if 0 < until <= begin:
        raise InputError(f"a ramp runs from {begin:g} to {until:g} s", "its end comes after its beginning", "swap them")

    def make(times: Times) -> Array:
        frames, first = times.frames, begin * times.rate
        last = until * times.rate if until else frames - 1
        if last <= first:  # the music ends before the ramp begins
            return np.full(frames, float(start))
        return np.interp(times.moments if until else times.places, [first, last], [start, end])

    return Curve(make)


def lfo(
    shape: str, rate: float, unit: str = "Hz", phase: float = 0.0, low: float = 0.0, high: float = 1.0, seed: int = 0
) -> Curve:
    """Make a low-frequency oscillator between `low` and `high`.

    Args:
        shape: `sine` and `triangle` start half-way and rise, `square` starts high; `random` wanders smoothly.
        rate: in Hz, or cycles over the whole length; a whole number of cycles loops without a seam.
        phase: start within the cycle, 0 to 1.
        seed: of `random`; the same seed gives the same walk, and a longer walk begins like a shorter one.
    """
    check_choice("the shape", shape, SHAPES)
    check_choice("the unit", unit, UNITS)
    check_range("the phase", phase, 0, 1, "give the share of a cycle")
    check_range("the rate", rate, 0, MAX_RATE if unit == "Hz" else MAX_FRAMES / 2, "a curve has 25 frames a second")
    check_whole("the seed", seed, 0, 2**64 - 1, "give another")

    def make(times: Times) -> Array:
        frames = times.frames
        hz = rate if unit == "Hz" else rate * times.rate / frames
        if hz > times.rate / 2:
            most = f"{times.rate / 2:g} Hz" if unit == "Hz" else f"{frames // 2}"
            raise InputError(f"{rate:g} {unit} are asked of {frames} frames", f"allowed are {most}", "lower the rate")
        at = times.moments if unit == "Hz" else times.places
        cycles = np.round(hz * at / times.rate + phase, EXACT)
        return _wander(cycles, seed) if shape == "random" else _SWINGS[shape](cycles % 1.0)

    return between(Curve(make), low, high)


def _triangle(phase: Array) -> Array:
    return 1.0 - np.abs(((phase + 0.25) % 1.0) * 2.0 - 1.0)


_SWINGS: dict[str, Callable[[Array], Array]] = {
    "sine": lambda phase: 0.5 + 0.5 * np.sin(2.0 * math.pi * phase),
    "triangle": _triangle,
    "square": lambda phase: (phase < 0.5).astype(np.float64),
}


def _wander(cycles: Array, seed: int) -> Array:
    """Walk at random in [0, 1]: one step per cycle, folded back at the edges, with an S-curve between steps.

    The draws come from whole bits of PCG64: library functions round differently from platform to platform.
    """
    draws = np.random.Generator(np.random.PCG64(seed)).random(max(0, int(cycles.max())) + 2)
    steps = np.concatenate([draws[:1], (draws[1:] * 2.0 - 1.0) * STEP])
    places = 1.0 - np.abs(1.0 - np.cumsum(steps) % 2.0)
    at = np.floor(cycles).astype(np.int64).clip(min=0)
    t = (cycles - at).clip(min=0.0)
    return places[at] + (places[at + 1] - places[at]) * t * t * (3.0 - 2.0 * t)


def drawn(shape: Callable[[Array], Array], low: float, high: float) -> Curve:
    """Make a curve from a function of the place in the whole, 0 to 1, whose value 0 means `low` and 1 means `high`."""
    return between(Curve(lambda times: shape(np.linspace(0.0, 1.0, times.frames)[times.places])), low, high)


def arithmetic(a: Curve | float, b: Curve | float, operation: str, amount: Curve | float = 0.5) -> Curve:
    """Combine two curves frame by frame; a number stands for a constant.

    Args:
        operation: one of `OPERATIONS`.
        amount: of `mix` alone: 0 is `a`, 1 is `b`.

    Raises:
        InputError: for curves of two lengths; for a division by zero, once values are computed.
    """
    check_choice("the operation", operation, _OPERATIONS)
    parts = as_curve(a), as_curve(b), *([as_curve(amount)] if operation == "mix" else [])
    return Curve(lambda times, *values: _OPERATIONS[operation](times, *values), _common(*parts), parts)


def _divide(times: Times, a: Array, b: Array) -> Array:
    if not b.all():
        at = int(np.argmin(b != 0)) / times.rate
        raise InputError(
            f"the curve divides by 0 at {at:g} s", "allowed is any other divisor", "keep b away from 0, say by maximum"
        )
    return a / b


def _mix(times: Times, a: Array, b: Array, share: Array) -> Array:
    return (1.0 - share) * a + share * b


_OPERATIONS: dict[str, Callable[..., Array]] = {
    "add": lambda times, a, b: a + b,
    "subtract": lambda times, a, b: a - b,
    "multiply": lambda times, a, b: a * b,
    "divide": _divide,
    "minimum": lambda times, a, b: np.minimum(a, b),
    "maximum": lambda times, a, b: np.maximum(a, b),
    "mix": _mix,
}
OPERATIONS = tuple(_OPERATIONS)


def between(curve: Curve, low: float, high: float) -> Curve:
    """Scale a curve from [0, 1] to [`low`, `high`]; `low` may be the larger, which turns it upside down."""
    for name, value in (("low", low), ("high", high)):
        check_finite(name, value)
    return Curve(lambda times, values: low + (high - low) * values, curve.frames, (curve,))


def fixed(values: Sequence[float] | NDArray[Any]) -> Curve:
    """Make a curve from measured values `[frames]`; it has this length and no other."""
    array = np.array(values, dtype=np.float64)
    if array.ndim != 1 or not 0 < len(array) <= MAX_FRAMES:
        raise InputError(
            f"the values have shape {list(array.shape)}", f"allowed is [1 to {MAX_FRAMES} frames]", "cut them"
        )
    if not np.isfinite(array).all():
        raise InputError("the values hold NaN or infinity", "allowed are finite numbers", "make them again")

    def make(times: Times) -> Array:
        if times.frames != len(array):
            raise InputError(
                f"the curve has {len(array)} frames ({len(array) / times.rate:g} s)",
                f"{times.frames} frames ({times.frames / times.rate:g} s) are asked for",
                "put Curve Resample after it",
            )
        return array if times.start is None else array[times.places]

    return Curve(make, len(array))


def resample(curve: Curve, frames: int | None = None) -> Curve:
    """Stretch a curve to any length, linearly; its first and last values stay first and last.

    Args:
        frames: length at which the curve is computed before; None for its own. A curve that fits any length is returned
            unchanged then.
    """
    length = frames or curve.frames
    if length is None:
        return curve

    _check_length(length)

    def make(asked: Times, drawn: Array) -> Array:
        measured = _narrowed(drawn, asked.rate)
        stretched = np.interp(np.linspace(0.0, 1.0, asked.frames), np.linspace(0.0, 1.0, length), measured)
        return stretched[asked.places]

    return Curve(make, None, (curve,), length)


def shift(curve: Curve, seconds: float, edges: str = "hold") -> Curve:
    """Move a curve later in time, or earlier below 0; values between frames are linear.

    Args:
        edges: `hold` repeats the first or last value in the gap, `wrap` fills it with what left on the other side.
            While music plays on there are none.
    """
    check_range("the shift", seconds, -MAX_SECONDS, MAX_SECONDS, "give seconds")
    check_choice("the edges", edges, EDGES)

    def make(times: Times, values: Array) -> Array:
        frames = times.frames
        moved = seconds * times.rate
        if times.start is not None:  # the parts were computed for frames that are whole ones earlier
            return np.interp(np.arange(frames) + _whole(moved) - moved, np.arange(frames), values)
        at = np.round(np.arange(frames) - moved, EXACT)
        return np.interp(at, np.arange(frames), values, period=frames if edges == "wrap" else None)

    return Curve(make, curve.frames, (curve,), later=seconds)


def frames_in(seconds: float, rate: float = ACE_STEP.frame_rate) -> int:
    """Convert seconds to frames; 0 gives 0, anything more at least 1."""
    check_range("the length", seconds, 0, MAX_SECONDS, "give seconds")
    return max(1, round(seconds * rate)) if seconds else 0


def as_curve(value: Curve | float) -> Curve:
    """Return a curve unchanged, and a number as a constant curve."""
    return value if isinstance(value, Curve) else constant(value)


def check_finite(name: str, value: float) -> None:
    """Raise `InputError` for NaN or infinity."""
    if not math.isfinite(value):
        raise InputError(f"{name} is {value}", "allowed are finite numbers", "give one")


def _check_length(frames: int) -> None:
    check_whole("the length of a curve in frames", frames, 1, MAX_FRAMES, "ask for 0.04 to 600 seconds")


def _common(*curves: Curve) -> int | None:
    """Return the one length that these curves share; None where each fits any length."""
    lengths = sorted({curve.frames for curve in curves if curve.frames is not None})
    if len(lengths) > 1:
        raise InputError(
            f"the curves have {lengths[0]} and {lengths[-1]} frames",
            "curves that meet have one length",
            "put Curve Resample after one of them",
        )
    return lengths[0] if lengths else None
