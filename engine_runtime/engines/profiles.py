"""Profiles: the shapes an engine takes, as spans of rows, frames, condition tokens and adapter rank.

A span is written minimum:optimum:maximum.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from ..constants import MAX_ROWS
from ..errors import InputError, check_whole
from ..spec import ACE_STEP

MAX_FRAMES, MAX_TOKENS, MAX_RANK = ACE_STEP.max_frames, ACE_STEP.max_tokens, 512
Shape = tuple[int, ...]

# Which quantity each axis of a graph input is; None is a size of the model. LoRA inputs have the rank where theirs is
# dynamic: `lora_*_a [layers, r, in]`, `lora_*_b [layers, out, r]`.
_AXES: dict[str, tuple[str | None, ...]] = {
    "hidden_states": ("batch", "frames", None),
    "timestep": ("batch",),
    "encoder_hidden_states": ("batch", "tokens", None),
    "encoder_attention_mask": ("batch", "tokens"),
    "context_latents": ("batch", "frames", None),
    "latents": ("batch", None, "frames"),
    "audio": ("batch", None, "samples"),
}
_NUMBER = re.compile(r"\d{1,9}(?:\.\d{1,6})?")


class Span(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Minimum, optimum and maximum of one quantity, a list in JSON; all three equal where it is fixed."""

    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise InputError(
                f"a span is {self}", "it is minimum:optimum:maximum, rising from 1", "write for example 1:4:16"
            )

    def __str__(self) -> str:
        return str(self.min) if self.min == self.max else f"{self.min}:{self.opt}:{self.max}"

    def holds(self, value: int) -> bool:
        return self.min <= value <= self.max

    def times(self, factor: int) -> Span:
        return Span(self.min * factor, self.opt * factor, self.max * factor)

    @classmethod
    def of(cls, numbers: Sequence[int]) -> Span:
        return cls(*numbers)

    def as_list(self) -> list[int]:
        return [self.min, self.opt, self.max]


def parse_span(name: str, text: str, most: int) -> Span:
    """Parse `1:4:16`, or one whole number for a fixed size.

    Raises:
        InputError: for other text, or numbers outside 1 to `most`; it names `name`.
    """
    numbers = [int(number) if number == int(number) else number for number in _numbers(name, text)]
    for number in numbers:
        check_whole(name, number, 1, most, "the largest allowed is a limit of the runtime")
    return _rising(name, text, [int(number) for number in numbers])


def parse_seconds(text: str, patch: int = ACE_STEP.patch) -> Span:
    """Parse seconds into frames, 25 to a second, rounded up to a multiple of the patch, as T is padded.

    Args:
        text: `2:10:60`, or one number.
        patch: frames per decoder token; 1 for a VAE.

    Raises:
        InputError: for other text, or seconds out of range.
    """
    frames = []
    for seconds in _numbers("seconds", text):
        if not 0 < seconds <= ACE_STEP.max_seconds:
            allowed = f"allowed is more than 0, to {ACE_STEP.max_seconds}"
            raise InputError(f"seconds are {seconds:g}", allowed, "choose other seconds")
        count = max(1, round(seconds * ACE_STEP.frame_rate))
        frames.append(count + -count % patch)
    return _rising("seconds", text, frames)


def _numbers(name: str, text: str) -> list[float]:
    parts = text.strip().split(":")
    if len(parts) not in (1, 3) or not all(_NUMBER.fullmatch(part) for part in parts):
        raise InputError(
            f"{name} is {text!r}", "it is minimum:optimum:maximum or one number", f"write for example {name} 1:4:16"
        )
    numbers = [float(part) for part in parts]
    return numbers * 3 if len(numbers) == 1 else numbers


def _rising(name: str, text: str, numbers: list[int]) -> Span:
    if not numbers[0] <= numbers[1] <= numbers[2]:
        raise InputError(f"{name} is {text!r}", "minimum:optimum:maximum must rise", "order the three numbers")
    return Span.of(numbers)


@dataclass(frozen=True)
class Profile:
    """One optimisation profile.

    Attributes:
        batch: rows B of a decoder, clips of a VAE.
        frames: latent frames T; even for a decoder.
        tokens: condition tokens L; None for a VAE.
        rank: of the adapters that an engine with LoRA inputs takes; None for an engine without.
    """

    batch: Span
    frames: Span
    tokens: Span | None = None
    rank: Span | None = None

    def covers(self, batch: int, frames: int, tokens: int | None = None, rank: int | None = None) -> bool:
        """Return true where these sizes fit; a size of None is not checked."""
        spans = ((self.batch, batch), (self.frames, frames), (self.tokens, tokens), (self.rank, rank))
        return all(n is None or (span is not None and span.holds(n)) for span, n in spans)

    @property
    def cost(self) -> int:
        """Estimate the largest shape's cost, for choosing the cheapest fit: attended pairs of frames and tokens."""
        frames, tokens = self.frames.max, self.tokens.max if self.tokens else 0
        return self.batch.max * frames * (frames + tokens)

    def shapes(self, inputs: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Shape, Shape, Shape]]:
        """Compute the minimum, optimum and maximum shape of each input of an export record.

        Raises:
            InputError: for a dynamic dimension that this profile has no span for.
        """
        return {one["name"]: self._shape(one["name"], one["dims"]) for one in inputs}

    def _shape(self, name: str, dims: Sequence[Any]) -> tuple[Shape, Shape, Shape]:
        axes = _AXES.get(name, ("rank",) * len(dims) if name.startswith("lora_") else ())
        spans: list[Span] = []
        for i, size in enumerate(dims):
            span = Span(size, size, size) if isinstance(size, int) else self._span(axes[i] if i < len(axes) else None)
            if span is None:
                raise InputError(
                    f"axis {i} of the input {name} is {size!r} and no span is given for it",
                    "every dynamic size has one",
                    "give --rank for an engine with LoRA inputs" if name.startswith("lora_") else "export again",
                )
            spans.append(span)
        low, best, high = zip(*(span.as_list() for span in spans), strict=True)
        return low, best, high

    def _span(self, axis: str | None) -> Span | None:
        if axis == "samples":
            return self.frames.times(ACE_STEP.hop)
        return getattr(self, axis) if axis else None

    def as_json(self) -> dict[str, list[int] | None]:
        found: dict[str, list[int] | None] = msgspec.to_builtins(self)
        return found

    def __str__(self) -> str:
        spans = {"batch": self.batch, "frames": self.frames, "tokens": self.tokens, "rank": self.rank}
        return ", ".join(f"{name} {span}" for name, span in spans.items() if span)


def smallest(
    profiles: Sequence[Profile], batch: int, frames: int, tokens: int | None = None, rank: int | None = None
) -> int | None:
    """Return the index of the cheapest profile that covers these sizes; None when none does."""
    fitting = [(p.cost, i) for i, p in enumerate(profiles) if p.covers(batch, frames, tokens, rank)]
    return min(fitting)[1] if fitting else None


def parse_profiles(
    batch: str, seconds: str, tokens: str | None, rank: str | None, patch: int = ACE_STEP.patch
) -> tuple[Profile, ...]:
    """Parse profiles from the command line: each text holds spans with commas between; a single span serves all
    profiles.

    Raises:
        InputError: for a span that does not parse, or counts of spans that do not match.
    """
    made: dict[str, list[Span]] = {"batch": [parse_span("batch", t, MAX_ROWS) for t in batch.split(",")]}
    made["frames"] = [parse_seconds(t, patch) for t in seconds.split(",")]
    if tokens is not None:
        made["tokens"] = [parse_span("tokens", t, MAX_TOKENS) for t in tokens.split(",")]
    if rank is not None:
        made["rank"] = [parse_span("rank", t, MAX_RANK) for t in rank.split(",")]
    count = max(map(len, made.values()))
    for name, spans in made.items():
        if len(spans) not in (1, count):
            raise InputError(
                f"{name} has {len(spans)} spans and another has {count}",
                "each has one span for all profiles, or one for each profile",
                "give as many spans everywhere",
            )
    return tuple(Profile(**{n: s[i % len(s)] for n, s in made.items()}) for i in range(count))
