"""`ostinato profile`: measures where a tick's time goes, and compares two such profiles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..engine_runtime.bench.origin import origin
from ..engine_runtime.bench.subject import opened, source_for
from ..engine_runtime.models.loading import pick_device, pick_dtype
from ..engine_runtime.profile.layers import Difference, LayerProfile, Workload, diff, load
from ..engine_runtime.profile.probe import profile_engine


def measure(
    choice: str,
    source: tuple[str | None, str | None],
    where: tuple[str, str],
    workload: Workload,
    ticks: int,
    on_tick: Callable[[int, int], None],
) -> LayerProfile:
    """Profile an engine.

    Args:
        choice: the engine, as `bench.subject.opened` takes it.
        source: a model's name, or a size of random weights; `tiny` where both are None.
        where: device and precision, as `pick_device` and `pick_dtype` take them.
        workload, ticks, on_tick: as `profile_engine` takes them.
    """
    device = pick_device(where[0])
    dtype = pick_dtype(where[1], device)
    with opened(choice, source_for((choice,), *source, device, dtype)) as engine:
        return profile_engine(engine, workload, ticks, on_tick)


def origin_of(device: str, command: str) -> dict[str, Any]:
    """Describe where a profile comes from: the device, the command, the libraries and the code."""
    return origin(pick_device(device), command)


def compare(before: Path, after: Path) -> Difference:
    """Compare two profiles that `--json` wrote."""
    return diff(load(before), load(after))
