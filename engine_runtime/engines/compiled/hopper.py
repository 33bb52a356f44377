"""The gate's product for Hopper, in CUDA C++ (`swiglu.cu`): its copy engine can send a tile to two blocks at once."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

import torch
from torch import Tensor

from ...device import driver
from ...errors import EngineError

log = logging.getLogger(__name__)
TYPES = {torch.bfloat16: "bf16", torch.float16: "f16"}
ROWS, COLUMNS, DEPTH = 128, 128, 64  # of a tile, as in `swiglu.cu`
OUT = (64, 64)
THREADS, SHARED = 384, 4 * (ROWS + 2 * COLUMNS) * DEPTH * 2 + 4 * OUT[0] * OUT[1] * 2 + 64 + 1024
ALIGNED = 16  # bytes, for the copy engine
GROUP = 12  # pairs of row tiles that pass over the weight together; with 4 a product of 6000 rows took 2 % longer


def swiglu(x: Tensor, weight: Tensor) -> Tensor | None:
    """Compute `silu(x @ gate.T) * (x @ up.T)`, `[..., I]`; returns None for shapes or devices this kernel does not
    take.

    A row's result depends only on that row.

    Args:
        x: `[..., K]`, bfloat16 or float16.
        weight: `[2 * I, K]`, gate before up.
    """
    k, inner = x.shape[-1], weight.shape[0] // 2
    if x.dtype not in TYPES or inner % COLUMNS or k % 8:
        return None
    if (x.data_ptr() | weight.data_ptr()) % ALIGNED or (found := product_kernel(x.device.index, x.dtype)) is None:
        return None
    return _launched(*found, x, weight)


def _launched(kernel: driver.Kernel, clusters: int, x: Tensor, weight: Tensor) -> Tensor:
    k, inner = x.shape[-1], weight.shape[0] // 2
    m = x.numel() // k
    out = x.new_empty(*x.shape[:-1], inner)
    kernel.launch(
        2 * min(clusters, -(-m // (2 * ROWS)) * (inner // COLUMNS)),
        driver.tiles(x.view(m, k), ROWS, DEPTH),
        driver.tiles(weight, COLUMNS, DEPTH),
        driver.tiles(out.view(m, inner), *OUT),
        m,
        inner,
        k,
        GROUP,
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
        kernel = driver.kernel(source, "swiglu", device, THREADS, SHARED, (f'-DTYPE="{TYPES[dtype]}"',))
        clusters = kernel.clusters(2)
        if clusters < 1:
            raise EngineError("the GPU holds no cluster of two blocks", "one is needed", "use all of the GPU")
        ones = torch.ones(2 * COLUMNS, DEPTH, dtype=dtype, device=torch.device("cuda", device))
        _launched(kernel, clusters, ones, ones)
    except EngineError as error:
        log.warning("the compiled engine computes gate and SiLU one after the other, which is slower: %s", error)
        return None
    return kernel, clusters
