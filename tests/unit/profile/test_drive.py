"""The driver of every measurement: what its clock counts, in which order it calls, and that it keeps the ring full."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from ostinato.engine_runtime.config import Sampling, StreamConfig
from ostinato.engine_runtime.engines.contract import Engine
from ostinato.engine_runtime.profile.drive import awake, driven
from ostinato.engine_runtime.stream.request import Request
from ostinato.engine_runtime.stream.sessions import runtime

from ...helpers import StandIn, made_up


class Watch:
    """A clock that the test turns."""

    now = 0.0

    def __call__(self):
        return self.now

    def after(self, seconds, name=None, said=None):
        def turn(*_):
            self.now += seconds
            if said is not None:
                said.append(name)

        return turn


@pytest.fixture
def watch():
    return Watch()


def request(i):
    return Request(made_up(1, 8), Sampling(2, seed=i))


def drive(watch, engine=None, shared=None, **config):
    given = StreamConfig(**{"depth": 2, "tokens": 8, "spread": False, **config})
    return driven(engine or StandIn(), given, request, shared=shared, clock=watch)


def test_a_tick_alone_counts_its_step_and_what_takes_its_latents(watch):
    said = []

    @contextmanager
    def around():
        said.append("enter")
        watch.now += 1.0
        yield
        said.append("leave")

    with drive(watch) as found:
        before, told = watch.after(100.0, "before", said), watch.after(1000.0, "told", said)
        laps = found.play(3, before=before, around=around, after=watch.after(2.0, "after", said), after_tick=told)
    assert laps.ms == [3000.0] * 3 and laps.host_ms == [1000.0] * 3
    assert said == ["before", "enter", "leave", "after", "told"] * 3


def test_ticks_in_flight_are_timed_from_end_to_end(watch):
    """All that lies between two of them is in the later one."""
    with drive(watch) as found:
        laps = found.play(3, ahead=2, before=watch.after(0.5), after=watch.after(2.0))
    assert laps.ms == [2500.0] * 3 and laps.host_ms == [0.0] * 3


def test_it_keeps_the_ring_full_and_says_who_finished(watch):
    with drive(watch, queue=3) as found:
        laps = found.play(6, before=found.fill)
        (session,) = found.sessions
        found.fill()
        assert not session.room and session.stats().dropped == 0
        assert laps.finished == [session.stats().finished] and laps.finished[0] == 6
        assert len(laps.quiet) == 6 and not laps.quiet[0]
    assert not runtime().names


def test_sessions_of_one_ring_get_requests_in_turn(watch):
    with drive(watch, shared=(3, 8), depth=1, queue=2) as found:
        for _ in range(3):
            found.submit()
        assert all(session.room and not session.idle for session in found.sessions)
        found.fill()
        assert not any(session.room for session in found.sessions)
        assert found.play(3).finished == [1, 1, 1] and len({session.stage for session in found.sessions}) == 1
    assert not runtime().names


def test_a_device_is_idle_around_every_tick_alone_and_waited_for_when_it_is_far_behind(watch, cuda):
    """By the calls of a pretended device."""
    calls = []

    class Event:
        def __init__(self, enable_timing):
            self.n = len([c for c in calls if c.startswith("mark")])

        def record(self, stream):
            calls.append(f"mark {self.n}")

        def synchronize(self):
            calls.append(f"wait {self.n}")

        def elapsed_time(self, other):
            return float(other.n - self.n)

    cuda(Event=Event, synchronize=lambda device: calls.append("idle"))
    with drive(watch) as found:
        found.cuda = True
        assert len(found.play(2, before=lambda: calls.append("before")).ms) == 2
        assert calls == ["before", "idle", "idle", "before", "idle", "idle", "idle"]
        calls.clear()
        assert found.play(4, ahead=2).ms == [1.0] * 4
    assert calls == ["mark 0", "mark 1", "mark 2", "mark 3", "wait 1", "mark 4", "wait 2", "idle"]


def test_an_engine_rests_whatever_happens(watch):
    said = []

    class Sleepy(StandIn):
        def ready(self):
            said.append("ready")

        def rest(self):
            said.append("rest")

    engine: Engine = Sleepy()
    with pytest.raises(ZeroDivisionError), awake(engine), drive(watch, engine):
        raise ZeroDivisionError
    assert said == ["ready", "rest"] and not runtime().names


def test_a_wait_for_the_device_keeps_other_sessions_from_ticking(watch, cuda):
    """It would end the capture of another's tick."""
    waited = []
    with drive(watch) as found:
        lock = found.stage.lane.lock
        cuda(synchronize=lambda device: waited.append((device, lock._is_owned())))
        found.cuda = True
        found.settle()
        found.cuda = False
        assert waited == [(found.stage.engine.device, True)] and not lock._is_owned()
