"""`ostinato profile`: where a tick's time goes, and what changed between two such tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ..engine_runtime.engines import EagerEngine
from ..engine_runtime.errors import InputError, check_choice
from ..engine_runtime.layer_probe import profile_engine
from ..engine_runtime.layer_profile import Difference, LayerProfile, Workload, diff, load
from ..engine_runtime.memory import guarded
from ..engine_runtime.models.loading import eager_engine, pick_device, pick_dtype
from ..engine_runtime.models.loading import load as load_model

SIZES = ("2b",)


def measure(
    source: tuple[str | None, str | None],
    where: tuple[str, str],
    workload: Workload,
    ticks: int,
    on_tick: Callable[[int, int], None],
) -> LayerProfile:
    """Profile the eager engine.

    Args:
        source: a model's name, or a size of random weights; `tiny` where both are None.
        where: device and precision, as `pick_device` and `pick_dtype` take them.
        workload, ticks, on_tick: as `profile_engine` takes them.
    """
    model, size = source
    if model and size:
        raise InputError(f"the model is {model} and the size {size}", "one of them is allowed", "leave one out")
    device = pick_device(where[0])
    dtype = pick_dtype(where[1], device)
    if size is None:
        engine = eager_engine(load_model(model or "tiny", device, dtype))
    else:
        engine = _sized(size, device, dtype)
    return profile_engine(engine, workload, ticks, on_tick)


def compare(before: Path, after: Path) -> Difference:
    """What changed between two files that `--json` wrote."""
    return diff(*(load(path.read_text(encoding="utf-8"), path.name) for path in (before, after)))


def _sized(size: str, device: torch.device, dtype: torch.dtype) -> EagerEngine:
    """The decoder at a real size with random weights: as fast as a trained one, and nothing to listen to."""
    from ..engine_runtime.trt.source import random_part

    check_choice("the size", size, SIZES)
    precision = {torch.bfloat16: "bf16", torch.float32: "fp32"}.get(dtype)
    if precision is None:
        raise InputError(f"the precision is {dtype}", "random weights come in bfloat16 and float32", "use one of them")
    with guarded(
        f"a decoder of size {size} found no room on {device}", "its weights must fit", "use a smaller precision"
    ):
        transformer = random_part("decoder", precision).to(device)
    return EagerEngine(transformer, f"random-{size}")
