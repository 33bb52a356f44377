"""Requests: the description of one generation. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from ..config import NO_GUIDANCE, Guidance, Sampling
from ..constants import MAX_CONDITIONS, MAX_STEPS
from ..controls.values import Value, check_frames, check_value, is_curve
from ..errors import InputError, check_range, check_whole
from ..numerics.schedule import explicit, sigmas
from ..spec import ACE_STEP, ModelId, ModelSpec

if TYPE_CHECKING:
    from torch import Tensor


def check_tensor(name: str, tensor: Tensor, *shape: int | None) -> None:
    """Raise `InputError` unless `tensor` is finite and has `shape` (None for any length). Waits for its device."""
    given = tuple(tensor.shape)
    if len(given) != len(shape) or any(b is not None and a != b for a, b in zip(given, shape, strict=True)):
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise InputError(f"{name} has shape {list(given)}", f"allowed is [{wanted}]", "connect one that fits")
    if not bool(tensor.isfinite().all()):
        raise InputError(f"{name} holds NaN or infinite values", "only finite numbers are allowed", "make it again")


@dataclass(frozen=True, eq=False)
class Condition:
    """The tokens and context that the decoder attends to, for one request.

    Attributes:
        tokens: `[L, H]` text, lyric and timbre tokens of this condition alone, no padding.
        context: `[T, spec.context]`; `[T, 0]` for a model without context, since it says how long the music is.
        null_tokens: `[L', H]` tokens of the negative row, such as the learned null condition; None where there is none
            (turbo), which leaves guidance off.
        null_context: as `context`, of the negative row; None for the positive row's own.
        spec: of the model that it is for.
        model: that made it; None where that is not known, as in a take.

    Raises:
        InputError: for another shape, or values that are not finite.
    """

    tokens: Tensor
    context: Tensor
    null_tokens: Tensor | None = None
    null_context: Tensor | None = None
    spec: ModelSpec = ACE_STEP
    model: ModelId | None = None

    def __post_init__(self) -> None:
        check_tensor("the condition's tokens", self.tokens, None, self.spec.width or None)
        check_tensor("the condition's context", self.context, None, self.spec.context)
        if self.tokens.shape[0] < 1 or self.context.shape[0] < 1:
            raise InputError(
                f"the condition has {self.tokens.shape[0]} tokens and {self.context.shape[0]} frames",
                "at least one of each is needed",
                "encode a prompt for some seconds of music",
            )
        if self.null_tokens is not None:
            check_tensor("the null condition", self.null_tokens, None, self.tokens.shape[1])
        if self.null_context is not None:
            check_tensor("the null condition's context", self.null_context, self.frames, self.spec.context)

    @property
    def length(self) -> int:
        """Return the number of tokens of the longer row."""
        return max(self.tokens.shape[0], 0 if self.null_tokens is None else self.null_tokens.shape[0])

    @property
    def frames(self) -> int:
        return self.context.shape[0]


@dataclass(frozen=True, eq=False)
class Part:
    """One of several conditions of a request.

    Attributes:
        condition: the condition.
        weight: its share, relative to the weights of the others; a number or a curve `[T]`.
        start, end: the part of the steps in which it holds: step `i` of `n` when `start <= i / n < end`.

    Raises:
        InputError: for a weight, a curve's length or a span that does not fit.
    """

    condition: Condition
    weight: Value = 1.0
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        check_value("the weight of a condition", self.weight, 0.0, 1e3, "0 leaves it out")
        check_frames("the weight of a condition", self.weight, self.condition.frames)
        check_span("the condition", self.start, self.end)

    def holds(self, step: int, steps: int) -> bool:
        return in_span(self.start, self.end, step, steps)


@dataclass(frozen=True, eq=False)
class Target:
    """A latent that predictions are pulled toward, as strongly as the knob `target_strength` says.

    Attributes:
        latent: `[T, C]`, of the request's model.
        start, end: the part of the steps in which it pulls, as for `Part`.
    """

    latent: Tensor
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        check_tensor("the target", self.latent, None, None)
        check_span("the target", self.start, self.end)

    def holds(self, step: int, steps: int) -> bool:
        return in_span(self.start, self.end, step, steps)


def check_span(name: str, start: float, end: float) -> None:
    """Raise `InputError` unless `0 <= start < end <= 1`."""
    check_range(f"{name}'s start", start, 0.0, 1.0, "0 is the first step")
    check_range(f"{name}'s end", end, 0.0, 1.0, "1 is the last step")
    if start >= end:
        raise InputError(f"{name} holds from {start:g} to {end:g}", "it must end after it starts", "widen it")


def in_span(start: float, end: float, step: int, steps: int) -> bool:
    """Return true where `start <= step / steps < end`, up to float error."""
    return start * steps - 1e-9 <= step < end * steps - 1e-9


@dataclass(frozen=True, eq=False)
class Request:
    """One generation; immutable once submitted.

    Attributes:
        condition: one condition, or several as parts; the first one's null condition is the negative.
        sampling: steps, shift, denoise, seed, solver.
        guidance: adaptive projected guidance; modes but `off` and `self` need a condition with `null_tokens`.
        source: `[T, C]` latent: the start where the first sigma is below 1, kept where a mask is 0, and mixed in again
            by the knob `sde`.
        noise: `[T, C]` float32 starting noise, instead of the one drawn from the seed.
        schedule: sigmas that override the sampling's steps, shift and denoise.
        mask: `[T, C]` in [0, 1]: 1 makes a frame anew, 0 keeps the source's; None makes all of it anew.
        mask_strength: how strictly the mask is kept, from the first step to the last: one number, or several, spread
            evenly over the steps and interpolated linearly.
        target: latent that predictions are pulled toward.
        initial_noise: share of noise in the starting latent, the rest is the source; a number or a curve `[T]`. None
            takes the first sigma.
        label: returned with the latent.

    Raises:
        InputError: for a tensor, curve or number that does not fit, or a mask, a denoise below 1 or initial noise
            without a source.
    """

    condition: Condition | tuple[Part, ...]
    sampling: Sampling = field(default_factory=Sampling)
    guidance: Guidance = NO_GUIDANCE
    source: Tensor | None = None
    noise: Tensor | None = None
    schedule: tuple[float, ...] | None = None
    mask: Tensor | None = None
    mask_strength: tuple[float, ...] = (1.0,)
    target: Target | None = None
    initial_noise: Value | None = None
    label: str = ""

    def __post_init__(self) -> None:
        self._check_parts()
        target = None if self.target is None else self.target.latent
        given = ("the source latent", self.source), ("the noise", self.noise), ("the mask", self.mask)
        for name, tensor in (*given, ("the target", target)):
            if tensor is not None:
                check_tensor(name, tensor, self.frames, self.spec.channels)
        if self.schedule is not None:
            explicit(self.schedule)
        self._check_guidance()
        self._check_source()

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        return self.condition if isinstance(self.condition, tuple) else (Part(self.condition),)

    @property
    def first(self) -> Condition:
        """Return the first condition, whose null condition is the negative."""
        return self.parts[0].condition

    @cached_property
    def sigmas(self) -> tuple[float, ...]:
        return self.schedule if self.schedule is not None else sigmas(self.sampling)

    @property
    def spec(self) -> ModelSpec:
        """Return the sizes of the model that it is for; all its conditions are of one."""
        return self.first.spec

    @property
    def frames(self) -> int:
        return self.first.frames

    @property
    def tokens(self) -> int:
        """Return the number of tokens of the longest row."""
        return max(part.condition.length for part in self.parts)

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1

    @cached_property
    def masked(self) -> bool:
        """Return true where a mask keeps anything. Waits for the mask's device once."""
        kept = self.mask is not None and not bool((self.mask == 1).all())
        return kept and any(self.mask_strength)

    @cached_property
    def guided_from(self) -> int:
        """Return the first step in the interval of guidance; the number of steps where none is."""
        return next((i for i, t in enumerate(self.sigmas[:-1]) if self.guidance.acts_at(t)), self.steps)

    def strength_at(self, step: int) -> float:
        """Return the strength of the mask at a step."""
        line = self.mask_strength
        place = step / max(self.steps - 1, 1) * (len(line) - 1)
        left = min(int(place), max(len(line) - 2, 0))
        return line[left] + (line[min(left + 1, len(line) - 1)] - line[left]) * (place - left)

    def _check_parts(self) -> None:
        check_whole("the number of conditions", len(self.parts), 1, MAX_CONDITIONS, "combine fewer")
        for part in self.parts:
            check_tensor("a condition's tokens", part.condition.tokens, None, self.first.tokens.shape[1])
            if part.condition.spec != self.spec:
                raise InputError(
                    f"conditions of {self.spec} and {part.condition.spec} are combined",
                    "all must be of one model",
                    "encode them with the same model",
                )
            if part.condition.frames != self.frames:
                raise InputError(
                    f"conditions of {self.frames} and {part.condition.frames} frames are combined",
                    "all must be of one length",
                    "encode them for the same seconds",
                )
        for step in range(self.steps):
            held = [part.weight for part in self.parts if part.holds(step, self.steps)]
            total: Value = sum(held[1:], held[0]) if held else 0.0
            least = float(total.min()) if is_curve(total) else total
            if least == 0.0:
                raise InputError(
                    f"no condition holds at step {step + 1} of {self.steps}",
                    "every step and frame needs one with a weight above 0",
                    "widen a range or raise a weight",
                )

    def _check_guidance(self) -> None:
        if self.guidance.active and self.guidance.decodes and self.first.null_tokens is None:
            raise InputError(
                f"guidance in mode {self.guidance.mode} is set on a condition without a null condition",
                "a turbo model has its guidance distilled in and allows only a scale of 1, or mode self",
                "set the scale to 1 or load a base or SFT model",
            )
        for name in ("scale", "momentum", "rescale"):
            check_frames(f"guidance {name}", getattr(self.guidance, name), self.frames)

    def _check_source(self) -> None:
        if not 1 <= len(self.mask_strength) <= MAX_STEPS:
            given = f"mask strength has {len(self.mask_strength)} numbers"
            raise InputError(given, f"allowed are 1 to {MAX_STEPS}", "give 1, or one a step")
        for number in self.mask_strength:
            check_range("mask strength", number, 0.0, 1.0, "0 makes all of it anew")
        if self.mask is not None and not bool(((self.mask >= 0) & (self.mask <= 1)).all()):
            raise InputError("the mask holds values outside 0 to 1", "allowed is 0 to 1", "scale it")
        if self.initial_noise is not None:
            check_value("initial noise", self.initial_noise, 0.0, 1.0, "1 starts from noise, 0 from the source")
            check_frames("initial noise", self.initial_noise, self.frames)
        if self.source is not None:
            _ = self.masked  # asked now, so that the tick need not
            return
        if self.mask is not None:
            raise InputError("there is a mask and no source", "a mask keeps parts of a source", "connect a source")
        if self.initial_noise is not None:
            raise InputError("initial noise is set and there is no source", "it mixes them", "connect a source")
        if self.sigmas[0] < 1.0:
            raise InputError(
                f"the first sigma is {self.sigmas[0]:.3g} and there is no source",
                "a denoise below 1 starts from a source latent",
                "connect a source or set denoise to 1",
            )
