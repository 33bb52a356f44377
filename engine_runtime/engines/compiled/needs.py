"""Requirements of the kernels on machine and model. They are compiled where they first run; nothing is downloaded."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from types import ModuleType

import torch
from diffusers import AceStepTransformer1DModel

from ...device.gpu import finish, on
from ...errors import EngineError
from .plain import NARROW, quantized

log = logging.getLogger(__name__)
LEAST = {"compiled": (7, 5), "fp8": (8, 9), "int8": (7, 5)}  # compute capability
DTYPES = {
    "compiled": (torch.bfloat16, torch.float16),
    "fp8": (torch.bfloat16,),
    "int8": (torch.bfloat16, torch.float16),
}
AMPERE, LAST_FOR_TURING = (8, 0), (3, 2)  # before Ampere there is no bfloat16; Triton 3.3 ended support of Turing
MOST_WIDE, STEP = 128, 16  # head width; what the widths of a product are multiples of


def _fused() -> ModuleType:
    return importlib.import_module(".fused", __package__)


def operations(
    model: AceStepTransformer1DModel,
    kind: str,
    load: Callable[[], ModuleType] = _fused,
) -> ModuleType:
    """Check that the fused operations of a kind of engine run here, and return their module.

    Args:
        load: imports it.

    Raises:
        EngineError: naming the first thing that is missing.
    """
    check_device(kind, model.device, model.dtype)
    check_sizes(kind, model)
    try:
        fused = load()
    except ImportError as error:
        raise EngineError(
            f"the {kind} engine needs Triton, which cannot be imported",
            "it comes with PyTorch on Linux; on Windows it is the package triton-windows",
            "install it, or use eager",
            str(error),
        ) from error
    check_kernels(kind, fused, model.device, model.dtype)
    return fused


def check_kernels(kind: str, fused: ModuleType, device: torch.device, dtype: torch.dtype) -> None:
    """Check that Triton makes kernels of these operations for the device. Raises `EngineError`."""
    check_triton(kind, device, fused.triton.__version__)
    try:
        with on(device):
            _try(fused, device, dtype, kind)
    except Exception as error:  # Triton's compiler, the C compiler it calls and the driver each raise their own kinds
        log.debug("a kernel could not be tried", exc_info=True)
        raise EngineError(
            f"the {kind} engine cannot make its kernels here",
            "Triton needs a C compiler on the path and a driver that knows this GPU",
            "install what is missing, or use eager",
            " ".join(str(error).split())[:300],
        ) from error


def check_device(kind: str, device: torch.device, dtype: torch.dtype) -> None:
    if device.type != "cuda":
        raise EngineError(f"the {kind} engine was asked for on {device.type}", "it runs on CUDA", "use eager there")
    found, least = torch.cuda.get_device_capability(device), LEAST[kind]
    if found < least:
        raise EngineError(
            f"{torch.cuda.get_device_name(device)} has compute capability {found[0]}.{found[1]}",
            f"the {kind} engine needs {least[0]}.{least[1]}",
            "use int8, compiled or eager" if kind == "fp8" else "use eager",
        )
    allowed = [one for one in DTYPES[kind] if one == torch.float16 or found >= AMPERE]
    if dtype not in allowed:
        names = " or ".join(str(one).removeprefix("torch.") for one in allowed)
        raise EngineError(
            f"the weights are {dtype}",
            f"the {kind} engine takes {names} on {torch.cuda.get_device_name(device)}",
            f"load the model in {names}, or use eager",
        )


def check_triton(kind: str, device: torch.device, version: str) -> None:
    """Check that this release of Triton makes kernels for the device."""
    if torch.cuda.get_device_capability(device) >= AMPERE:
        return
    major, minor = (int(part) for part in version.split(".")[:2])
    if (major, minor) > LAST_FOR_TURING:
        raise EngineError(
            f"Triton {version} makes no kernels for {torch.cuda.get_device_name(device)}",
            f"the {kind} engine needs Triton 3.2 on GPUs before Ampere; it comes with PyTorch 2.6",
            "install PyTorch 2.6, or use eager",
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


def _try(fused: ModuleType, device: torch.device, dtype: torch.dtype, kind: str) -> None:
    """Compile and run the smallest kernel, the gate's product and one in 8 bits; waits for them."""
    ones = torch.ones(2 * STEP, 2 * STEP, dtype=dtype, device=device)
    narrow = NARROW.get(kind)
    y, step = fused.silu(ones, narrow, torch.ones(STEP, device=device))
    if narrow:
        fused.scaled((y, step), *quantized(ones[:, :STEP].contiguous(), narrow), dtype)
    else:
        fused.swiglu(torch.ones(1, 64, dtype=dtype, device=device), torch.ones(256, 64, dtype=dtype, device=device))
    finish(device)
