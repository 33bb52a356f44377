"""What reaches a session while it plays: curves of another length, tracks, failures, what nothing answers to."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ostinato.engine_runtime.config import Guidance, Sampling, StreamConfig
from ostinato.engine_runtime.controls.automation import Track
from ostinato.engine_runtime.controls.knobs import Knobs
from ostinato.engine_runtime.engines.contract import Limits
from ostinato.engine_runtime.errors import EngineLimitError, InputError, MemoryShortage
from ostinato.engine_runtime.stream.inbox import Arrivals
from ostinato.engine_runtime.stream.request import Request
from ostinato.engine_runtime.stream.sessions import runtime
from ostinato.engine_runtime.stream.tick import Tick
from ostinato.engine_runtime.takes.replay import replay
from ostinato.engine_runtime.takes.take import Log

from ...helpers import Fragile, StandIn, drawn, made_up, no_reads, play
from ...live import CLOSE, expected


class Heard:
    """Notes what a listener is told."""

    def __init__(self):
        self.words = []

    def __getattr__(self, name):
        return lambda *told: self.words.append((name, *told))


def test_a_listener_hears_of_everything_in_the_order_of_the_step():
    """Adapters too: a take without them replays other music."""
    heard, lora, values = Heard(), object(), {"sde": 0.5}
    turns = [SimpleNamespace(values=values), SimpleNamespace(values={"dcw": 1.0})]
    Arrivals({"depth": 3}, True, lora, turns, [SimpleNamespace(request="r")]).report(heard, 7)
    assert heard.words == [
        ("configured", 7, {"depth": 3}),
        ("adapted", 7, lora),
        ("knobs_set", 7, {"sde": 0.5}),
        ("knobs_set", 7, {"dcw": 1.0}),
        ("submitted", 7, "r"),
    ]
    assert heard.words[2][2] is not values, "a listener keeps it, and a step may change it"
    Arrivals({}, False, lora, [], []).report(heard, 8)
    assert len(heard.words) == 5, "nothing is told where nothing came"


def test_a_guidance_that_nothing_answers_to_is_refused():
    turbo = Request(made_up(0, 6, guided=False), Sampling(4), Guidance(1.0))
    for hot in ({"guidance_scale": 3.0}, None):
        with runtime().playing("turbo", StandIn(), StreamConfig()) as session:
            session.set(**hot) if hot else session.automate([Track("guidance_scale", [2.0, 3.0])])
            with pytest.raises(InputError, match="without a null condition"):
                session.submit(turbo)
            session.submit(Request(turbo.condition, Sampling(4), Guidance(1.0, mode="self")))
            assert len(list(session.play([]))) == 1
    with runtime().playing("no rows", StandIn(), StreamConfig()) as session:
        session.submit(Request(made_up(0, 6), Sampling(4), Guidance(1.0)))
        session.step()
        session.set(guidance_scale=1.0)
        with pytest.raises(InputError, match="play without the negative rows"):
            session.set(guidance_scale=3.0)


@pytest.mark.parametrize("track", [Track("guidance_scale", [1.0, 1.0, 5.0]), Track("guidance_scale", [5.0], start=2)])
def test_an_automated_guidance_gets_its_rows(track):
    """Though every request begins at a scale of 1."""
    request = Request(made_up(0, 6), Sampling(6, seed=1), Guidance(1.0))
    with runtime().playing("hot", StandIn(), StreamConfig()) as session:
        session.automate([track])
        turned = [f.take() for f in session.play([request])][0]
    want = expected(request, lambda step: Knobs(guidance_scale=5.0 if step >= 2 else 1.0))
    np.testing.assert_allclose(turned, want, **CLOSE)


def test_a_track_cannot_ask_for_more_slots_than_rows():
    with runtime().playing("deep", StandIn(limits=Limits(4, 99, 99)), StreamConfig()) as session:
        with pytest.raises(EngineLimitError, match="depth is 6"):
            session.automate([Track("depth", [2, 6])])


def test_a_newer_track_goes_before_an_older_one():
    with runtime().playing("two tracks", StandIn(), StreamConfig()) as session:
        session.automate([Track("sde", [0.1, 0.2, 0.3], loop=True)])
        session.step()
        session.automate([Track("sde", [0.9])])
        session.step()
        session.step()
        assert session.knobs.sde == 0.9


def test_a_curve_waits_for_music_of_its_length():
    """The length changes while knobs are curves: what plays keeps its own, what comes has the new one."""
    short, long = torch.linspace(0.7, 0.9, 6), torch.linspace(0.8, 1.2, 9)
    first, second = Request(made_up(0, 6), Sampling(4, seed=1)), Request(made_up(1, 9), Sampling(3, seed=2))
    with runtime().playing("lengths", StandIn(), StreamConfig(), Knobs(velocity_scale=short)) as session:
        session.submit(first)
        session.step()
        session.set(velocity_scale=long)
        session.set(ode_noise=0.2)
        session.configure(depth=5)  # what plays moves with its own knobs
        with pytest.raises(InputError, match="9 frames"):
            session.submit(Request(made_up(0, 6), Sampling(4)))
        session.submit(second)
        made = {id(f.request): f.take() for f in session.play([])}
    one = expected(first, lambda step: Knobs(velocity_scale=short, ode_noise=0.2 if step else 0.0))
    np.testing.assert_allclose(made[id(first)], one, **CLOSE)
    np.testing.assert_allclose(
        made[id(second)], expected(second, lambda _: Knobs(velocity_scale=long, ode_noise=0.2)), **CLOSE
    )


def test_no_read_while_a_track_moves_beside_curves():
    curve = torch.linspace(0.7, 0.9, 6)
    with runtime().playing("tracks", StandIn(), StreamConfig(), Knobs(channel_gain=drawn(0, 6, 64).abs())) as session:
        session.automate([Track("velocity_scale", [0.9, 0.8, 0.7], loop=True)])
        session.set(ode_noise=curve * 0.1)
        session.submit(Request(made_up(0, 6), Sampling(8, seed=1)))
        with no_reads():
            for _ in range(4):
                session.step()
        assert session.knobs.velocity_scale == 0.9


def test_what_a_caller_does_to_its_tensors_later_is_not_heard():
    curve = torch.full((6,), 0.8)
    request = Request(made_up(0, 6), Sampling(4, seed=1))
    want = play(StandIn(), [request], Knobs(velocity_scale=0.8))[0]
    with runtime().playing("own copy", StandIn(), StreamConfig(), Knobs(velocity_scale=curve)) as session:
        session.submit(request)
        curve.fill_(0.1)
        assert torch.equal([f.take() for f in session.play([])][0], want)


def test_a_failing_turn_leaves_no_half(monkeypatch):
    """Out of memory while a knob reaches the ring: what is in flight is dropped, counted, and the next plays whole."""
    with runtime().playing("half", StandIn(), StreamConfig(depth=2, spread=False)) as session:
        for seed in range(2):
            session.submit(Request(made_up(seed, 6), Sampling(6, seed=seed)))
        session.step()
        session.set(velocity_scale=0.5)
        with monkeypatch.context() as patch, pytest.raises(MemoryShortage):
            patch.setattr(Tick, "set_knobs", lambda *a: (_ for _ in ()).throw(torch.OutOfMemoryError("none")))
            session.step()
        assert session.stats().dropped == 2
        again = Request(made_up(3, 6), Sampling(4, seed=3))
        got = [f.take() for f in session.play([again])][0]
    assert torch.equal(got, play(StandIn(), [again], Knobs(velocity_scale=0.5))[0])


def test_a_session_opened_with_rows_gives_them_to_a_scale_of_one():
    """So that its scale can be turned later."""
    with runtime().playing("rows", StandIn(), StreamConfig(guidance="initialize")) as session:
        session.submit(Request(made_up(0, 6), Sampling(8, seed=1), Guidance(1.0)))
        session.step()
        session.set(guidance_scale=4.0)
        turned = [f.take() for f in session.play([])][0]
    plain = play(StandIn(), [Request(made_up(0, 6), Sampling(8, seed=1))])[0]
    assert not torch.equal(turned, plain)


def test_a_ring_that_cannot_grow_plays_on(monkeypatch):
    """Whether there is no room for the new one, or what is in flight cannot be copied to it."""
    requests = [Request(made_up(i, 6), Sampling(6, seed=i)) for i in range(2)]
    want = play(StandIn(), requests, depth=2, spread=False)
    with runtime().playing("no room", Fragile(most=6), StreamConfig(depth=2, spread=False)) as session:
        for request in requests:
            session.submit(request)
        session.step()
        session.configure(depth=8)
        with pytest.raises(MemoryShortage, match="depth 8"):
            session.step()
        session.configure(depth=6)
        with monkeypatch.context() as patch, pytest.raises(MemoryShortage, match="depth 6"):
            patch.setattr(Tick, "copy_slot", lambda *a: (_ for _ in ()).throw(torch.OutOfMemoryError("none")))
            session.step()
        made = {id(f.request): f.take() for f in session.play([])}
        assert len(list(session.play([Request(made_up(2, 9), Sampling(2))]))) == 1, "in a new ring of the old depth"
        assert session.stats().dropped == 0 and session.config.depth == 2
    assert all(torch.equal(made[id(r)], w) for r, w in zip(requests, want, strict=True))


def test_growing_admits_at_once_though_it_spreads():
    with runtime().playing("grow", StandIn(), StreamConfig(depth=2, queue=16)) as session:
        for seed in range(10):
            session.submit(Request(made_up(seed, 6), Sampling(8, seed=seed)))
        for _ in range(5):
            session.step()
        session.configure(depth=8)
        session.step()
        assert session.stats().depth == 8 and len(session.stage.ring.occupied) == 8


def test_a_ring_that_has_grown_spreads_again():
    with runtime().playing("grown", StandIn(), StreamConfig(depth=2, queue=32)) as session:
        for seed in range(20):
            session.submit(Request(made_up(seed, 6), Sampling(8, seed=seed)))
        ends = []
        while not session.idle:
            if session.ticks == 5:
                session.configure(depth=4)
            ends += [session.ticks for _ in session.step()]
    assert ends[2] == ends[3], "the new slots were filled at once"
    assert {b - a for a, b in itertools.pairwise(ends[8:])} == {2}


@pytest.mark.parametrize(
    "change", [{"depth": 3.0}, {"depth": "4"}, {"depth": True}, {"spread": "no"}, {"queue": 2.5}, {"guidance": "full"}]
)
def test_a_configuration_is_checked_when_it_is_asked_for(change):
    with runtime().playing("asked", StandIn(), StreamConfig()) as session:
        with pytest.raises(InputError):
            session.configure(**change)
        assert len(list(session.play([Request(made_up(0, 6), Sampling(2))]))) == 1


def test_a_take_with_a_cleared_ring_is_replayed(tmp_path):
    engine, config = StandIn(), StreamConfig(depth=2, spread=False)
    log, made = Log.of(engine, config), []
    with runtime().playing("cleared", engine, config, None, log) as session:
        for seed in range(5):
            session.submit(Request(made_up(seed, 6), Sampling(3, seed=seed)))
        while not session.idle:
            if session.ticks == 2:
                session.clear()
            made += [f.take() for f in session.step()]
        assert session.stats().dropped == 2
    log.finished(made)
    log.save(tmp_path / "take.safetensors")
    assert replay(Log.load(tmp_path / "take.safetensors"), engine).differing == []


def test_a_take_says_what_failed():
    """A depth that found no room is set back, and a step that failed is named."""
    engine, config = Fragile(most=6), StreamConfig(depth=2)
    log = Log.of(engine, config)
    with runtime().playing("failing", engine, config, None, log) as session:
        session.submit(Request(made_up(0, 6), Sampling(4)))
        session.step()
        session.configure(depth=8)
        with pytest.raises(MemoryShortage):
            session.step()
        engine.error = ZeroDivisionError()
        with pytest.raises(ZeroDivisionError):
            session.step()
    events = [(event.tick, event.kind, event.what) for event in log.events[1:]]
    assert events == [(1, "configured", {"depth": 8}), (1, "configured", {"depth": 2}), (2, "failed", {})]


def test_numbers_of_any_kind_and_nothing_else():
    knobs = Knobs(velocity_scale=np.float32(0.5))
    assert knobs.velocity_scale == 0.5
    for wrong in ([0.5, 0.5], np.full(6, 0.5), True):
        with pytest.raises(InputError, match="velocity scale is"):
            knobs.changed(velocity_scale=wrong)
