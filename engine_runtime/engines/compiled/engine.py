"""The engine of the restructured decoder, in the weights' own precision or with products in 8 bits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch
from diffusers import AceStepTransformer1DModel
from torch import Tensor

from ...device.memory import guarded
from ...spec import ACE_STEP, ModelId, ModelSpec
from ..contract import LIMITS, Limits, Rows
from ..factors import Targets
from . import plain
from .adapters import Adapters, EightBits
from .decoder import Decoder
from .rows import CompiledRows
from .weights import NAMES, Narrow


class CompiledEngine:
    """The engine of `Decoder`: on CUDA a few hundred launches without a join, which a graph may capture.

    The first pass at a shape compiles its kernels, which Triton keeps on disk; capture after it. A row's velocity
    depends only on that row and the batch's shape.

    Its weights share the transformer's memory; products in 8 bits keep their own copy beside it.

    Args:
        transformer: the reference model; its dtype and device become the engine's.
        identity: names the weights.
        limits: rows, frames and tokens it accepts.
        ready: brings the weights to the device, before a session opens.
        ops: the fused operations, `plain` or `fused`.
        narrow: products in 8 bits; `choice.choose` tells which are.

    Attributes:
        recipe: arguments with which `models.engines` makes it again; None where it cannot.
        proof: result of its check, for people.
        products: dtype of its layers' matrix products.
    """

    spec: ModelSpec = ACE_STEP
    recipe: dict[str, Any] | None = None
    model: ModelId | None = None
    modules = None
    krons = True
    proof = ""

    def __init__(
        self,
        transformer: AceStepTransformer1DModel,
        identity: str,
        limits: Limits = LIMITS,
        ready: Callable[[], None] = lambda: None,
        ops: ModuleType = plain,
        narrow: Narrow | None = None,
    ) -> None:
        self.decoder = Decoder(transformer.eval().requires_grad_(False), ops, narrow)
        self.limits = limits
        self._ready, self._lock, self._players = ready, threading.Lock(), 0
        self.width = transformer.condition_embedder.in_features
        self.targets: Targets | None = Targets.of(transformer)
        self.dtype, self.device = transformer.dtype, transformer.device
        self.capturable = self.device.type == "cuda"
        self.products = self.dtype if narrow is None else narrow.dtype
        kind = next((kind for kind, dtype in plain.NARROW.items() if dtype == self.products), "compiled")
        precision = str(self.dtype).removeprefix("torch.")
        self.identity = f"{kind}:{identity}:{self.dtype}:{self.device}:{limits}"
        if narrow is not None and narrow.digest:
            self.identity += f":{narrow.digest}"
        products = "" if narrow is None else f"{NAMES[narrow.dtype]} products, "
        self.name = f"{kind}, {products}{precision} on {self.device}"

    def ready(self) -> None:
        self._ready()
        with self._lock:
            with guarded(
                f"the {self.name} engine found no room for its weights",
                "they must fit beside what is loaded",
                "unload other models or use another engine",
            ):
                self.decoder.bind()
            self._players += 1

    def rest(self) -> None:
        """Release the matrices when no session plays and the last rows are gone: a host may want the shared memory
        back.
        """
        with self._lock:
            self._players = max(0, self._players - 1)
            if not self._players:
                self.decoder.release()

    def own_profiler(self) -> None:
        """Return None: torch's profiler sees every kernel."""

    def rows(self, batch: int, frames: int, tokens: int) -> CompiledRows:
        self.limits.check(min(batch, self.limits.batch), frames, tokens)
        frames, sizes = self.spec.padded(frames), (self.spec.context, self.spec.channels)
        d, on = self.decoder, {"dtype": self.dtype, "device": self.device}
        both = torch.zeros(batch, frames, sum(sizes), **on)
        layers, inner = len(d.model.layers), d.kv_heads * d.head_dim
        context, latent = both.split(sizes, -1)
        rows = CompiledRows(
            latent,
            torch.zeros(batch, device=self.device),
            torch.zeros(batch, tokens, self.width, **on),
            torch.zeros(batch, tokens, dtype=torch.bool, device=self.device),
            context,
            np.ones(batch, dtype=np.int64),
            np.ones(batch, dtype=bool),
            input=both,
            keys_values=torch.zeros(batch, layers, 2, tokens, inner, **on),
            count=torch.ones(batch, dtype=torch.int32, device=self.device),
            peaks=torch.zeros(batch, layers, device=self.device),
            tables=d.tables(frames // self.spec.patch, self.device),
            weights=d.weights,
            made=d.keys_values,
            adapters=Adapters(EightBits(d.narrow.dtype, d.weights.channels) if d.narrow else None),
        )
        with torch.no_grad():
            d.keys_values(rows.weights, rows.encoder_hidden_states[0, :1], None, rows.keys_values[0, :, :, :1])
        rows.keys_values[1:, :, :, :1] = rows.keys_values[0, :, :, :1]
        rows.peaks[:] = rows.keys_values[0, :, 1, 0].abs().amax(1)
        rows.encoder_attention_mask[:, 0] = True
        return rows

    def __call__(self, rows: Rows) -> Tensor:
        assert isinstance(rows, CompiledRows)
        with torch.no_grad():
            return self.decoder(rows)

    def summary(self) -> str:
        alone, guided = self.limits.depth_in_one_pass(False), self.limits.depth_in_one_pass(True)
        depths = f"in one pass: depth up to {alone}, with guidance up to {guided}"
        return "; ".join(filter(None, (self.name, depths, self.kept_wide, self.proof)))

    @property
    def kept_wide(self) -> str:
        """Name the products of an engine in 8 bits that are not in 8 bits; empty where there is none."""
        return "" if self.decoder.narrow is None else self.decoder.narrow.summary()
