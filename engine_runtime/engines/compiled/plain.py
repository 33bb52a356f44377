"""The decoder's fused operations in plain PyTorch: the same results as the kernels, on any device.

B batch rows, N tokens, L keys, D head width, M = B * N. An activation is its values `[..., K]` and, in 8 bits, the
float32 step `[M]` of each token. `narrow` is the dtype of 8 bits that a result gets; None: the input's.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

Activation = tuple[Tensor, Tensor | None]
Tables = tuple[Tensor, Tensor]  # cosine and sine `[N, D / 2]` float32
FP8, INT8 = torch.float8_e4m3fn, torch.int8
NARROW = {"fp8": FP8, "int8": INT8}  # dtype of the products of engines in 8 bits, by their kind
LARGEST = {FP8: 448, INT8: 127}  # -128 is left out, so that signs are alike


def quantized(x: Tensor, narrow: torch.dtype) -> tuple[Tensor, Tensor]:
    """Quantize rows of the last axis to 8 bits; returns the values and each row's step `[...]`: the row's largest
    becomes the largest of the dtype.
    """
    wide = x.float()
    step = wide.abs().amax(-1).clamp_min(1e-12) / LARGEST[narrow]
    scaled = wide / step[..., None]
    return (scaled.round() if narrow == INT8 else scaled).to(narrow), step


def norm(
    x: Tensor,
    weight: Tensor,
    eps: float,
    narrow: torch.dtype | None,
    added: Tensor | None = None,
    gate: Tensor | None = None,
    modulation: tuple[Tensor, Tensor] | None = None,
    reach: tuple[Tensor, Tensor] | None = None,
) -> Activation:
    """Compute `x += added * gate` in place, then `rmsnorm(x) * weight * (1 + scale) + shift`.

    Args:
        x: `[B, N, H]`.
        added: `[B, N, H]`.
        gate: `[B, H]`.
        modulation: shift and scale, `[B, H]` each.
        reach: of a float8 result, the bound `[1]` of `Gated` and the steps `[B, N]` of its results, which are written.
    """
    if added is not None:
        x.copy_(x.float() + (added.float() if gate is None else added.float() * gate.float()[:, None]))
    y = _rms(x.float(), weight, eps)
    if modulation is not None:
        shift, scale = (m.float()[:, None] for m in modulation)
        y = y * (1 + scale) + shift
    if narrow is None:
        return y.to(x.dtype), None
    values, step = quantized(y, narrow)
    if reach is not None:
        bound, limit = reach
        square = (values.float() * step[..., None]).square().sum(-1)
        limit.copy_((square * bound).clamp_min(1e-12) / LARGEST[FP8])
    return values, step


def keys(qkv: Tensor, weight: Tensor, tables: Tables, heads: int, eps: float, peak: Tensor | None) -> None:
    """Apply RMSNorm to each head of the keys, then their rotary positions, in place.

    Args:
        qkv: `[B, N, heads + 2 * kv_heads, D]`.
        weight: `[D]`.
        peak: `[B]` float32, 0: becomes the largest magnitude of each row's values.
    """
    k, v = qkv[:, :, heads:].chunk(2, 2)
    k.copy_(_turned(_rms(k.float(), weight, eps), tables))
    if peak is not None:
        peak.copy_(v.float().abs().amax((1, 2, 3)))


def place(both: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
    """Apply RMSNorm to each head of a condition's keys; write keys and values to a row's place.

    Args:
        both: `[L, layers, 2, kv_heads * D]` contiguous, keys before values.
        weight: `[layers, D]`.
        out: written, `[layers, 2, L, kv_heads * D]`, contiguous in its last two axes.
    """
    out[:, 1].copy_(both[:, :, 1].transpose(0, 1))
    keys = both[:, :, 0].unflatten(-1, (-1, weight.shape[-1])).float()
    out[:, 0].copy_(_rms(keys, weight[None, :, None], eps).flatten(2).transpose(0, 1))


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weight: Tensor,
    eps: float,
    tables: Tables | None = None,
    window: int = 0,
    count: Tensor | None = None,
    peak: Tensor | None = None,
) -> Activation:
    """Apply RMSNorm and rotary positions to each head of the queries, then attend: `[B, N, heads * D]`.

    Args:
        q: `[B, N, heads, D]`.
        k, v: `[B, L, kv_heads, D]`.
        weight: `[D]` of the norm.
        tables: of the positions; None for none.
        window: keys up to this far to either side are attended; 0 attends all.
        count: `[B]` keys that each row has; None for all.
        peak: `[B]` largest magnitude of each row's values, for a float8 result, which is no larger.
    """
    wide = _rms(q.float(), weight, eps)
    q = (wide if tables is None else _turned(wide, tables)).to(q.dtype)
    rows, keys = (torch.arange(x.shape[1], device=q.device) for x in (q, k))
    seen = torch.ones(q.shape[0], 1, len(rows), len(keys), dtype=torch.bool, device=q.device)
    if window:
        seen &= (rows[:, None] - keys).abs() <= window
    if count is not None:
        seen &= (keys < count[:, None])[:, None, None]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True).transpose(1, 2).flatten(2)
    if peak is None:
        return out, None
    step = (peak.clamp_min(1e-12) / LARGEST[FP8])[:, None].expand(out.shape[:-1])
    return (out.float() / step[..., None]).to(FP8), step


def silu(h: Tensor, narrow: torch.dtype | None, channel: Tensor | None = None) -> Activation:
    """Compute `silu(gate) * up` of `h = [gate, up]`, `[..., 2 * I]`; in 8 bits, divided by `channel` `[I]`."""
    gate, up = h.float().chunk(2, -1)
    y = functional.silu(gate) * up
    if narrow is None:
        return y.to(h.dtype), None
    assert channel is not None
    return quantized(y / channel, narrow)


def swiglu(x: Tensor, weight: Tensor) -> Tensor | None:
    """Return None: only a device kernel computes product and gate in one."""
    return None


def gated(x: Activation, weight: Tensor, scale: Tensor, limit: Tensor) -> Activation | None:
    """Compute `silu(x @ gate.T) * (x @ up.T)` in float8.

    Args:
        weight: `[2 * I, K]` float8, gate before up.
        scale: `[2 * I]`, the steps of its rows.
        limit: `[...]`, the step of each row of the result.
    """
    y, _ = silu(scaled(x, weight, scale, torch.float32), None)
    return (y / limit[..., None]).to(FP8), limit


def added(out: Tensor, x: Activation, weight: Tensor, scale: Tensor, gate: Tensor | None) -> bool:
    """Add a product in 8 bits `[B, N, H]`, times `gate` `[B, H]`, to `out` in place; returns whether it did."""
    y = scaled(x, weight, scale, torch.float32)
    out.copy_(out.float() + (y if gate is None else y * gate.float()[:, None]))
    return True


def scaled(x: Activation, weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Multiply rows `[..., K]` of 8 bits by a weight `[out, K]` of the same dtype, whose rows have steps `[out]`."""
    values, step = x
    assert step is not None
    if values.dtype == INT8:  # the sums of integers are exact, in float64 as in 32 bits
        total = functional.linear(values.double(), weight.double()).float()
        return (total * step[..., None] * scale).to(dtype)
    return functional.linear(values.float() * step[..., None], weight.float() * scale[:, None]).to(dtype)


def _rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Compute RMSNorm over the last axis, in float32."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight.float()


def _turned(x: Tensor, tables: Tables) -> Tensor:
    """Apply rotary positions to `[B, N, heads, D]`: the first half of a head rotates with the second."""
    cos, sin = (table[:, None] for table in tables)
    low, high = x.chunk(2, -1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin], -1)
