"""Requirements of the kernels on machine and model. They are compiled where they first run; nothing is downloaded."""

from __future__ import annotations

import importlib
import logging
from types import ModuleType

import torch
from diffusers import AceStepTransformer1DModel

from ...device.gpu import on
from ...errors import EngineError
from .plain import quantized

log = logging.getLogger(__name__)
CAPABILITY = {False: (8, 0), True: (8, 9)}  # least compute capability, without and with float8 products
MOST_WIDE, STEP = 128, 16  # head width; what the widths of a product are multiples of


def operations(model: AceStepTransformer1DModel, fp8: bool) -> ModuleType:
    """Check that the fused operations run here, and return their module.

    Raises:
        EngineError: naming the first thing that is missing.
    """
    kind = "fp8" if fp8 else "compiled"
    check_device(kind, model.device, model.dtype, CAPABILITY[fp8])
    check_sizes(kind, model)
    try:
        fused = importlib.import_module(".fused", __package__)
    except ImportError as error:
        raise EngineError(
            f"the {kind} engine needs Triton, which cannot be imported",
            "it comes with PyTorch on Linux; on Windows it is the package triton-windows",
            "install it, or use eager",
            str(error),
        ) from error
    try:
        with on(model.device):
            _try(fused, model.device, model.dtype, fp8)
    except Exception as error:  # Triton's compiler, the C compiler it calls and the driver each raise their own kinds
        log.debug("a kernel could not be tried", exc_info=True)
        raise EngineError(
            f"the {kind} engine cannot make its kernels here",
            "Triton needs a C compiler on the path and a driver that knows this GPU",
            "install what is missing, or use eager",
            " ".join(str(error).split())[:300],
        ) from error
    return fused


def check_device(kind: str, device: torch.device, dtype: torch.dtype, least: tuple[int, int]) -> None:
    if device.type != "cuda":
        raise EngineError(f"the {kind} engine was asked for on {device.type}", "it runs on CUDA", "use eager there")
    found = torch.cuda.get_device_capability(device)
    if found < least:
        raise EngineError(
            f"{torch.cuda.get_device_name(device)} has compute capability {found[0]}.{found[1]}",
            f"the {kind} engine needs {least[0]}.{least[1]}",
            "use compiled or eager" if kind == "fp8" else "use eager",
        )
    if dtype not in (torch.bfloat16, torch.float16) or (kind == "fp8" and dtype != torch.bfloat16):
        raise EngineError(
            f"the weights are {dtype}",
            f"the {kind} engine takes bfloat16{'' if kind == 'fp8' else ' or float16'}",
            "load the model in bfloat16, or use eager",
        )


def check_sizes(kind: str, model: AceStepTransformer1DModel) -> None:
    attention, config = model.layers[0].self_attn, model.config
    group, rest = divmod(attention.heads, attention.kv_heads)
    powers = (attention.head_dim, group)
    products = (config.hidden_size, config.intermediate_size, attention.kv_heads * attention.head_dim)
    if (
        any(n & (n - 1) for n in powers)
        or not STEP <= attention.head_dim <= MOST_WIDE
        or rest
        or any(n % STEP for n in products)
        or attention.to_q.bias is not None
    ):
        raise EngineError(
            f"the model has {attention.heads} heads of width {attention.head_dim} for {attention.kv_heads} of keys,"
            f" width {config.hidden_size}, inner width {config.intermediate_size}",
            f"the {kind} engine takes head widths of {STEP} to {MOST_WIDE} and groups of heads that are powers of two,"
            f" other widths that {STEP} divides, and no bias in attention",
            "use eager",
        )


def _try(fused: ModuleType, device: torch.device, dtype: torch.dtype, fp8: bool) -> None:
    """Compile and run the smallest kernel, the gate's product and a float8 product; waits for the device."""
    ones = torch.ones(2 * STEP, 2 * STEP, dtype=dtype, device=device)
    y, step = fused.silu(ones, fp8)
    if fp8:
        fused.scaled((y, step), *quantized(ones[:, :STEP].contiguous()), dtype)
    else:
        fused.swiglu(torch.ones(1, 64, dtype=dtype, device=device), torch.ones(256, 64, dtype=dtype, device=device))
    torch.cuda.synchronize(device)
