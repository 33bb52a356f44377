"""Layer profiles of the production path: a session, its ring and its ticks, with every slot taken."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from ..config import NO_GUIDANCE, Guidance, Sampling, StreamConfig
from ..device.workers import in_turn
from ..engines.contract import Engine, OwnProfiler
from ..errors import check_choice, check_whole
from ..stream.request import Condition, Request
from .drive import Drive, awake, driven
from .kinds import of_kernel, of_layer, of_operator
from .layers import GUIDED, TICKS, LayerProfile, LayerTime, Workload, merged

TICK = "tick"  # names the work that belongs to no module
BETWEEN = "between operators"  # the host's time outside of operators: Python, and the profiler itself
WARM = 3  # ticks before any is timed


def profile_engine(
    engine: Engine,
    workload: Workload,
    ticks: int = TICKS,
    on_tick: Callable[[int, int], None] = lambda done, total: None,
) -> LayerProfile:
    """Time the layers of an engine while a stream plays random conditions.

    Args:
        engine: any; asked through its library's own profiler where it has one, else through torch's.
        workload: what is played.
        ticks: how many are timed, once without and once with the profiler.
        on_tick: told the ticks done and to do; what it raises ends the profile.

    Raises:
        InputError: for a workload out of range, or one that the engine does not take.
        MemoryShortage: when the ring does not fit.
    """
    check_whole("ticks", ticks, 1, 10_000, "ten are enough for an average")
    check_choice("the guidance", workload.guidance, GUIDED)
    count, total = itertools.count(1), 2 * (WARM + ticks)

    def counted() -> None:
        on_tick(next(count), total)

    with awake(engine):
        with _stream(engine, workload) as drive:
            plain = _timed(drive, ticks, counted)
        own = engine.own_profiler()
        if own is not None:
            clock = "TensorRT"
            with own as profiler:
                profiled, layers = _reported(profiler, workload, ticks, counted)
        else:
            clock = "kernels" if engine.device.type == "cuda" else "host"
            profiled, layers = _torch(engine, workload, ticks, counted)
    device = torch.cuda.get_device_name(engine.device) if engine.device.type == "cuda" else "CPU"
    return LayerProfile(engine.name, device, clock, workload, ticks, plain, profiled, tuple(layers))


def _stream(engine: Engine, workload: Workload, captured: bool = True) -> AbstractContextManager[Drive]:
    """Open a session that plays random conditions; `captured` as in `StreamConfig`."""
    frames, guided = engine.spec.frames_of(workload.seconds), workload.guidance != "off"
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(engine.device)

    null = drawn(1, engine.width) if guided else None
    tokens, context = drawn(workload.tokens, engine.width), drawn(frames, engine.spec.context)
    condition = Condition(tokens, context, null, spec=engine.spec)
    guidance = Guidance() if guided else NO_GUIDANCE

    def request(seed: int) -> Request:
        return Request(condition, Sampling(steps=workload.steps, seed=seed), guidance)

    config = StreamConfig(workload.depth, workload.guidance, tokens=workload.tokens, spread=False, captured=captured)
    return driven(engine, config, request)


def _timed(
    drive: Drive, ticks: int, counted: Callable[[], None], during: AbstractContextManager | None = None
) -> float:
    """Return milliseconds of wall time of one tick, after `WARM` ticks; `during` is entered for the timed ones."""
    drive.play(WARM, before=drive.fill, after_tick=counted)
    with during or nullcontext():
        laps = drive.play(ticks, before=drive.fill, around=partial(record_function, TICK), after_tick=counted)
    return statistics.fmean(laps.ms)


def _reported(
    profiler: OwnProfiler, workload: Workload, ticks: int, counted: Callable[[], None]
) -> tuple[float, list[LayerTime]]:
    with _stream(profiler.engine, workload) as drive:
        profiled = _timed(drive, ticks, counted, profiler.heard())
    rows = (LayerTime(name, of_layer(name), ms / ticks, 1 / ticks) for name, ms in profiler.times)
    return profiled, merged(rows)


def _torch(
    engine: Engine, workload: Workload, ticks: int, counted: Callable[[], None]
) -> tuple[float, list[LayerTime]]:
    cuda = engine.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    profiler = profile(activities=activities, acc_events=True)
    named = _named(engine.modules) if engine.modules is not None else nullcontext()
    with in_turn(), _stream(engine, workload, captured=False) as drive, named:
        profiled = _timed(drive, ticks, counted, profiler)
    return profiled, _rows(profiler.events() or [], cuda, ticks)


@contextmanager
def _named(decoder: nn.Module) -> Iterator[None]:
    """Record every module's work under the module's name; the model's own modules are not changed."""
    handles, open_ranges = [], list[Any]()

    def enter(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            open_ranges.append(record_function(name))
            open_ranges[-1].__enter__()

        return hook

    def leave(*_: Any) -> None:
        open_ranges.pop().__exit__(None, None, None)

    try:
        for name, module in decoder.named_modules():
            if name not in ("", "model"):
                handles.append(module.register_forward_pre_hook(enter(name.removeprefix("model."))))
                handles.append(module.register_forward_hook(leave, always_call=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _rows(events: Any, cuda: bool, ticks: int) -> list[LayerTime]:
    """Collect from torch's profiler, within the ticks, the outermost operators of every module; besides them the host's
    own time, or on a GPU the kernels that no operator launched."""
    rows: list[LayerTime] = []
    kernels = {e.id: e for e in events if e.device_type == DeviceType.CUDA and not e.is_user_annotation}

    def add(name: str, kind: str, us: float) -> None:
        if us > 0:
            rows.append(LayerTime(name, kind, us / 1e3 / ticks, 1 / ticks))

    def walk(event: Any, place: str) -> None:
        for child in event.cpu_children:
            kernel = _launched(child, kernels)
            if child.is_user_annotation:
                walk(child, child.name)
            elif kernel is not None:
                add(f"{place}: {kernel.name}", of_kernel(kernel.name), kernel.time_range.elapsed_us())
            else:
                spent = _on_device(child, kernels) if cuda else child.cpu_time_total
                add(f"{place}: {child.name.removeprefix('aten::')}", of_operator(child.name, place), spent)
        if not cuda:
            add(BETWEEN, "other", event.self_cpu_time_total)

    for event in events:
        if event.name == TICK and event.device_type == DeviceType.CPU:
            walk(event, TICK)
    return merged(rows)


def _on_device(event: Any, kernels: dict[int, Any]) -> float:
    """Sum the microseconds of the kernels that an operator launched.

    Torch's own sum goes by numbers alone: it counts another launch's kernel too, where that has the operator's number.
    """
    kernel = _launched(event, kernels)
    own = 0.0 if kernel is None else kernel.time_range.elapsed_us()
    return own + sum(_on_device(child, kernels) for child in event.cpu_children)


def _launched(event: Any, kernels: dict[int, Any]) -> Any:
    """Return the kernel or copy that has this event's number, where the event is a call of CUDA's own library; else
    None.
    """
    return kernels.get(event.id) if event.name.startswith("cu") and "::" not in event.name else None
