"""The operations of `plain`, by the same names, as kernels. Import it only where Triton and CUDA are."""

from __future__ import annotations

import math

import torch
import triton
from torch import Tensor

from . import integer
from .attention import attention_kernel
from .hopper import gated as gated
from .hopper import swiglu as swiglu
from .integer import quantized as quantized
from .kernels import condition_kernel, keys_kernel, norm_kernel, silu_kernel
from .plain import FP8, INT8, LARGEST, Activation, Tables

# Measured on an H100 at the 2B size; a shape's blocks never change, so neither do its bits.
NORM, KEYS, SILU = (2, 8), (16, 4), (2048, 4)  # rows (or columns) of a program, and its warps


def _empty(like: Tensor, *shape: int, narrow: torch.dtype | None) -> Activation:
    """Allocate an activation; its step, where it has 8 bits, has all axes but the last."""
    if narrow is None:
        return like.new_empty(shape), None
    return like.new_empty(shape, dtype=narrow), like.new_empty(shape[:-1], dtype=torch.float32)


def _most(narrow: torch.dtype | None) -> int:
    return 0 if narrow is None else LARGEST[narrow]


def _stride(x: Tensor | None) -> int:
    return 0 if x is None else x.stride(0)


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
    b, n, width = x.shape
    out, step = _empty(x, b, n, width, narrow=narrow)
    (shift, scale), (bound, limit) = modulation or (None, None), reach or (None, None)
    rows, warps = NORM
    norm_kernel[(triton.cdiv(n, rows), b)](
        x, added, gate, weight, shift, scale, out, step, bound, limit, n, width, _stride(gate), _stride(shift), eps,
        ADD=added is not None, GATED=gate is not None, MODULATED=modulation is not None, MOST=_most(narrow),
        LIMIT=reach is not None, ROWS=rows, BLOCK=triton.next_power_of_2(width), num_warps=warps,
    )  # fmt: skip
    return out, step


def keys(qkv: Tensor, weight: Tensor, tables: Tables, heads: int, eps: float, peak: Tensor | None) -> None:
    b, n, all_heads, d = qkv.shape
    kv_heads, measured = (all_heads - heads) // 2, peak is not None
    rows, warps = KEYS
    keys_kernel[(triton.cdiv(n, rows), kv_heads + measured, b)](
        qkv, weight, *tables, peak, n, heads, kv_heads, eps,
        D=d, KV=triton.next_power_of_2(kv_heads), PEAK=measured, ROWS=rows, num_warps=warps,
    )  # fmt: skip


def place(both: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
    tokens, layers, _, width = both.shape
    d = weight.shape[-1]
    condition_kernel[(tokens, layers, 2)](
        both, weight, out, width, out.stride(0), out.stride(1), eps,
        HEADS=triton.next_power_of_2(width // d), D=d,
    )  # fmt: skip


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
    b, n, heads, d = q.shape
    n_keys, kv_heads = k.shape[1:3]
    out, step = _empty(q, b, n, heads * d, narrow=None if peak is None else FP8)
    g = heads // kv_heads
    bm, bn, warps, stages = _blocks(q, g, "cross" if count is not None else "band" if window else "whole")
    attention_kernel[(triton.cdiv(n, bm // g), kv_heads, b)](
        q, k, v, out, weight, *(tables or (None, None)), count, peak, step, n, n_keys, heads,
        q.stride(0), q.stride(1), k.stride(0), k.stride(1), _stride(peak), eps,
        math.log2(math.e) * d**-0.5,
        G=g, D=d, WINDOW=window, ROTARY=tables is not None, COUNTED=count is not None, FP8=peak is not None,
        EXACT=q.dtype == torch.float32, BM=bm, BN=bn, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return out, step


def _blocks(q: Tensor, g: int, kind: str) -> tuple[int, int, int, int]:
    """Choose queries (of all G heads) and keys in a block, warps, stages: at most 90 kB of shared memory at D 128."""
    if q.element_size() == 4:
        return max(32, 16 * g), 32, 4, 1
    return max(64, 16 * g), 64 if kind == "whole" else 32, 4, 3


def silu(h: Tensor, narrow: torch.dtype | None, channel: Tensor | None = None) -> Activation:
    width = h.shape[-1] // 2
    out, step = _empty(h, *h.shape[:-1], width, narrow=narrow)
    block, warps = (triton.next_power_of_2(width), 8) if narrow else SILU
    silu_kernel[(h.numel() // (2 * width), triton.cdiv(width, block))](
        h, out, step, channel, width, MOST=_most(narrow), BLOCK=block, num_warps=warps
    )
    return out, step


def added(out: Tensor, x: Activation, weight: Tensor, scale: Tensor, gate: Tensor | None) -> bool:
    return weight.dtype == INT8 and integer.added(out, x, weight, scale, gate)


def scaled(x: Activation, weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    if weight.dtype == INT8:
        return integer.product(x, weight, scale, dtype)
    values, step = x
    assert step is not None
    flat = torch._scaled_mm(
        values.view(-1, values.shape[-1]),
        weight.t(),
        step.view(-1, 1),
        scale[None],
        out_dtype=dtype,
        use_fast_accum=True,
    )
    return flat.view(*values.shape[:-1], -1)
