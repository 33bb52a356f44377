"""Figures of a run, their picture, and the noise a run starts from."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from ostinato.engine_runtime.config import Sampling, StreamConfig
from ostinato.engine_runtime.models.engines import eager_engine
from ostinato.engine_runtime.plots import plot
from ostinato.engine_runtime.stream import stats as stats_module
from ostinato.engine_runtime.stream.prepared import noise
from ostinato.engine_runtime.stream.request import Request
from ostinato.engine_runtime.stream.sessions import runtime
from ostinato.engine_runtime.stream.stats import KEPT, Stats, TickClock
from PIL import ImageColor


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that a test moves by hand."""
    fake = SimpleNamespace(now=100.0)
    monkeypatch.setattr(stats_module, "time", SimpleNamespace(perf_counter=lambda: fake.now))
    return fake


def test_figures_of_a_run(turbo, conditions, clock: SimpleNamespace) -> None:
    engine = eager_engine(turbo)
    names = ("spec", "limits", "width", "dtype", "device", "name", "rows", "capturable", "model")
    slow = SimpleNamespace(**{name: getattr(engine, name) for name in names})

    class Slow(SimpleNamespace):
        def __call__(self, rows):
            clock.now += 0.25
            return engine(rows)

    asked = [Request(conditions(turbo, 50, 1)[0], Sampling(steps=4, seed=i)) for i in range(3)]
    with runtime().playing("figures", Slow(**vars(slow)), StreamConfig(depth=2, spread=False)) as session:
        assert (session.stats().seconds, session.stats().realtime, session.stats().ms_per_tick) == (0.0, 0.0, 0.0)
        for _ in session.play(asked):
            clock.now += 0.5  # between ticks; what follows the last tick is not counted
        stats = session.stats()
    assert (stats.ticks, stats.finished, stats.dropped, stats.depth, stats.frames) == (8, 3, 0, 2, 50)
    assert stats.tick_ms == (250.0,) * 8 and stats.ms_per_tick == 250.0
    assert stats.seconds == 8 * 0.25 + 2 * 0.5
    assert stats.audio_seconds == 3 * 2.0
    assert stats.realtime == 2.0 and stats.latents_per_s == 1.0
    assert session.steps_done == 12
    assert "3 latents finished, 0 dropped, in 8 ticks" in stats.text()
    assert "2.0 times real time" in stats.text() and "unguided" in stats.text()


def test_before_the_first_tick_every_figure_is_0_and_passes_are_told() -> None:
    stats = Stats(0, 0, 0, (), 0.0, 0.0, 4, 0, "an engine", True, "full")
    assert (stats.ms_per_tick, stats.latents_per_s, stats.realtime) == (0.0, 0.0, 0.0)
    assert replace(stats, tick_ms=(5.0, 1.0, 4.0, 2.0, 3.0)).ms_per_tick == 3.0, "the median"
    for fused, words in ((True, "guided, one pass,"), (False, "guided, several passes,")):
        assert words in replace(stats, fused=fused).text()


def test_the_clock_forgets_the_oldest(clock: SimpleNamespace) -> None:
    ticking = TickClock(None)
    for i in range(KEPT + 10):
        ticking.start()
        clock.now += i
        ticking.stop()
    assert (len(ticking.tick_ms()), ticking.ticks) == (KEPT, KEPT + 10)
    assert ticking.tick_ms()[0] == pytest.approx(10_000.0)


class Device:
    """A stream on which work takes milliseconds: until `enqueued` it has been given, until `over` it has come."""

    enqueued = over = 0.0

    def plays(self, ticking: TickClock, *ms: float, between: float = 5.0) -> None:
        for one in ms:
            ticking.start()
            self.enqueued += one
            ticking.stop()
            self.enqueued += between


class Event:
    """Stands in for `torch.cuda.Event`."""

    alive: ClassVar[weakref.WeakSet[Event]] = weakref.WeakSet()

    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing
        Event.alive.add(self)

    def record(self, device: Device) -> None:
        self.device, self.at = device, device.enqueued

    def query(self) -> bool:
        return self.device.over >= self.at

    def synchronize(self) -> None:
        self.device.over = max(self.device.over, self.at)

    def elapsed_time(self, other: Event) -> float:
        assert self.query() and other.query(), "PyTorch refuses it"
        return other.at - self.at


@pytest.fixture
def device(cuda: Callable[..., None]) -> Device:
    cuda(Event=Event)
    return Device()


def test_on_a_gpu_a_tick_is_timed_once_it_is_over(device: Device) -> None:
    """By events on the stream, not by the host, which is far ahead; what still runs is not waited for."""
    ticking: Any = TickClock(device)  # type: ignore[arg-type]
    assert (ticking.tick_ms(), ticking.seconds) == ((), 0.0)
    device.plays(ticking, 10.0, 30.0, 20.0)
    assert (ticking.tick_ms(), ticking.seconds, ticking.ticks) == ((), 0.0, 3)
    device.over = 10.0
    assert (ticking.tick_ms(), ticking.seconds) == ((10.0,), 0.01)
    device.over = 46.0  # in the third tick
    assert (ticking.tick_ms(), ticking.seconds) == ((10.0, 30.0), 0.045)
    ticking.settle()
    assert (ticking.tick_ms(), ticking.seconds) == ((10.0, 30.0, 20.0), 0.07) and device.over == 70.0
    ticking.settle()
    device.plays(ticking, 40.0)
    assert device.over == 70.0, "nothing waits for the device"


def test_a_clock_that_has_settled_knows_the_last_tick(device: Device) -> None:
    ticking = TickClock(device)
    ticking.settle()
    device.plays(ticking, 20.0, 30.0, 40.0)
    assert ticking.seconds == 0.0
    ticking.settle()
    assert ticking.seconds == pytest.approx((20 + 5 + 30 + 5 + 40) / 1e3)
    assert ticking.tick_ms() == (20.0, 30.0, 40.0)


def test_a_gpus_clock_keeps_no_event_of_a_tick_that_is_over(device: Device) -> None:
    """Though nobody asks for figures while music plays."""
    ticking: Any = TickClock(device)  # type: ignore[arg-type]
    for _ in range(50):
        device.plays(ticking, 10.0)
        device.over = device.enqueued
    gc.collect()
    assert len(Event.alive) <= 5
    assert ticking.tick_ms() == (10.0,) * 50


@pytest.mark.parametrize("count", [0, 1, 2, 300, KEPT])
def test_the_plot(count: int) -> None:
    tick_ms = tuple(10.0 + i % 7 for i in range(count))
    image = plot.plot_ticks(Stats(count, count // 8, 0, tick_ms, count / 100, count / 8, 4, 25, "toy", None))
    assert image.shape == (1, *plot.SIZE[::-1], 3) and image.dtype == torch.float32
    assert 0.0 <= float(image.min()) and float(image.max()) <= 1.0
    assert len(image.flatten(0, 2).unique(dim=0)) > 3
    inner = image[0, plot.TOP : plot.BOTTOM + 1, plot.LEFT : plot.RIGHT + 1]
    line = (inner - torch.tensor(ImageColor.getrgb(plot.LINE)) / 255).abs().amax(-1) < 0.02
    assert bool(line.any()) or count == 0
    if count > 1:  # the line reaches both ends
        columns = line.any(0).nonzero()
        assert int(columns.min()) <= 2 and int(columns.max()) >= plot.RIGHT - plot.LEFT - 2


@pytest.mark.parametrize("frames", [1, 7, 250])
@pytest.mark.parametrize("seed", [0, 1, 2**63, 2**64 - 1])
def test_noise_has_comfyuis_layout(seed: int, frames: int) -> None:
    wanted = torch.randn(1, 64, frames, generator=torch.Generator().manual_seed(seed))
    got = noise(seed, frames, 64)
    assert got.dtype == torch.float32 and got.is_contiguous()
    assert torch.equal(got, wanted[0].transpose(0, 1))


@pytest.mark.parametrize(("tick_ms", "median"), [((), 0.0), ((4.0,), 4.0), ((9.0, 1.0, 2.0), 2.0)])
def test_one_slow_tick_does_not_move_the_tick_time(tick_ms: tuple[float, ...], median: float) -> None:
    assert Stats(3, 0, 0, tick_ms, 1.0, 0.0, 4, 25, "toy", None).ms_per_tick == median
