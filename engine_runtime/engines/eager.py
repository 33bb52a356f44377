"""The reference engine: eager PyTorch on any device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from diffusers import AceStepTransformer1DModel
from torch import Tensor, nn

from ..device.workers import is_large, workers
from ..spec import ACE_STEP, ModelId, ModelSpec
from .compiled.weights import lay_out
from .contract import LIMITS, Limits, Rows
from .decoder import MaskedDecoder
from .factors import Targets


class EagerEngine:
    """`MaskedDecoder` without compilation.

    Args:
        transformer: the reference model; its dtype and device become the engine's.
        identity: names the weights.
        limits: rows, frames and tokens it accepts.
        ready: brings the weights to the device, before a session opens.

    Attributes:
        recipe: arguments with which `models.engines` makes it again; None where it cannot.
        wide: on the CPU, all threads decode one row after the other; else each row has a thread of its own.
    """

    spec: ModelSpec = ACE_STEP
    recipe: dict[str, Any] | None = None
    model: ModelId | None = None
    krons = True

    def __init__(
        self,
        transformer: AceStepTransformer1DModel,
        identity: str,
        limits: Limits = LIMITS,
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        self.decoder = MaskedDecoder(transformer).eval().requires_grad_(False)
        self.limits = limits
        self.wide = is_large(transformer)
        self._ready = ready
        self.width = transformer.condition_embedder.in_features
        self.targets: Targets | None = Targets.of(transformer)
        self.dtype = transformer.dtype
        self.device = transformer.device
        self.identity = f"eager:{identity}:{self.dtype}:{self.device}:{limits}"
        self.name = f"eager, {str(self.dtype).removeprefix('torch.')} on {self.device}"

    @property
    def capturable(self) -> bool:
        """Return true on a GPU: weights keep their addresses while a session plays, tables as long as the engine."""
        return self.device.type == "cuda"

    def ready(self) -> None:
        self._ready()
        if self.device.type == "cuda":
            lay_out(self.decoder.model)

    def rest(self) -> None:
        """Do nothing: the weights stay on the device."""

    @property
    def modules(self) -> nn.Module:
        return self.decoder

    def own_profiler(self) -> None:
        """Return None: torch's profiler sees every operator."""

    def rows(self, batch: int, frames: int, tokens: int) -> Rows:
        self.limits.check(min(batch, self.limits.batch), frames, tokens)
        return Rows.allocate(self.spec, batch, frames, tokens, self.width, self.dtype, self.device)

    def __call__(self, rows: Rows) -> Tensor:
        with torch.no_grad():
            return self._by_row(rows) if self.device.type == "cpu" else self._decode(rows)

    def _by_row(self, rows: Rows) -> Tensor:
        """Decode each row by itself: a CPU's matrix product rounds a row by its place in the batch."""
        velocity = torch.zeros_like(rows.hidden_states)
        each = [partial(self._decode_row, rows, i, velocity) for i in rows.active.nonzero()[0].tolist()]
        if self.wide:
            workers().run(lambda: [decode() for decode in each], wide=True)
        else:
            workers().each(each)
        return velocity

    def _decode_row(self, rows: Rows, i: int, velocity: Tensor) -> None:
        """Decode a row without its padding, into its place of `[B, T, C]`."""
        row, length = rows.part(i, i + 1), int(rows.lengths[i])
        tokens, mask = row.encoder_hidden_states[:, :length], row.encoder_attention_mask[:, :length]
        velocity[i] = self._decode(replace(row, encoder_hidden_states=tokens, encoder_attention_mask=mask))[0]

    def _decode(self, rows: Rows) -> Tensor:
        return self.decoder(
            rows.hidden_states,
            rows.timestep,
            rows.encoder_hidden_states,
            rows.encoder_attention_mask,
            rows.context_latents,
            rows.lora,
        )

    def summary(self) -> str:
        plain, guided = self.limits.depth_in_one_pass(False), self.limits.depth_in_one_pass(True)
        return f"{self.name}; in one pass: depth up to {plain}, with guidance up to {guided}"
