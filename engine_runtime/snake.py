"""Snake, `x + sin(a x)^2 / b` (arXiv 2006.08195), over channels that lie last in memory: `[B, C, 1, L]`.

Arithmetic is float32. Without Triton the same is done by PyTorch's own operations, which reads and writes more.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

BLOCK = 2048  # elements a program


def snake(x: Tensor, frequency: Tensor, reciprocal: Tensor) -> Tensor:
    """Args: `x` `[B, C, 1, L]`; `a` and `1 / b`, `[C]` float32."""
    if x.is_cuda and (kernel := _kernel()) is not None:
        out = torch.empty_like(x)
        _launch(kernel, x, x, frequency, frequency, reciprocal, x, out, False)
        return out
    return _bent(x.float(), frequency, reciprocal).to(x.dtype)


def add_snake(x: Tensor, more: Tensor, bias: Tensor, frequency: Tensor, reciprocal: Tensor) -> tuple[Tensor, Tensor]:
    """`x + more + bias`, and snake of it; both `[B, C, 1, L]`, `bias` `[C]`."""
    if x.is_cuda and (kernel := _kernel()) is not None:
        total, out = torch.empty_like(x), torch.empty_like(x)
        _launch(kernel, x, more, bias, frequency, reciprocal, total, out, True)
        return total, out
    total = (x.float() + more.float() + bias.float()[:, None, None]).to(x.dtype)
    return total, _bent(total.float(), frequency, reciprocal).to(x.dtype)


def _bent(x: Tensor, frequency: Tensor, reciprocal: Tensor) -> Tensor:
    return x + reciprocal[:, None, None] * torch.sin(frequency[:, None, None] * x).square()


def _launch(
    kernel: Any, x: Tensor, more: Tensor, bias: Tensor, a: Tensor, r: Tensor, total: Tensor, out: Tensor, add: bool
) -> None:
    count = x.numel()
    kernel[(-(-count // BLOCK),)](x, more, bias, a, r, total, out, count, x.shape[1], ADD=add, BLOCK=BLOCK, num_warps=4)


@functools.cache
def _kernel() -> Any:
    """The Triton kernel; None where Triton is not installed."""
    try:
        import triton
        import triton.language as tl
    except ImportError:
        return None

    @triton.jit
    def bend(x, more, bias, a, r, total, out, count, channels, ADD: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore
        at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        live, c = at < count, at % channels
        v = tl.load(x + at, mask=live, other=0.0).to(tl.float32)
        if ADD:
            v += tl.load(more + at, mask=live, other=0.0).to(tl.float32) + tl.load(bias + c).to(tl.float32)
            rounded = v.to(total.dtype.element_ty)
            tl.store(total + at, rounded, mask=live)
            v = rounded.to(tl.float32)
        wave = tl.sin(tl.load(a + c) * v)
        tl.store(out + at, (v + tl.load(r + c) * wave * wave).to(out.dtype.element_ty), mask=live)

    return bend
