"""Whole training steps as CUDA graphs, and files written whole."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

log = logging.getLogger("tiny")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def begin(seed: int) -> None:
    """Log to stdout, allow TF32, seed."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(seed)


def captured(step: Callable[[], None], times: int = 3, lock: threading.Lock | None = None) -> Callable[[], None]:
    """A step as one CUDA graph: it runs `times` times, is captured, and is replayed from then on.

    Half of a small step's time is launching kernels. Without CUDA it is the step itself.

    Args:
        lock: held during the capture, by whatever else uses the device from another thread.
    """
    if DEVICE != "cuda":
        return step
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(times):
            step()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with lock or nullcontext(), torch.cuda.graph(graph, capture_error_mode="thread_local"):
        step()
    return graph.replay


def adamw(params: list[Tensor], rate: float, betas: tuple[float, float], decay: float = 0.0) -> torch.optim.AdamW:
    """AdamW whose rate is a tensor, so that a captured step can have it changed."""
    cuda = DEVICE == "cuda"
    rate_ = torch.tensor(rate, device=DEVICE)
    return torch.optim.AdamW(params, lr=rate_, betas=betas, weight_decay=decay, fused=cuda, capturable=cuda)


def keep(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write float16 safetensors, whole or not at all."""
    beside = path.with_suffix(".part")
    save_file({name: t.detach().half().cpu().contiguous() for name, t in tensors.items()}, beside)
    os.replace(beside, path)
