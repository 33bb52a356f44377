"""Resident rows that keep each condition's keys and values for every layer, computed once.

B rows, T frames, N = T / patch tokens, L condition tokens, H hidden width, D head width.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..contract import Rows
from ..factors import Factors
from .adapters import Adapters, Resident
from .plain import FP8
from .weights import Weights


@dataclass(frozen=True, kw_only=True)
class CompiledRows(Rows):
    """Rows of a `CompiledEngine`.

    A condition's keys and values depend on the adapters: `adapted` computes them again where an adapter changes them.

    Attributes:
        input: `[B, T, 192]` context, then latent; `context_latents` and `hidden_states` are views of it.
        keys_values: `[B, layers, 2, L, kv_heads * D]`, keys (normalised) before values.
        count: `[B]` int32, tokens of each row.
        peaks: `[B, layers]` float32, largest magnitude of the values; float8 only.
        tables: cosine and sine of the rotary positions, `[N, D / 2]` float32; shared by all rows.
        weights: held as long as a captured pass may read them; shared by all rows.
        made: writes a condition's keys and values with these weights and adapters.
        adapters: of all rows.
    """

    input: Tensor
    keys_values: Tensor
    count: Tensor
    peaks: Tensor
    tables: tuple[Tensor, Tensor]
    weights: Weights
    made: Callable[[Weights, Tensor, Resident | None, Tensor], None]
    adapters: Adapters

    @property
    def captured_with(self) -> Hashable:
        active = self.adapters.active
        return None if active is None else active.serial

    @property
    def settled_with(self) -> Hashable:
        return self.captured_with

    def adapted(self, lora: Factors | None) -> Rows:
        """Change the adapters as `Rows.adapted` does, for all rows that share these buffers."""
        if self.adapters.put(lora):
            for row, length in enumerate(self.lengths.tolist()):
                self._embed(row, length)
        return replace(self, lora=lora)

    def take(self, row: int, other: Rows, theirs: int) -> None:
        super().take(row, other, theirs)
        for name in ("keys_values", "count", "peaks"):
            getattr(self, name)[row] = getattr(other, name)[theirs]

    def settle(self, row: int, length: int) -> None:
        super().settle(row, length)
        self._embed(row, length)
        self.count[row].fill_(length)

    def _embed(self, row: int, length: int) -> None:
        """Write the keys and values of a row's own tokens; what lies beyond them is never read."""
        own = self.keys_values[row, :, :, :length]
        self.made(self.weights, self.encoder_hidden_states[row, :length], self.adapters.active, own)
        if self.adapters.narrow is not None and self.adapters.narrow.dtype == FP8:
            torch.linalg.vector_norm(own[:, 1], float("inf"), (1, 2), dtype=torch.float32, out=self.peaks[row])
