"""The decoder's fused operations in plain PyTorch: the same results as the kernels, on any device.

B batch rows, N tokens, L keys, D head width, M = B * N. An activation is its values `[..., K]` and, in float8, the
float32 step `[M]` of each token.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

Activation = tuple[Tensor, Tensor | None]
Tables = tuple[Tensor, Tensor]  # cosine and sine `[N, D / 2]` float32
FP8 = torch.float8_e4m3fn


def quantized(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize rows of the last axis to float8; returns the values and each row's step `[...]`: its largest becomes
    448.
    """
    wide = x.float()
    step = wide.abs().amax(-1).clamp_min(1e-12) / torch.finfo(FP8).max
    return (wide / step[..., None]).to(FP8), step


def norm(
    x: Tensor,
    weight: Tensor,
    eps: float,
    fp8: bool,
    added: Tensor | None = None,
    gate: Tensor | None = None,
    modulation: tuple[Tensor, Tensor] | None = None,
) -> Activation:
    """Compute `x += added * gate` in place, then `rmsnorm(x) * weight * (1 + scale) + shift`.

    Args:
        x: `[B, N, H]`.
        added: `[B, N, H]`.
        gate: `[B, H]`.
        modulation: shift and scale, `[B, H]` each.
    """
    if added is not None:
        x.copy_(x.float() + (added.float() if gate is None else added.float() * gate.float()[:, None]))
    y = _rms(x.float(), weight, eps)
    if modulation is not None:
        shift, scale = (m.float()[:, None] for m in modulation)
        y = y * (1 + scale) + shift
    return quantized(y) if fp8 else (y.to(x.dtype), None)


def keys(qkv: Tensor, weight: Tensor, tables: Tables, heads: int, eps: float, peak: bool) -> Tensor | None:
    """Apply RMSNorm to each head of the keys, then their rotary positions, in place.

    Args:
        qkv: `[B, N, heads + 2 * kv_heads, D]`.
        weight: `[D]`.
        peak: return the largest magnitude of each token's values, `[B, N]` float32.
    """
    k, v = qkv[:, :, heads:].chunk(2, 2)
    k.copy_(_turned(_rms(k.float(), weight, eps), tables))
    return v.float().abs().amax((2, 3)) if peak else None


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
        peak: `[B, L]` largest magnitude of each key's values, for a float8 result.
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
    return (out, None) if peak is None else quantized(out)


def silu(h: Tensor, fp8: bool) -> Activation:
    """Compute `silu(gate) * up` of `h = [gate, up]`, `[..., 2 * I]`."""
    gate, up = h.float().chunk(2, -1)
    y = functional.silu(gate) * up
    return quantized(y) if fp8 else (y.to(h.dtype), None)


def swiglu(x: Tensor, weight: Tensor) -> Tensor | None:
    """Return None: only a device kernel computes product and gate in one."""
    return None


def scaled(x: Activation, weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Multiply float8 rows `[..., K]` by a float8 weight `[out, K]`, whose rows have steps `[out]`."""
    values, step = x
    assert step is not None
    return functional.linear(values.float() * step[..., None], weight.float() * scale[:, None]).to(dtype)


def _rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Compute RMSNorm over the last axis, in float32."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight.float()


def _turned(x: Tensor, tables: Tables) -> Tensor:
    """Apply rotary positions to `[B, N, heads, D]`: the first half of a head rotates with the second."""
    cos, sin = (table[:, None] for table in tables)
    low, high = x.chunk(2, -1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin], -1)
