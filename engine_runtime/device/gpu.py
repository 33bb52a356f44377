"""The calling thread's current CUDA device: asked for here alone, so that everything else names the device it means."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def current() -> torch.device:
    """Return the calling thread's current CUDA device, where nobody has named one; PyTorch must see a GPU."""
    return torch.device("cuda", torch.cuda.current_device())


def numbered(device: torch.device) -> torch.device:
    """Return a device with its number: `cuda` alone is the current CUDA device. Others are returned unchanged."""
    return current() if device.type == "cuda" and device.index is None else device


def on(device: torch.device) -> AbstractContextManager[None]:
    """Make a CUDA device the calling thread's current one for a block; on the CPU do nothing.

    PyTorch's own operations go to the device of their tensors. Triton's kernels, the driver's and TensorRT's go to the
    current one, whatever they are given.
    """
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def finish(device: torch.device) -> None:
    """Wait for the work on the current stream of a CUDA device; a wait for the whole device would spoil what another
    thread captures.
    """
    torch.cuda.current_stream(device).synchronize()


def computes_in_bfloat16(device: torch.device) -> bool:
    """Return true for a GPU that has bfloat16 arithmetic of its own."""
    if device.type != "cuda":
        return False
    with on(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)


def capturing() -> bool:
    """Return true inside a capture: the current stream of the current device is recorded into a CUDA graph."""
    return torch.cuda.is_current_stream_capturing()
