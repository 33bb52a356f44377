"""Adapters' factors at fixed addresses, so that a captured pass reads the strengths of its own tick."""

from __future__ import annotations

import itertools
from collections.abc import Hashable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ..factors import Factors, kron_product
from .plain import Activation, quantized
from .weights import Matrix

_SERIAL = itertools.count(1)
_STEP = 16  # the width out of a product in 8 bits is a multiple of this
CONDITION_KINDS = frozenset(("cross_k", "cross_v"))  # of the condition; their products are never in 8 bits


class EightBits(NamedTuple):
    """The way in which the layers' inputs become 8 bits wide.

    Attributes:
        dtype: of the products.
        channels: `[layers, I]` that the inputs of `down` are divided by (see `Matrix`).
    """

    dtype: torch.dtype
    channels: Tensor


class Resident:
    """A copy of factors; `load` replaces them by others of the same rank and kinds, at the same addresses.

    Attributes:
        serial: unique in the process, never used again.
        wide: A of each kind, `[layers, r, in]`. a: the same in 8 bits, with the steps `[layers, r]`.

    Args:
        narrow: None where no product is in 8 bits.
    """

    def __init__(self, factors: Factors, narrow: EightBits | None) -> None:
        self._narrow = narrow
        self.serial, self.shape = next(_SERIAL), shape_of(factors)
        rank = factors.rank + (-factors.rank % _STEP if narrow else 0)
        self.wide: dict[str, Tensor] = {}
        self.a: dict[str, tuple[Tensor, Tensor]] = {}
        self.b: dict[str, Tensor] = {}
        self._from: dict[str, Tensor] = {}
        self.krons = {kind: [(w1.clone(), w2.clone()) for w1, w2 in pairs] for kind, pairs in factors.krons.items()}
        for kind in factors.used:
            layers, _, width = factors.a[kind].shape
            a = factors.a[kind].new_zeros(layers, rank, width)
            self.wide[kind] = a
            if narrow and kind not in CONDITION_KINDS:
                self.a[kind] = quantized(a, narrow.dtype)
            self.b[kind] = a.new_zeros(layers, factors.b[kind].shape[1], rank)
        self.load(factors)

    def load(self, factors: Factors) -> None:
        """Enqueue the copies on the current stream; an unchanged A is not copied again."""
        rank = factors.rank
        for kind in factors.used:
            if self._from.get(kind) is not factors.a[kind]:
                self.wide[kind][:, :rank].copy_(factors.a[kind])
                if kind in self.a and self._narrow:
                    a = factors.a[kind]
                    a = a * self._narrow.channels[:, None] if kind == "down" else a
                    new_a = quantized(a, self._narrow.dtype)
                    for kept, new in zip(self.a[kind], new_a, strict=True):
                        kept[:, :rank].copy_(new)
                self._from[kind] = factors.a[kind]
            self.b[kind][..., :rank].copy_(factors.b[kind])
        for kind, pairs in factors.krons.items():
            for own, given in zip(self.krons[kind], pairs, strict=True):
                for place, w in zip(own, given, strict=True):
                    place.copy_(w)

    def channels(self, kind: str, layer: int) -> Tensor | None:
        """Return what a layer's input `[in]` is divided by in 8 bits (see `Matrix`); None for ones."""
        return None if kind != "down" or self._narrow is None else self._narrow.channels[layer]

    def touches(self, *kinds: str) -> bool:
        return any(kind in self.b or kind in self.krons for kind in kinds)

    def matrix(self, kind: str, layer: int, x: Activation) -> Matrix:
        """Return a layer's A, in 8 bits where `x` is."""
        if x[1] is None:
            return Matrix(self.wide[kind][layer])
        values, step = self.a[kind]
        return Matrix(values[layer], step[layer])

    def added_keys(self, kind: str, condition: Tensor) -> Tensor:
        """Compute what a kind adds, in every layer, to `condition @ weight.T`: `[layers, l, out]` for `[l, H]`."""
        terms = [
            torch.stack([kron_product(condition, *layer) for layer in zip(w1, w2, strict=True)])
            for w1, w2 in self.krons.get(kind, ())
        ]
        if kind in self.b:
            a, b = self.wide[kind], self.b[kind]
            low = functional.linear(condition, a.flatten(0, 1)).unflatten(1, a.shape[:2]).transpose(0, 1)
            terms.insert(0, torch.bmm(low, b.transpose(1, 2)))
        return sum(terms[1:], terms[0])


def shape_of(factors: Factors) -> Hashable:
    """Return what must stay the same for factors to replace others at their addresses."""
    krons = tuple((kind, tuple((w1.shape, w2.shape) for w1, w2 in pairs)) for kind, pairs in factors.krons.items())
    return factors.rank, factors.used, krons


class Adapters:
    """The adapters of some rows. `resident` acts while `on`, and is kept while off.

    Args:
        narrow: as `Resident` takes it.
    """

    def __init__(self, narrow: EightBits | None) -> None:
        self.narrow, self.on = narrow, False
        self.resident: Resident | None = None

    @property
    def active(self) -> Resident | None:
        return self.resident if self.on else None

    def put(self, factors: Factors | None) -> bool:
        """Replace the factors; returns true where a condition's keys or values change by it."""
        before = self.active is not None and self.active.touches(*CONDITION_KINDS)
        self.on = factors is not None and not factors.silent
        if factors is not None and self.on:
            if self.resident is not None and self.resident.shape == shape_of(factors):
                self.resident.load(factors)
            else:
                self.resident = Resident(factors, self.narrow)
        return before or (self.active is not None and self.active.touches(*CONDITION_KINDS))
