"""What one generation should be. Torch-free: tensors are only carried and asked for their shape."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from .config import NO_GUIDANCE, Guidance, Sampling
from .constants import CONTEXT_DIM, LATENT_DIM
from .errors import InputError
from .schedule import explicit, sigmas

if TYPE_CHECKING:
    from torch import Tensor


def check_tensor(name: str, tensor: Tensor, *shape: int | None) -> None:
    """Raise `InputError` unless `tensor` is finite and has `shape` (None for any length). Reads the device once."""
    given = tuple(tensor.shape)
    if len(given) != len(shape) or any(b is not None and a != b for a, b in zip(given, shape, strict=True)):
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise InputError(f"{name} has shape {list(given)}", f"allowed is [{wanted}]", "connect one that fits")
    if not bool(tensor.isfinite().all()):
        raise InputError(f"{name} holds NaN or infinite values", "only finite numbers are allowed", "make it again")


@dataclass(frozen=True, eq=False)
class Condition:
    """What the decoder attends to, for one request.

    Attributes:
        tokens: `[L, H]` text, lyric and timbre tokens of this condition alone, no padding.
        context: `[T, 128]` 64 source or silence channels, then 64 chunk-mask channels.
        null_tokens: `[L', H]` tokens of the negative row, such as the learned null condition; None where there is
            none (turbo), which leaves guidance off.
        null_context: `[T, 128]` context of the negative row; None for the positive row's own.
    """

    tokens: Tensor
    context: Tensor
    null_tokens: Tensor | None = None
    null_context: Tensor | None = None

    def __post_init__(self) -> None:
        check_tensor("the condition's tokens", self.tokens, None, None)
        check_tensor("the condition's context", self.context, None, CONTEXT_DIM)
        if self.tokens.shape[0] < 1 or self.context.shape[0] < 1:
            raise InputError(
                f"the condition has {self.tokens.shape[0]} tokens and {self.context.shape[0]} frames",
                "at least one of each is needed",
                "encode a prompt for some seconds of music",
            )
        if self.null_tokens is not None:
            check_tensor("the null condition", self.null_tokens, None, self.tokens.shape[1])
        if self.null_context is not None:
            check_tensor("the null condition's context", self.null_context, self.frames, CONTEXT_DIM)

    @property
    def length(self) -> int:
        """Tokens of the longer row."""
        return max(self.tokens.shape[0], 0 if self.null_tokens is None else self.null_tokens.shape[0])

    @property
    def frames(self) -> int:
        return self.context.shape[0]


@dataclass(frozen=True, eq=False)
class Request:
    """One generation; immutable once submitted.

    Attributes:
        condition: what to play.
        sampling: steps, shift, denoise, seed.
        guidance: adaptive projected guidance; needs a condition with `null_tokens` unless its scale is 1.
        source: `[T, 64]` latent to start from when the first sigma is below 1, and to keep where a mask says so.
        noise: `[T, 64]` float32 starting noise, instead of the one drawn from the seed.
        schedule: sigmas that override the sampling's steps, shift and denoise.
        mask: `[T, 64]` in [0, 1]: 1 makes a frame anew, 0 keeps the source's; None makes all of it anew.
        label: handed back with the latent.
    """

    condition: Condition
    sampling: Sampling = field(default_factory=Sampling)
    guidance: Guidance = NO_GUIDANCE
    source: Tensor | None = None
    noise: Tensor | None = None
    schedule: tuple[float, ...] | None = None
    mask: Tensor | None = None
    label: str = ""

    def __post_init__(self) -> None:
        given = (("the source latent", self.source), ("the noise", self.noise), ("the mask", self.mask))
        for name, tensor in given:
            if tensor is not None:
                check_tensor(name, tensor, self.frames, LATENT_DIM)
        if self.mask is not None and self.source is None:
            raise InputError("there is a mask and no source", "a mask keeps parts of a source", "connect a source")
        if self.mask is not None and not bool(((self.mask >= 0) & (self.mask <= 1)).all()):
            raise InputError("the mask holds values outside 0 to 1", "allowed is 0 to 1", "scale it")
        if self.schedule is not None:
            explicit(self.schedule)
        if self.guidance.active and self.condition.null_tokens is None:
            raise InputError(
                f"guidance scale is {self.guidance.scale:g} on a condition without a null condition",
                "a turbo model has its guidance distilled in and allows only 1",
                "set the scale to 1 or load a base or SFT model",
            )
        if self.sigmas[0] < 1.0 and self.source is None:
            raise InputError(
                f"the first sigma is {self.sigmas[0]:.3g} and there is no source",
                "a denoise below 1 starts from a source latent",
                "connect a source or set denoise to 1",
            )

    @cached_property
    def sigmas(self) -> tuple[float, ...]:
        return self.schedule if self.schedule is not None else sigmas(self.sampling)

    @property
    def frames(self) -> int:
        return self.condition.frames

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1
