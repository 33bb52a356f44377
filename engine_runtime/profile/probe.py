"""Layer profiles of the production path: a session, its ring and its ticks, with every slot taken."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from ..config import NO_GUIDANCE, Guidance, Sampling, StreamConfig
from ..engines.contract import Engine, Rows
from ..errors import EngineError, check_choice, check_whole
from ..stream.request import Condition, Request
from ..stream.session import Session
from ..stream.sessions import runtime
from ..trt.play.engine import TrtEngine
from .kinds import of_layer, of_operator
from .layers import GUIDED, TICKS, LayerProfile, LayerTime, Workload, merged

TICK = "tick"  # the place of what no module does
BETWEEN = "between operators"  # what the host does there: Python, and the profiler itself
WARM = 3  # ticks before any is timed
_ids = itertools.count()


def profile_engine(
    engine: Engine,
    workload: Workload,
    ticks: int = TICKS,
    on_tick: Callable[[int, int], None] = lambda done, total: None,
) -> LayerProfile:
    """Time the layers of an engine while a stream plays random conditions.

    Args:
        engine: any; a TensorRT engine is asked through its own profiler, the others through torch's.
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

    engine.ready()
    try:
        with _stream(engine, workload) as played:
            plain = _timed(played, ticks, counted)
        if isinstance(engine, TrtEngine):
            profiled, layers = _tensorrt(engine, workload, ticks, counted)
        else:
            profiled, layers = _torch(engine, workload, ticks, counted)
    finally:
        engine.rest()
    clock = "TensorRT" if isinstance(engine, TrtEngine) else "kernels" if engine.device.type == "cuda" else "host"
    device = torch.cuda.get_device_name(engine.device) if engine.device.type == "cuda" else "CPU"
    return LayerProfile(engine.name, device, clock, workload, ticks, plain, profiled, tuple(layers))


class _Stream:
    """A session that is kept full."""

    def __init__(self, session: Session, request: Callable[[int], Request]) -> None:
        self.session, self._request, self._seeds = session, request, itertools.count()

    def fill(self) -> None:
        while self.session.room:
            self.session.submit(self._request(next(self._seeds)))

    def settle(self) -> None:
        if self.session.engine.device.type == "cuda":
            torch.cuda.synchronize(self.session.engine.device)


@contextmanager
def _stream(engine: Engine, workload: Workload, captured: bool = True) -> Iterator[_Stream]:
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
    with runtime().playing(f"layer profile {next(_ids)}", engine, config) as session:
        yield _Stream(session, request)


def _timed(
    played: _Stream, ticks: int, counted: Callable[[], None], during: AbstractContextManager | None = None
) -> float:
    """Return milliseconds of wall time of one tick, after `WARM` ticks; `during` is entered for the timed ones."""

    for _ in range(WARM):
        played.fill()
        played.session.step()
        counted()
    spent = 0.0
    with during or nullcontext():
        for _ in range(ticks):
            played.fill()
            played.settle()
            start = time.perf_counter()
            with record_function(TICK):
                played.session.step()
            played.settle()
            spent += time.perf_counter() - start
            counted()
    return 1e3 * spent / ticks


def _torch(
    engine: Engine, workload: Workload, ticks: int, counted: Callable[[], None]
) -> tuple[float, list[LayerTime]]:
    cuda = engine.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    profiler = profile(activities=activities, acc_events=True)
    decoder = getattr(engine, "decoder", None)
    named = _named(decoder) if isinstance(decoder, nn.Module) else nullcontext()
    with _stream(engine, workload, captured=False) as played, named:
        profiled = _timed(played, ticks, counted, profiler)
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
    """Collect from torch's profiler, within the ticks, the outermost operators of every module, and the host's own
    time."""
    rows: list[LayerTime] = []

    def add(name: str, kind: str, us: float) -> None:
        if us > 0:
            rows.append(LayerTime(name, kind, us / 1e3 / ticks, 1 / ticks))

    def walk(event: Any, place: str) -> None:
        for child in event.cpu_children:
            if child.is_user_annotation:
                walk(child, child.name)
            else:
                spent = child.device_time_total if cuda else child.cpu_time_total
                add(f"{place}: {child.name.removeprefix('aten::')}", of_operator(child.name, place), spent)
        if not cuda:
            add(BETWEEN, "other", event.self_cpu_time_total)

    for event in events:
        if event.name == TICK and event.device_type == DeviceType.CPU:
            walk(event, TICK)
    return merged(rows)


def _tensorrt(
    engine: TrtEngine, workload: Workload, ticks: int, counted: Callable[[], None]
) -> tuple[float, list[LayerTime]]:
    with _reporting(engine) as reported, _stream(reported, workload) as played:
        profiled = _timed(played, ticks, counted, reported.heard())
    rows = (LayerTime(name, of_layer(name), ms / ticks, 1 / ticks) for name, ms in reported.times)
    return profiled, merged(rows)


class _Reported:
    """A TensorRT engine whose context reports its layers' times after each execute: the host waits for it there.

    Attributes:
        times: name and milliseconds of every layer of every execute that was heard.
    """

    def __init__(self, engine: TrtEngine) -> None:
        self._engine, self._hears, self.times = engine, False, list[tuple[str, float]]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def __call__(self, rows: Rows) -> torch.Tensor:
        velocity = self._engine(rows)
        self._engine.executor.drain()
        if not self._engine.executor.context.report_to_profiler():
            raise EngineError(
                "TensorRT reported no layer times", "its profiler hears of every execute", "profile without CUDA graphs"
            )
        return velocity

    @contextmanager
    def heard(self) -> Iterator[None]:
        self._hears = True
        try:
            yield
        finally:
            self._hears = False

    def add(self, name: str, ms: float) -> None:
        if self._hears:
            self.times.append((name, ms))


@contextmanager
def _reporting(engine: TrtEngine) -> Iterator[Any]:
    """Attach a profiler to the engine's context; afterwards the context is made anew, without one."""
    reported = _Reported(engine)

    class Profiler(engine.flavor.module.IProfiler):  # type: ignore[name-defined]  # found at run time
        def __init__(self) -> None:
            engine.flavor.module.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            reported.add(layer_name, ms)

    profiler = Profiler()  # the library holds no reference
    try:
        with engine.paused():  # which drops what was captured without it
            context = engine.executor.context
            context.profiler, context.enqueue_emits_profile = profiler, False
        yield reported
    finally:
        engine.shed()
        engine.ready()
