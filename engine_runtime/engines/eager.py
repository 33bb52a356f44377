"""The reference engine: eager PyTorch on any device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from diffusers import AceStepTransformer1DModel
from torch import Tensor, nn

from ..spec import ACE_STEP, ModelSpec
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
    """

    spec: ModelSpec = ACE_STEP
    recipe: dict[str, Any] | None = None

    def __init__(
        self,
        transformer: AceStepTransformer1DModel,
        identity: str,
        limits: Limits = LIMITS,
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        self.decoder = MaskedDecoder(transformer).eval().requires_grad_(False)
        self.limits = limits
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
            return self._row_by_row(rows) if self.device.type == "cpu" else self._decode(rows)

    def _row_by_row(self, rows: Rows) -> Tensor:
        """Decode each row alone and without padding: a CPU's matrix product rounds a row by its place in the batch."""
        velocity = torch.zeros_like(rows.hidden_states)
        for i, length in enumerate(rows.lengths.tolist()):
            if not rows.active[i]:
                continue
            row = rows.part(i, i + 1)
            tokens, mask = row.encoder_hidden_states[:, :length], row.encoder_attention_mask[:, :length]
            velocity[i] = self._decode(replace(row, encoder_hidden_states=tokens, encoder_attention_mask=mask))[0]
        return velocity

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
