"""The decoder's three attentions in one Triton kernel: full, banded, and to a condition of its own length.

B batch rows, N queries, L keys, D head width, G query heads to each key head; a program takes the queries of one key
head, so that keys are read once for G heads. It reads nothing of another batch row.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import triton
import triton.language as tl

from .kernels import FP8_MAX, SMALLEST

LOW = tl.constexpr(-1e30)  # a score that is not attended; finite, so that a block of them makes no NaN
FAR = tl.constexpr(1 << 30)  # the place of a key that is not there


@triton.jit(do_not_specialize=["count", "peak", "n_queries", "n_keys", "peak_batch"])
def attention_kernel(
    q,  # [B, N, heads, D], with the strides of its batch row and token
    k,  # [B, L, kv_heads, D]
    v,
    out,  # [B, N, heads, D] contiguous, or float8 with `out_scale` [B, N] float32
    q_weight,  # [D]
    cos,  # [N, D / 2] float32
    sin,
    count,  # [B] int32: keys of each row
    peak,  # [B] float32, `peak_batch` apart: largest magnitude of the values
    out_scale,
    n_queries,
    n_keys,
    heads,
    q_batch,
    q_token,
    k_batch,
    k_token,
    peak_batch,
    eps,
    sm_scale,  # with log2(e)
    G: tl.constexpr,
    D: tl.constexpr,
    WINDOW: tl.constexpr,  # 0 for none
    ROTARY: tl.constexpr,
    COUNTED: tl.constexpr,
    FP8: tl.constexpr,
    EXACT: tl.constexpr,  # float32 products
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """Apply RMSNorm and rotary positions to the queries, then attend."""
    kv, b = tl.program_id(1), tl.program_id(2).to(tl.int64)
    first = tl.program_id(0) * (BM // G)
    r = tl.arange(0, BM)
    token, head = first + r % (BM // G), kv * G + r // (BM // G)
    d, half = tl.arange(0, D), tl.arange(0, D // 2)
    live = (token < n_queries)[:, None]
    at = q + b * q_batch + token[:, None] * q_token + head[:, None] * D + half[None, :]
    q1 = tl.load(at, mask=live, other=0.0).to(tl.float32)
    q2 = tl.load(at + D // 2, mask=live, other=0.0).to(tl.float32)
    norm = (tl.rsqrt((tl.sum(q1 * q1, 1) + tl.sum(q2 * q2, 1)) / D + eps) * sm_scale)[:, None]
    q1 *= norm * tl.load(q_weight + half).to(tl.float32)[None, :]
    q2 *= norm * tl.load(q_weight + D // 2 + half).to(tl.float32)[None, :]
    if ROTARY:
        angle = token[:, None] * (D // 2) + half[None, :]
        turn, lift = tl.load(cos + angle, mask=live, other=0.0), tl.load(sin + angle, mask=live, other=0.0)
        q1, q2 = q1 * turn - q2 * lift, q2 * turn + q1 * lift
    query = tl.join(q1, q2).permute(0, 2, 1).reshape(BM, D).to(q.dtype.element_ty)
    low, high = 0, n_keys
    if WINDOW:
        low = tl.maximum(first - WINDOW, 0) // BN * BN
        high = tl.minimum(first + BM // G + WINDOW, n_keys)
    if COUNTED:
        high = tl.load(count + b)
    top = tl.full([BM], LOW, tl.float32)
    total = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, D], tl.float32)
    for j in range(low, high, BN):
        col = j + tl.arange(0, BN)
        place = b * k_batch + col[:, None] * k_token + kv * D + d[None, :]
        keys = tl.load(k + place, mask=(col < high)[:, None], other=0.0)
        if EXACT:
            s = tl.dot(query, tl.trans(keys), input_precision="ieee")
        else:
            s = tl.dot(query, tl.trans(keys))
        if WINDOW:
            away = token[:, None] - tl.where(col < high, col, FAR)[None, :] + WINDOW
            s = tl.where(away.to(tl.uint32) <= 2 * WINDOW, s, LOW)
        else:
            s += tl.where(col < high, 0.0, LOW)[None, :]
        new = tl.maximum(top, tl.max(s, 1))
        fade = tl.exp2(top - new)
        p = tl.exp2(s - new[:, None])
        total = total * fade + tl.sum(p, 1)
        acc *= fade[:, None]
        values = tl.load(v + place, mask=(col < high)[:, None], other=0.0)
        if EXACT:
            acc = tl.dot(p, values, acc, input_precision="ieee")
        else:
            acc = tl.dot(p.to(values.dtype), values, acc)
        top = new
    acc /= total[:, None]
    row = b * n_queries + token
    if FP8:  # an average of values is no larger than the largest of them: one scale for all heads, no second pass
        step = tl.maximum(tl.load(peak + b * peak_batch), SMALLEST) / FP8_MAX
        if kv == 0:
            tl.store(out_scale + row, tl.zeros([BM], tl.float32) + step, mask=(token < n_queries) & (head == 0))
        acc /= step
    tl.store(out + (row[:, None] * heads + head[:, None]) * D + d[None, :], acc.to(out.dtype.element_ty), mask=live)
