"""Low-rank factors of adapters: one stacked pair for each kind of linear layer of an engine.

r is the rank of all adapters together, rounded up to a bucket; a layer's output gains `(x A^T) B^T`. A LoKr adds the
Kronecker product of two matrices, which is never expanded: see `kron_product`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError

# kind of layer: its place in a decoder layer, by the names of diffusers
PLACES = {
    "self_q": "self_attn.to_q",
    "self_k": "self_attn.to_k",
    "self_v": "self_attn.to_v",
    "self_o": "self_attn.to_out.0",
    "cross_q": "cross_attn.to_q",
    "cross_k": "cross_attn.to_k",
    "cross_v": "cross_attn.to_v",
    "cross_o": "cross_attn.to_out.0",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
KINDS = tuple(PLACES)
BUCKETS = (8, 32, 128)  # ranks that engines are built for; 1 stands for no adapter


@dataclass(frozen=True)
class Targets:
    """The linear layers of a decoder that an adapter may change.

    Attributes:
        layers: number of decoder layers.
        kinds: width in and width out of each kind, in the order of `KINDS`.
    """

    layers: int
    kinds: Mapping[str, tuple[int, int]]

    @classmethod
    def of(cls, transformer: nn.Module) -> Targets:
        """Read the targets of a `diffusers.AceStepTransformer1DModel`."""
        layers = transformer.get_submodule("layers")
        assert isinstance(layers, nn.ModuleList)
        weights = {kind: layers[0].get_parameter(f"{place}.weight") for kind, place in PLACES.items()}
        return cls(len(layers), {kind: (w.shape[1], w.shape[0]) for kind, w in weights.items()})

    @classmethod
    def from_record(cls, record: Mapping[str, Any] | None) -> Targets | None:
        """Read the `lora` entry of an export record; returns None for a graph without those inputs."""
        if record is None:
            return None
        return cls(int(record["layers"]), {kind: (int(a), int(b)) for kind, (a, b) in record["kinds"].items()})

    def as_record(self) -> dict[str, Any]:
        return {"layers": self.layers, "kinds": {kind: list(widths) for kind, widths in self.kinds.items()}}

    def parameter(self, layer: int, kind: str) -> str:
        """Name a layer's weight in the reference model."""
        return f"layers.{layer}.{PLACES[kind]}.weight"


@dataclass(frozen=True, eq=False)
class Factors:
    """Factors of all adapters together, on an engine's device.

    Made by `stack` and never written again, so sessions may share them and an engine may keep their addresses.

    Attributes:
        targets: the layers they fit.
        rank: r; 1 with no adapter, else one of `BUCKETS`.
        a: `[layers, r, in]` of each kind.
        b: `[layers, out, r]` of each kind, multiplied by strength and alpha.
        used: kinds that a pair of factors changes; the others are zeros.
        krons: by kind, one a LoKr: W1 `[layers, p, q]`, with strength and scale, and W2 `[layers, m, n]`.
        error: the largest relative error of a LoKr that was cut down to low-rank factors; 0 where none was.
        silent: true where they change nothing: no adapter, or only strengths of 0.
        digests, strengths, names: of the adapters, in their order.
        ready: event after the copies that made them.
    """

    targets: Targets
    rank: int
    a: Mapping[str, Tensor]
    b: Mapping[str, Tensor]
    used: frozenset[str]
    silent: bool
    digests: tuple[str, ...]
    strengths: tuple[float, ...]
    names: tuple[str, ...]
    ready: torch.cuda.Event | None
    krons: Mapping[str, tuple[tuple[Tensor, Tensor], ...]] = field(default_factory=dict)
    error: float = 0.0

    @property
    def dtype(self) -> torch.dtype:
        return next(iter(self.a.values())).dtype

    @property
    def device(self) -> torch.device:
        return next(iter(self.a.values())).device

    def inputs(self) -> dict[str, Tensor]:
        """Return the factors by the input names of an exported graph: `lora_self_q_a`, `lora_self_q_b`, ..."""
        sides = {"a": self.a, "b": self.b}
        return {f"lora_{kind}_{side}": given[kind] for kind in self.targets.kinds for side, given in sides.items()}

    def tensors(self) -> list[Tensor]:
        """List every tensor that a lane will read."""
        return [
            *self.a.values(),
            *self.b.values(),
            *(w for pairs in self.krons.values() for pair in pairs for w in pair),
        ]

    def check(
        self,
        targets: Targets | None,
        dtype: torch.dtype,
        device: torch.device,
        most: int = BUCKETS[-1],
        krons: bool = True,
    ) -> None:
        """Raise `InputError` unless an engine with these targets, dtype, device and largest rank (`most`) can take
        them; `krons` tells whether it takes a LoKr as it is.
        """
        targets = required(targets)
        if (self.targets, self.dtype, self.device) != (targets, dtype, device):
            raise InputError(
                f"the adapters' factors are {self.dtype} on {self.device} for {self.targets.layers} layers",
                f"the engine takes {dtype} on {device} for {targets.layers} layers of its own widths",
                "stack the adapters for this engine",
            )
        if self.krons and not krons:
            raise InputError(
                "an adapter is a LoKr as it is",
                "the engine takes low-rank factors only",
                "give the adapters again, for this engine",
            )
        if self.rank > most:
            raise InputError(
                f"the adapters have rank {self.rank} together, padded",
                f"the engine takes at most {most}",
                "use fewer adapters or smaller ones, or build an engine for more",
            )


def kron_product(x: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
    """Compute `x (W1 (x) W2)^T` for `[..., in]`, without the `[out, in]` product: `[..., out]`.

    With x as `[..., q, n]` it is `W1 X W2^T`: in * m + out * q multiplications a row, where the product takes in * out.

    Args:
        w1, w2: `[p, q]` and `[m, n]`; in is q * n and out is p * m.
    """
    inner = nn.functional.linear(x.unflatten(-1, (w1.shape[1], w2.shape[1])), w2)  # [..., q, m]
    return nn.functional.linear(inner.transpose(-1, -2), w1).transpose(-1, -2).flatten(-2)


def required(targets: Targets | None) -> Targets:
    """Return an engine's targets; raises `InputError` where it takes no adapters."""
    if targets is None:
        raise InputError(
            "adapters were given to an engine that takes none",
            "only an engine that was made for them has a place for their factors",
            "build or choose the engine with LoRA inputs",
        )
    return targets


def bucket(rank: int) -> int:
    """Round a rank up to the bucket that factors are padded to; 0 gives 1.

    Raises:
        InputError: above the largest bucket.
    """
    if rank > BUCKETS[-1]:
        raise InputError(
            f"the adapters have rank {rank} together",
            f"allowed is at most {BUCKETS[-1]}",
            "use fewer adapters, or ones of a smaller rank",
        )
    return next(size for size in BUCKETS if rank <= size) if rank else 1
