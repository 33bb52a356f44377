"""The decoder contract.

B rows, T frames (padded to the patch size) of C channels, L condition tokens, H the condition's width.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..constants import MAX_DEPTH, MAX_ROWS, ROWS
from ..errors import EngineLimitError, check_range
from ..spec import ACE_STEP, ModelId, ModelSpec
from .factors import BUCKETS, Factors, Targets

Run = Callable[[Hashable, Callable[[], None]], None]


def at_once(key: Hashable, body: Callable[[], None]) -> None:
    """Run a body at once, whatever its key."""
    body()


@dataclass(frozen=True)
class Limits:
    """The most an engine takes: rows B, frames T, condition tokens L, and the summed rank of all adapters."""

    batch: int
    frames: int
    tokens: int
    rank: int = field(default=BUCKETS[-1], repr=False)  # takes name an engine by what decides its batches

    def check(self, batch: int, frames: int, tokens: int) -> None:
        """Raise `EngineLimitError` for the first size that is out of range."""
        for name, given, most in (
            ("rows", batch, self.batch),
            ("frames", frames, self.frames),
            ("condition tokens", tokens, self.tokens),
        ):
            if not 1 <= given <= most:
                raise EngineLimitError(
                    f"{given} {name} were asked of the engine",
                    f"it takes 1 to {most}",
                    f"use fewer {name} or an engine with a larger limit",
                )

    def depth_in_one_pass(self, guided: bool) -> int:
        """Return the largest ring depth whose rows run in one execute; 0 when a single slot's do not."""
        return min(MAX_DEPTH, self.batch // (2 if guided else 1))


@dataclass(frozen=True)
class Rows:
    """Resident input buffers of B decoder rows; conditions are written when a slot is taken, never per tick.

    Attributes:
        hidden_states: `[B, T, C]` noisy latent, engine dtype.
        timestep: `[B]` t in [0, 1], float32.
        encoder_hidden_states: `[B, L, H]` condition tokens, engine dtype.
        encoder_attention_mask: `[B, L]` bool, True on a condition's own tokens.
        context_latents: `[B, T, context]`, engine dtype; `[B, T, 0]` for a model without context.
        lengths: `[B]` tokens of each row, on the host.
        active: `[B]` bool, on the host: rows whose velocity the next tick uses; an engine may skip the others.
        lora: adapters' factors, the same for all rows; None for none.
    """

    hidden_states: Tensor
    timestep: Tensor
    encoder_hidden_states: Tensor
    encoder_attention_mask: Tensor
    context_latents: Tensor
    lengths: np.ndarray
    active: np.ndarray
    lora: Factors | None = None

    @classmethod
    def allocate(
        cls,
        spec: ModelSpec,
        batch: int,
        frames: int,
        tokens: int,
        width: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> Rows:
        """Allocate zeroed rows; T is rounded up to the patch size. A row not yet written attends one zero token."""
        frames = spec.padded(frames)
        rows = cls(
            torch.zeros(batch, frames, spec.channels, dtype=dtype, device=device),
            torch.zeros(batch, dtype=torch.float32, device=device),
            torch.zeros(batch, tokens, width, dtype=dtype, device=device),
            torch.zeros(batch, tokens, dtype=torch.bool, device=device),
            torch.zeros(batch, frames, spec.context, dtype=dtype, device=device),
            np.ones(batch, dtype=np.int64),
            np.ones(batch, dtype=bool),
        )
        rows.encoder_attention_mask[:, 0] = True
        return rows

    def part(self, start: int, stop: int) -> Rows:
        """Return views of rows `start` to `stop`."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        views: dict[str, Any] = {
            k: held[start:stop] for k, held in own.items() if isinstance(held, Tensor | np.ndarray)
        }
        return replace(self, **views)

    @property
    def captured_with(self) -> Hashable:
        """Identify the adapters that a captured call over these rows has read; the capture is valid while this is the
        same.
        """
        return self.lora

    @property
    def settled_with(self) -> Hashable:
        """Identify all that `settle` reads besides these buffers."""
        return None

    def adapted(self, lora: Factors | None) -> Rows:
        """Return the same buffers with other adapters.

        Call it between two ticks, on the lane, after `Factors.ready`.
        """
        return replace(self, lora=lora)

    def take(self, row: int, other: Rows, theirs: int) -> None:
        """Copy a condition from a row of other rows, of the same frames and tokens."""
        for name in ("encoder_hidden_states", "encoder_attention_mask", "context_latents", "lengths"):
            getattr(self, name)[row] = getattr(other, name)[theirs]

    def write(self, row: int, tokens: Tensor, context: Tensor, run: Run = at_once) -> None:
        """Write one condition into a row.

        Args:
            tokens: `[l, H]`, `l <= L`; the rest of the row is zeroed and masked.
            context: `[t, context]`, `t <= T`; the rest is zeroed.
            run: runs the part that does not depend on the addresses of these; it may replay a graph of it, by the key.
        """
        length = tokens.shape[0]
        for place, given in ((self.encoder_hidden_states[row], tokens), (self.context_latents[row], context)):
            place[: given.shape[0]].copy_(given, non_blocking=True)
        if context.shape[0] < self.context_latents.shape[1]:
            self.context_latents[row, context.shape[0] :].zero_()
        self.lengths[row] = length
        run((row, length, self.settled_with), lambda: self.settle(row, length))

    def settle(self, row: int, length: int) -> None:
        """Mask and zero what lies beyond a row's first `length` tokens, once those are written. Device work only."""
        mask, tokens = self.encoder_attention_mask[row], self.encoder_hidden_states[row]
        mask.fill_(True)
        if length < len(mask):
            mask[length:].fill_(False)
            tokens[length:].zero_()


class OwnProfiler(Protocol):
    """The profiler of an engine's own library, attached to it.

    Attributes:
        engine: plays in the engine's place meanwhile; each call waits for the device.
        times: name and milliseconds of every layer of every call that was heard.
    """

    @property
    def engine(self) -> Engine: ...
    @property
    def times(self) -> list[tuple[str, float]]: ...
    def heard(self) -> AbstractContextManager[None]:
        """Keep the times of the calls inside the block."""
        ...


class Engine(Protocol):
    """A decoder that maps rows to velocity, stream-ordered, without a host join.

    Its next call may overwrite the velocity it returned: copy what must outlive that call.
    """

    spec: ModelSpec  # the sizes of its model; rows, requests, decode and takes go by it
    limits: Limits
    width: int  # H
    dtype: torch.dtype
    device: torch.device
    targets: Targets | None  # the layers for which it takes factors; None where it takes none
    krons: bool  # a LoKr is taken as it is, not only low-rank factors
    identity: str  # weights, kind, precision, library
    name: str  # for people
    model: ModelId | None  # whose weights; None where that is not known

    @property
    def capturable(self) -> bool:
        """Return true where calls may be captured in a CUDA graph, after a plain one of the same shape."""
        ...

    @property
    def modules(self) -> nn.Module | None:
        """Return the module whose parts a profile names; None where there is none."""
        ...

    def own_profiler(self) -> AbstractContextManager[OwnProfiler] | None:
        """Attach the profiler of its own library for the length of a block; None where torch's sees all of it."""
        ...

    def ready(self) -> None:
        """Bring the weights to the device before a session opens; a host that manages memory may have moved them."""
        ...

    def rest(self) -> None:
        """Release weights that such a host owns, after the session has closed; `ready` comes before the next one."""
        ...

    def rows(self, batch: int, frames: int, tokens: int) -> Rows:
        """Allocate the resident rows of a ring. `batch` may exceed the limit: the caller then executes parts that do
        not.

        Raises:
            EngineLimitError: for more frames or tokens than the limits.
        """
        ...

    def __call__(self, rows: Rows) -> Tensor:
        """Compute the velocity dx/dt, `[B, T, C]`, of rows made by `rows`, or of a part of them."""
        ...


def limits_of(max_rows: int, spec: ModelSpec = ACE_STEP) -> Limits:
    """Return the limits of a PyTorch engine with `max_rows` rows in one execute, which bounds the memory of a tick.

    Raises:
        InputError: for rows out of range.
    """
    check_range("max rows", max_rows, 1, MAX_ROWS, "a slot needs one, or two with guidance")
    return Limits(max_rows, spec.max_frames, spec.max_tokens)


LIMITS = limits_of(ROWS)
