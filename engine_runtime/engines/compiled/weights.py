"""The reference transformer's weights as a few large matrices that share its memory.

Matrices of one product are laid side by side, and the reference's parameters become views of them, so both decoders run
on one copy. Products in 8 bits add their own beside it. A host that manages memory may move the parameters and so end
the sharing; `lay_out` restores it, and costs nothing where it holds. Every engine on such a model calls it before it
plays, so that no engine moves a parameter that another's captured pass reads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AceStepTransformer1DModel
from torch import Tensor, nn

from ...device.gpu import finish
from ...errors import EngineError
from ..factors import PLACES
from .plain import FP8, INT8, quantized

NAMES = {FP8: "float8", INT8: "int8"}
ROUNDED = (1 + 2.0**-4) ** 2  # most by which float8 makes the product of two numbers larger
ALIGNED = 256  # numbers to which each matrix is aligned: more than any product of matrices asks for
FLATTEST = 2.0**12  # most that a channel is divided by or multiplied with


@dataclass(frozen=True)
class Matrix:
    """A weight `[out, in]`; in 8 bits with the step `[out]` of each row.

    Attributes:
        channel: `[in]` float32, powers of two: what is multiplied is divided by them, and `values` are the weight times
            them. None for ones.
    """

    values: Tensor
    scale: Tensor | None = None
    channel: Tensor | None = None

    @property
    def narrow(self) -> torch.dtype | None:
        """Return the dtype of 8 bits that its input has to have; None where the model's own is taken."""
        return None if self.scale is None else self.values.dtype


@dataclass(frozen=True)
class Gated:
    """Holds what `silu(x @ gate.T) * (x @ up.T)` needs to be rounded to float8 before its row is complete.

    Attributes:
        scale: `[2 * I]` float32, the steps of the gate's rows, and of the other's divided by `down`'s channels.
        bound: `[1]` float32: the result, divided by the channels, is at most this times the square of x's length.
    """

    scale: Tensor
    bound: Tensor


Product = tuple[int, str]  # layer, and one of `PRODUCTS`


@dataclass(frozen=True)
class Narrow:
    """The choice of the products that are computed in 8 bits: all but those named.

    Attributes:
        dtype: one of `NAMES`.
        wide: products that stay in the model's dtype.
    """

    dtype: torch.dtype = FP8
    wide: frozenset[Product] = frozenset()

    @property
    def digest(self) -> str:
        """Return a hash of the choice; empty where all products are in 8 bits."""
        return hashlib.sha256(repr(sorted(self.wide)).encode()).hexdigest()[:16] if self.wide else ""

    def summary(self) -> str:
        """Name the products that are not in 8 bits; empty where there is none."""
        layers = {name: [layer for layer, one in sorted(self.wide) if one == name] for name in PRODUCTS}
        found = {name: _spans(them) for name, them in layers.items() if them}
        return ", ".join(f"{name} of layers {them} not in {NAMES[self.dtype]}" for name, them in found.items())


@dataclass(frozen=True)
class Layer:
    """One decoder layer. `window` is 0 for whole attention; norms are weights `[H]` or `[D]`."""

    window: int
    self_norm: Tensor
    qkv: Matrix
    qk_norms: tuple[Tensor, Tensor]
    self_o: Matrix
    cross_norm: Tensor
    cross_q: Matrix
    cross_q_norm: Tensor
    cross_o: Matrix
    mlp_norm: Tensor
    gate_up: Matrix
    down: Matrix
    gated: Gated | None  # where both are in float8


@dataclass(frozen=True)
class Weights:
    """All tensors that a pass reads.

    Attributes:
        tables: `[layers, 6, H]` float32, the constant part of the modulation.
        last: `[2, H]`, the same of the last norm.
        proj_in: `[H, patch * 192]` and `[H]`.
        proj_out: `[patch * 64, H]` and `[patch * 64]`.
        condition: `[H, width]` and `[H]`.
        cross_kv: `[layers * 2 * kv_heads * D, H]`, keys before values in each layer.
        k_norms: `[layers, D]`.
    """

    layers: tuple[Layer, ...]
    tables: Tensor
    last: Tensor
    last_norm: Tensor
    proj_in: tuple[Tensor, Tensor]
    proj_out: tuple[Tensor, Tensor]
    condition: tuple[Tensor, Tensor]
    cross_kv: Tensor
    k_norms: Tensor

    @property
    def channels(self) -> Tensor:
        """Return the channels of every layer's `down`, `[layers, I]`."""
        ones = self.layers[0].down.values.new_ones(self.layers[0].down.values.shape[1], dtype=torch.float32)
        return torch.stack([ones if (own := layer.down.channel) is None else own for layer in self.layers])


PRODUCTS: dict[str, tuple[str, ...]] = {  # of a layer, with the kinds that are stacked in its matrix
    "qkv": ("self_q", "self_k", "self_v"),
    "self_o": ("self_o",),
    "cross_q": ("cross_q",),
    "cross_o": ("cross_o",),
    "gate_up": ("gate", "up"),
    "down": ("down",),
}


def lay_out(model: AceStepTransformer1DModel) -> tuple[list[dict[str, Tensor]], Tensor]:
    """Lay out the matrices side by side; returns those of each layer by product, and that of all layers' condition keys
    and values. Waits for the current stream where a parameter is moved.

    Raises:
        EngineError: for matrices of several dtypes, which would be rounded, or on several devices.
    """
    count, before = range(len(model.layers)), places(model)
    weights = [_owner(model, i, kind).weight for i in count for kind in PLACES]
    kinds = sorted({f"{weight.dtype} on {weight.device}" for weight in weights})
    if len(kinds) > 1:
        raise EngineError(
            f"the decoder's weights are {' and '.join(kinds)}",
            "an engine takes them in one dtype, on one device",
            "load the model whole, in one precision",
        )
    with torch.no_grad():
        products = [
            _side_by_side({name: [_owner(model, i, kind) for kind in kinds] for name, kinds in PRODUCTS.items()})
            for i in count
        ]
        whole = {"cross_kv": [_owner(model, i, kind) for i in count for kind in ("cross_k", "cross_v")]}
        cross_kv = _side_by_side(whole)["cross_kv"]
    if cross_kv.is_cuda and places(model) != before:
        finish(cross_kv.device)
        torch.cuda.empty_cache()  # of what was moved: nothing else fits into it
    return products, cross_kv


def places(model: nn.Module) -> list[int]:
    """List the address of every parameter."""
    return [parameter.data_ptr() for parameter in model.parameters()]


def bind(model: AceStepTransformer1DModel, narrow: Narrow | None = None) -> Weights:
    """Lay out the model's matrices and read the other weights. Call it without gradients."""
    products, cross_kv = lay_out(model)
    layers = tuple(_layer(model, i, matrices, narrow) for i, matrices in enumerate(products))
    temb, modulation = time_embedding(model.time_embed_r, torch.zeros(1, device=cross_kv.device))
    conv_in, conv_out = model.proj_in_conv, model.proj_out_conv
    out = conv_out.weight.detach().permute(2, 1, 0).flatten(0, 1).contiguous()
    return Weights(
        layers,
        torch.cat([layer.scale_shift_table.detach().float() for layer in model.layers]) + modulation.float(),
        model.scale_shift_table.detach().float()[0] + temb.float(),
        model.norm_out.weight.detach(),
        (conv_in.weight.detach().transpose(1, 2).flatten(1).contiguous(), conv_in.bias.detach()),
        (out, conv_out.bias.detach().repeat(model.patch_size)),
        (model.condition_embedder.weight.detach(), model.condition_embedder.bias.detach()),
        cross_kv,
        torch.stack([layer.cross_attn.norm_k.weight.detach() for layer in model.layers]),
    )


def _layer(model: AceStepTransformer1DModel, i: int, matrices: dict[str, Tensor], narrow: Narrow | None) -> Layer:
    """Read a layer, with its matrices as `lay_out` returns them."""
    layer = model.layers[i]
    own, cross = layer.self_attn, layer.cross_attn
    dtypes = {name: None if narrow is None or (i, name) in narrow.wide else narrow.dtype for name in PRODUCTS}
    made = {name: _matrix(matrices[name], dtypes[name]) for name in PRODUCTS if name != "down"}
    return Layer(
        model.config.sliding_window if model.layer_types[i] == "sliding_attention" else 0,
        layer.self_attn_norm.weight.detach(),
        made["qkv"],
        (own.norm_q.weight.detach(), own.norm_k.weight.detach()),
        made["self_o"],
        layer.cross_attn_norm.weight.detach(),
        made["cross_q"],
        cross.norm_q.weight.detach(),
        made["cross_o"],
        layer.mlp_norm.weight.detach(),
        made["gate_up"],
        *_down(matrices["down"], matrices["gate_up"], made["gate_up"], dtypes["down"]),
    )


def _matrix(whole: Tensor, dtype: torch.dtype | None) -> Matrix:
    return Matrix(whole) if dtype is None else Matrix(*quantized(whole, dtype))


def _down(whole: Tensor, before: Tensor, gate_up: Matrix, dtype: torch.dtype | None) -> tuple[Matrix, Gated | None]:
    """Return `down`, and what it needs besides where `gate_up`, whose weights are `before`, is in float8 too."""
    if dtype is None:
        return Matrix(whole), None
    even = largest = _largest(before)
    if dtype == INT8:  # whose steps are even, so that a large column would harm as a large channel does
        even = (largest / torch.linalg.vector_norm(whole, dim=0, dtype=torch.float32).clamp_min(1e-30)).sqrt()
    channel = _channels(even)
    down = Matrix(*quantized(whole * channel, dtype), channel)
    if gate_up.scale is None or dtype != FP8:
        return down, None
    gate, up = gate_up.scale.chunk(2)
    bound = ROUNDED * (largest / channel).amax(0, keepdim=True)
    return down, Gated(torch.cat([gate, up / channel]), bound)


def _largest(gate_up: Tensor) -> Tensor:
    """Return, for x of length 1, the largest `(x @ gate.T) * (x @ up.T)`, `[I]` float32.

    That of two vectors a and b is `(|a| |b| + a b) / 2`, and `|silu(g) u|` is below `|g u|`.
    """
    gate, up = gate_up.chunk(2)
    lengths = torch.linalg.vector_norm(gate_up, dim=1, dtype=torch.float32).unflatten(0, (2, -1)).prod(0)
    return (lengths + (gate.float() * up.float()).sum(1).abs()) / 2


def _channels(largest: Tensor) -> Tensor:
    """Return the powers of two that make all channels about as large: a massive one leaves the others no room below."""
    ratio = largest / largest.median().clamp_min(1e-30)
    return torch.exp2(torch.round(torch.log2(ratio.clamp(1 / FLATTEST, FLATTEST))))


def time_embedding(embed: Any, t: Tensor) -> tuple[Tensor, Tensor]:
    """Compute one of the two time embeddings: `[B, H]` and the modulation `[B, 6, H]`; the sinusoid is float32."""
    wave = embed.time_sinusoid(t.float() * embed.scale).to(embed.linear_1.weight.dtype)
    temb = embed.linear_2(embed.act1(embed.linear_1(wave)))
    return temb, embed.time_proj(embed.act2(temb)).unflatten(1, (6, -1))


def _spans(numbers: Sequence[int]) -> str:
    """Write sorted numbers as spans: 1, 2, 3, 7 as `1-3, 7`."""
    parts: list[str] = []
    for i, number in enumerate(numbers):
        if not i or number != numbers[i - 1] + 1:
            first = number
        if i + 1 == len(numbers) or numbers[i + 1] != number + 1:
            parts.append(str(number) if number == first else f"{first}-{number}")
    return ", ".join(parts)


def _owner(model: AceStepTransformer1DModel, i: int, kind: str) -> Any:
    return model.layers[i].get_submodule(PLACES[kind])


def _side_by_side(groups: dict[str, list[Any]]) -> dict[str, Tensor]:
    """Join the weights `[out_i, in]` of each group of modules into one matrix, and make them views of its rows.

    Where one group is not joined yet, all are moved into memory that is taken at once: matrices that stay between
    those that go would keep PyTorch from using the room for anything else, 0.8 GB of it in the 2B size.
    """
    weights = {name: [owner.weight.detach() for owner in owners] for name, owners in groups.items()}
    found = {name: whole for name, parts in weights.items() if (whole := _joined(parts)) is not None}
    if len(found) == len(groups):
        return found
    sizes = {name: sum(part.numel() for part in parts) for name, parts in weights.items()}
    rooms = {name: -(-size // ALIGNED) * ALIGNED for name, size in sizes.items()}
    memory = next(iter(weights.values()))[0].new_empty(sum(rooms.values())).split(list(rooms.values()))
    for (name, parts), room in zip(weights.items(), memory, strict=True):
        found[name] = whole = torch.cat(parts, out=room[: sizes[name]].view(-1, parts[0].shape[1]))
        for owner, own in zip(groups[name], whole.split([len(part) for part in parts]), strict=True):
            owner._parameters["weight"] = nn.Parameter(own, requires_grad=False)
    return found


def _joined(parts: Sequence[Tensor]) -> Tensor | None:
    """Return weights `[out_i, in]` as one matrix, where they lie side by side; else None."""
    first, rows, at = parts[0], sum(len(part) for part in parts), parts[0].data_ptr()
    for part in parts:
        if part.data_ptr() != at or not part.is_contiguous():
            return None
        at += part.nbytes
    if first.storage_offset() * first.element_size() + rows * first[0].nbytes > first.untyped_storage().nbytes():
        return None
    return first.as_strided((rows, first.shape[1]), first.stride())
