"""The gate's product for Hopper, in CUDA C++ (`swiglu.cu`): its copy engine can send a tile to two blocks at once.

Both functions return None for shapes or devices that the kernel does not take. A row's result depends only on that row.
"""

from __future__ import annotations

import functools
import logging
from pathlib import Path

import torch
from torch import Tensor

from ...device import driver
from ...errors import EngineError
from .plain import FP8, Activation

log = logging.getLogger(__name__)
TYPES = {torch.bfloat16: "bf16", torch.float16: "f16", FP8: "e4m3"}
# Of a tile, as in `swiglu.cu`: rows, columns, bytes of K; what is stored at once; and a block's threads.
ROWS, COLUMNS, LINE, PART, THREADS = 128, 128, 128, 64, 384
STAGES = 4
ALIGNED = 16  # bytes, for the copy engine
# Pairs of row tiles that pass over the weight together. With 4 in place of 12 a product of 6000 rows took 2 % longer in
# bfloat16 and 12 % longer in float8; in float8, one of 3000 rows 4 % less.
GROUP, FEW, GROUP_OF_FEW = 12, 4096, 4


def swiglu(x: Tensor, weight: Tensor) -> Tensor | None:
    """Compute `silu(x @ gate.T) * (x @ up.T)`, `[..., I]`.

    Args:
        x: `[..., K]`, bfloat16 or float16.
        weight: `[2 * I, K]`, gate before up.
    """
    if x.dtype == FP8 or (found := _found(x, weight)) is None:
        return None
    return _launched(*found, x, weight)


def gated(x: Activation, weight: Tensor, scale: Tensor, limit: Tensor) -> Activation | None:
    """Compute the same in float8.

    Args:
        x: values `[..., K]` and the step of each row.
        weight: `[2 * I, K]`, with the step `[2 * I]` of each row.
        limit: the step `[...]` of each row of the result.
    """
    values, step = x
    if values.dtype != FP8 or (found := _found(values, weight)) is None:
        return None
    return _launched(*found, values, weight, step, scale, limit), limit


def _found(x: Tensor, weight: Tensor) -> tuple[driver.Kernel, int] | None:
    """Return the kernel if it takes these matrices."""
    if x.dtype not in TYPES or weight.shape[0] // 2 % COLUMNS or x.shape[-1] * x.itemsize % ALIGNED:
        return None
    if (x.data_ptr() | weight.data_ptr()) % ALIGNED:
        return None
    return product_kernel(x.device.index, x.dtype)


def _launched(
    kernel: driver.Kernel,
    clusters: int,
    x: Tensor,
    weight: Tensor,
    step: Tensor | None = None,
    scale: Tensor | None = None,
    limit: Tensor | None = None,
) -> Tensor:
    k, inner = x.shape[-1], weight.shape[0] // 2
    m, line = x.numel() // k, LINE // x.itemsize
    out = x.new_empty(*x.shape[:-1], inner)
    kernel.launch(
        2 * min(clusters, -(-m // (2 * ROWS)) * (inner // COLUMNS)),
        driver.tiles(x.view(m, k), ROWS, line),
        driver.tiles(weight, COLUMNS, line),
        driver.tiles(out.view(m, inner), PART, line),
        step,
        scale,
        limit,
        m,
        inner,
        k,
        GROUP_OF_FEW if x.dtype == FP8 and m <= FEW else GROUP,
    )
    return out


@functools.cache
def product_kernel(device: int, dtype: torch.dtype) -> tuple[driver.Kernel, int] | None:
    """Compile and try the kernel; returns it with the number of clusters that the device holds at once, or None."""
    if torch.cuda.get_device_capability(device)[0] != 9:
        return None
    try:
        if missing := driver.missing():
            raise EngineError(missing, "it comes with PyTorch for CUDA 13", "install that")
        source = Path(__file__).with_name("swiglu.cu").read_text(encoding="utf-8")
        stages = STAGES * (ROWS + 2 * COLUMNS) * LINE
        shared = stages + 2 * PART * COLUMNS * dtype.itemsize + 2 * 8 * STAGES + 1024  # results, barriers, alignment
        options = f'-DTYPE="{TYPES[dtype]}"', f"-DWIDTH={dtype.itemsize}"
        kernel = driver.kernel(source, "swiglu", device, THREADS, shared, options)
        clusters = kernel.clusters(2)
        if clusters < 1:
            raise EngineError("the GPU holds no cluster of two blocks", "one is needed", "use all of the GPU")
        ones = torch.ones(2 * COLUMNS, LINE, device=torch.device("cuda", device))
        _launched(kernel, clusters, *[ones.to(dtype)] * 2, *[ones[:, 0].contiguous()] * 3)
    except EngineError as error:
        log.warning("the compiled engines compute gate and SiLU one after the other, which is slower: %s", error)
        return None
    return kernel, clusters
