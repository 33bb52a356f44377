"""Triton kernels of int8 products: rows of int8 with a step each, sums in int32, which are exact in any order.

M rows, N columns, K summed over. A row's result depends neither on its neighbours nor on the tiles.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .kernels import SMALLEST, whole
from .plain import INT8, LARGEST, Activation

GROUP = 8  # tiles of rows that pass over the weight together
ROW_WARPS = 2


class Tiles(NamedTuple):
    """Sizes of a tile, the warps that compute it, and the buffers of it in shared memory."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


# Of compute capability 9, where operands come out of shared memory, and of all others: there the registers of larger
# tiles, or of fewer warps, spill (seen where Triton 3.9 compiles for 8.0 and 8.6).
HOPPER, OTHERS = Tiles(128, 128, 128, 8, 3), Tiles(128, 128, 64, 8, 4)


@triton.jit(do_not_specialize=["m", "n_tokens"])
def product_kernel(
    x,  # [M, K] int8
    x_step,  # [M] float32
    weight,  # [N, K] int8
    weight_step,  # [N] float32
    out,  # [M, N]
    gate,  # [B, N], rows `gate_stride` apart
    m,
    n,
    k,
    n_tokens,
    gate_stride,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
    EVEN: tl.constexpr,  # DEPTH divides K
    ADD: tl.constexpr,
    GATED: tl.constexpr,
):
    """Compute `x @ weight.T`, times the steps of its row and its column; write it, or add it times `gate` to `out`."""
    down, across = tl.cdiv(m, ROWS), tl.cdiv(n, COLUMNS)
    tile, many = tl.program_id(0), GROUP * across
    first = tile // many * GROUP
    height = tl.minimum(down - first, GROUP)
    top, side = (first + tile % many % height) * ROWS, tile % many // height * COLUMNS  # of the tile
    row, column, depth = tl.arange(0, ROWS), tl.arange(0, COLUMNS), tl.arange(0, DEPTH)
    last_row, last_column = m - 1 - top, n - 1 - side  # of the matrices; what lies beyond is not stored
    left = x + top.to(tl.int64) * k + (tl.minimum(row, last_row) * k)[:, None] + depth[None, :]
    right = weight + side.to(tl.int64) * k + (tl.minimum(column, last_column) * k)[None, :] + depth[:, None]
    total = tl.zeros([ROWS, COLUMNS], tl.int32)
    for at in range(0, k, DEPTH):
        if EVEN:
            a, b = tl.load(left), tl.load(right)
        else:
            a = tl.load(left, mask=(at + depth < k)[None, :], other=0)
            b = tl.load(right, mask=(at + depth < k)[:, None], other=0)
        total = tl.dot(a, b, total, out_dtype=tl.int32)
        left += DEPTH
        right += DEPTH
    y = total.to(tl.float32) * tl.load(x_step + top + tl.minimum(row, last_row))[:, None]
    y *= tl.load(weight_step + side + tl.minimum(column, last_column))[None, :]
    place = out + top.to(tl.int64) * n + side + (row * n)[:, None] + column[None, :]
    inside = (row <= last_row)[:, None] & (column <= last_column)[None, :]
    if GATED:
        own = gate + ((top + row) // n_tokens * gate_stride)[:, None] + side + column[None, :]
        y *= tl.load(own, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        y += tl.load(place, mask=inside, other=0.0).to(tl.float32)
    tl.store(place, y.to(out.dtype.element_ty), mask=inside)


@triton.jit
def rows_kernel(
    x,  # [M, width]
    out,  # [M, width] int8
    step,  # [M] float32
    width,
    MOST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Round a row to int8: its largest becomes `MOST`."""
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    v = tl.load(x + row * width + column, mask=column < width, other=0.0).to(tl.float32)
    own = tl.maximum(tl.max(tl.abs(v), 0), SMALLEST) / MOST
    tl.store(step + row, own)
    tl.store(out + row * width + column, whole(v / own, out).to(tl.int8), mask=column < width)


def product(x: Activation, weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Compute `x @ weight.T`, `[..., N]`.

    Args:
        x: `[..., K]` int8 and the step of each row, contiguous.
        weight: `[N, K]` int8, contiguous.
        scale: `[N]` float32, the step of each row of the weight.
        dtype: of the result.
    """
    out = x[0].new_empty(*x[0].shape[:-1], weight.shape[0], dtype=dtype)
    _launch(out, x, weight, scale)
    return out


def added(out: Tensor, x: Activation, weight: Tensor, scale: Tensor, gate: Tensor | None) -> bool:
    """Compute `out += (x @ weight.T) * gate` in place, rounded once; returns true.

    Args:
        out: `[B, N, H]` contiguous.
        gate: `[B, H]`, contiguous in its last axis.
    """
    _launch(out, x, weight, scale, gate, add=True)
    return True


def _launch(
    out: Tensor, x: Activation, weight: Tensor, scale: Tensor, gate: Tensor | None = None, add: bool = False
) -> None:
    (values, step), (n, k), tiles = x, weight.shape, tiles_of(out.device)
    m = values.numel() // k
    product_kernel[(triton.cdiv(m, tiles.rows) * triton.cdiv(n, tiles.columns),)](
        values, step, weight, scale, out, gate, m, n, k, out.shape[-2] if out.dim() > 2 else m,
        0 if gate is None else gate.stride(0),
        ROWS=tiles.rows, COLUMNS=tiles.columns, DEPTH=tiles.depth, GROUP=GROUP, EVEN=k % tiles.depth == 0,
        ADD=add, GATED=gate is not None, num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip


def quantized(x: Tensor, narrow: torch.dtype) -> tuple[Tensor, Tensor]:
    """Round rows of the last axis to int8; returns the values and each row's step, as `plain.quantized` does."""
    width = x.shape[-1]
    out, step = torch.empty_like(x, dtype=narrow), x.new_empty(x.shape[:-1], dtype=torch.float32)
    rows_kernel[(step.numel(),)](
        x, out, step, width, MOST=LARGEST[INT8], BLOCK=triton.next_power_of_2(width), num_warps=ROW_WARPS
    )
    return out, step


@functools.cache
def tiles_of(device: torch.device) -> Tiles:
    return HOPPER if torch.cuda.get_device_capability(device)[0] == 9 else OTHERS
