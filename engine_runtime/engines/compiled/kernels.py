"""Pointwise Triton kernels: each reads and writes a row of the decoder's state once.

B batch rows of N tokens, H hidden width, D head width. Arithmetic is float32, rounded once where a tensor is written. A
program reads nothing of another batch row, and its result does not depend on where it runs. Arguments that change with
length, row or layer are not specialised: Triton would recompile where 16 divides them, while music plays.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import triton
import triton.language as tl

FP8_MAX = tl.constexpr(448.0)  # of float8_e4m3fn
SMALLEST = tl.constexpr(1e-12)  # divisor of a row of zeros
ROUND = tl.constexpr(1.5 * 2**23)  # float32 has no fractions there: what is added to it becomes whole, halves even


@triton.jit
def whole(v, out):
    """Round to whole numbers where `out` holds integers, which a store would cut off."""
    if out.dtype.element_ty == tl.int8:
        v = (v + ROUND) - ROUND
    return v


@triton.jit(do_not_specialize=["n_tokens", "bound"])
def norm_kernel(
    x,  # [B, N, H], changed in place where something is added
    added,  # [B, N, H]
    gate,  # [B, H], rows `gate_stride` apart
    weight,  # [H]
    shift,  # [B, H], rows `stride` apart
    scale,
    out,  # [B, N, H], or 8 bits with `out_scale` [B, N] float32
    out_scale,
    bound,  # [1] float32: a gated result is no larger than this times the square of its row's length
    limit,  # [B, N] float32: the gated result's step
    n_tokens,
    width,
    gate_stride,
    stride,
    eps,
    ADD: tl.constexpr,
    GATED: tl.constexpr,
    MODULATED: tl.constexpr,
    MOST: tl.constexpr,  # largest number of 8 bits, 0 for none
    LIMIT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Compute `x += added * gate`, then `out = rmsnorm(x) * weight * (1 + scale) + shift`."""
    b = tl.program_id(1)
    tokens = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, BLOCK)
    inside = cols < width
    live = (tokens < n_tokens)[:, None] & inside[None, :]
    row = b.to(tl.int64) * n_tokens + tokens
    at = row[:, None] * width + cols[None, :]
    v = tl.load(x + at, mask=live, other=0.0).to(tl.float32)
    if ADD:
        plus = tl.load(added + at, mask=live, other=0.0).to(tl.float32)
        if GATED:
            plus *= tl.load(gate + b * gate_stride + cols, mask=inside, other=0.0).to(tl.float32)[None, :]
        total = (v + plus).to(x.dtype.element_ty)
        tl.store(x + at, total, mask=live)
        v = total.to(tl.float32)
    v *= tl.rsqrt(tl.sum(v * v, 1) / width + eps)[:, None]
    v *= tl.load(weight + cols, mask=inside, other=0.0).to(tl.float32)[None, :]
    if MODULATED:
        v *= 1.0 + tl.load(scale + b * stride + cols, mask=inside, other=0.0).to(tl.float32)[None, :]
        v += tl.load(shift + b * stride + cols, mask=inside, other=0.0).to(tl.float32)[None, :]
    if MOST:
        step = tl.maximum(tl.max(tl.abs(v), 1), SMALLEST) / MOST
        tl.store(out_scale + row, step, mask=tokens < n_tokens)
        v = whole(v / step[:, None], out)
    rounded = v.to(out.dtype.element_ty)
    tl.store(out + at, rounded, mask=live)
    if LIMIT:
        w = rounded.to(tl.float32) * step[:, None]
        most = tl.maximum(tl.sum(w * w, 1) * tl.load(bound), SMALLEST) / FP8_MAX
        tl.store(limit + row, most, mask=tokens < n_tokens)


@triton.jit(do_not_specialize=["n_tokens", "peak"])
def keys_kernel(
    qkv,  # [B, N, (heads + 2 * kv_heads) * D], keys changed in place
    weight,  # [D]
    cos,  # [N, D / 2] float32
    sin,
    peak,  # [B] float32: largest magnitude of a row's values, 0 before
    n_tokens,
    heads,
    kv_heads,
    eps,
    D: tl.constexpr,
    KV: tl.constexpr,  # kv_heads, rounded up to a power of two
    PEAK: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Apply RMSNorm to each head of the keys, then rotary positions (halves, not pairs)."""
    b, head = tl.program_id(2), tl.program_id(1)
    tokens = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = (tokens < n_tokens)[:, None]
    row = b.to(tl.int64) * n_tokens + tokens
    start = row * ((heads + 2 * kv_heads) * D)
    half = tl.arange(0, D // 2)
    if head < kv_heads:
        at = qkv + start[:, None] + (heads + head) * D + half[None, :]
        low = tl.load(at, mask=live, other=0.0).to(tl.float32)
        high = tl.load(at + D // 2, mask=live, other=0.0).to(tl.float32)
        r = tl.rsqrt((tl.sum(low * low, 1) + tl.sum(high * high, 1)) / D + eps)[:, None]
        low *= r * tl.load(weight + half).to(tl.float32)[None, :]
        high *= r * tl.load(weight + D // 2 + half).to(tl.float32)[None, :]
        angle = tokens[:, None] * (D // 2) + half[None, :]
        c, s = tl.load(cos + angle, mask=live, other=0.0), tl.load(sin + angle, mask=live, other=0.0)
        tl.store(at, (low * c - high * s).to(qkv.dtype.element_ty), mask=live)
        tl.store(at + D // 2, (high * c + low * s).to(qkv.dtype.element_ty), mask=live)
    elif PEAK:
        cols = tl.arange(0, KV * D)
        values = qkv + start[:, None] + (heads + kv_heads) * D + cols[None, :]
        v = tl.load(values, mask=live & (cols < kv_heads * D)[None, :], other=0.0).to(tl.float32)
        tl.atomic_max(peak + b, tl.max(tl.max(tl.abs(v), 1), 0), sem="relaxed")  # in any order the same


@triton.jit
def silu_kernel(
    h,  # [M, 2 * width]: gate, then up
    out,  # [M, width], or 8 bits with `out_scale` [M] float32
    out_scale,
    channel,  # [width] float32
    width,
    MOST: tl.constexpr,  # largest number of 8 bits, 0 for none
    BLOCK: tl.constexpr,
):
    """Compute `out = silu(gate) * up`, in 8 bits divided by `channel`."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    live = cols < width
    gate = tl.load(h + row * 2 * width + cols, mask=live, other=0.0).to(tl.float32)
    up = tl.load(h + row * 2 * width + width + cols, mask=live, other=0.0).to(tl.float32)
    v = gate * tl.sigmoid(gate) * up
    if MOST:  # one program holds the whole row
        v /= tl.load(channel + cols, mask=live, other=1.0)
        step = tl.maximum(tl.max(tl.abs(v), 0), SMALLEST) / MOST
        tl.store(out_scale + row, step)
        v = whole(v / step, out)
    tl.store(out + row * width + cols, v.to(out.dtype.element_ty), mask=live)


@triton.jit
def condition_kernel(
    both,  # [L, layers, 2, kv_heads * D] contiguous: keys before values
    weight,  # [layers, D]
    out,  # [layers, 2, L, kv_heads * D], with the strides of its layer and half
    width,
    out_layer,
    out_half,
    eps,
    HEADS: tl.constexpr,  # kv_heads, rounded up to a power of two
    D: tl.constexpr,
):
    """Apply RMSNorm to each head of the keys, and write keys and values to their places in a row of the batch."""
    token, layer, half = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    at = tl.arange(0, HEADS)[:, None] * D + tl.arange(0, D)[None, :]
    live = at < width
    v = tl.load(
        both + ((token * tl.num_programs(1) + layer) * 2 + half).to(tl.int64) * width + at, mask=live, other=0.0
    )
    if half == 0:
        wide = v.to(tl.float32)
        wide *= tl.rsqrt(tl.sum(wide * wide, 1) / D + eps)[:, None]
        v = (wide * tl.load(weight + layer * D + tl.arange(0, D)).to(tl.float32)[None, :]).to(both.dtype.element_ty)
    place = out + layer.to(tl.int64) * out_layer + half * out_half + token * width
    tl.store(place + at, v, mask=live)
