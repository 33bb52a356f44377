"""A matrix product with the SwiGLU in its epilogue, for Hopper's copy engine: persistent, one tile order for a shape.

M rows, I inner width, K width in. Both halves of the weight are read into two accumulators, so `[M, 2 I]` is never
written.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def swiglu_kernel(
    x,  # descriptor of [M, K]
    weight,  # of [2 * I, K]: gate, then up
    out,  # of [M, I]
    m,
    inner,
    k,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
    PROGRAMS: tl.constexpr,
):
    """`out = silu(x @ gate.T) * (x @ up.T)`."""
    tiles_m, tiles_n = tl.cdiv(m, BM), tl.cdiv(inner, BN)
    # flattened with the loop below it, Triton 3.6 makes it 8 % slower
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, PROGRAMS, flatten=False):
        first = tile // (GROUP * tiles_n) * GROUP
        size = tl.minimum(tiles_m - first, GROUP)
        at_m = (first + tile % (GROUP * tiles_n) % size) * BM
        at_n = tile % (GROUP * tiles_n) // size * BN
        gate = tl.zeros([BM, BN], tl.float32)
        up = tl.zeros([BM, BN], tl.float32)
        for at_k in range(0, k, BK):
            a = x.load([at_m, at_k])
            gate = tl.dot(a, weight.load([at_n, at_k]).T, gate)
            up = tl.dot(a, weight.load([inner + at_n, at_k]).T, up)
        out.store([at_m, at_n], (gate * tl.sigmoid(gate) * up).to(out.dtype))
