"""Opening, playing and making room meet in one order of locks, and never wait for each other in a circle."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from ostinato.engine_runtime.audio.live_vae import LiveVae
from ostinato.engine_runtime.config import StreamConfig
from ostinato.engine_runtime.engines.eager import EagerEngine
from ostinato.engine_runtime.registry import LOCKS, OTHER, registry
from ostinato.engine_runtime.serve.control import Control
from ostinato.engine_runtime.serve.keep import Keep
from ostinato.engine_runtime.serve.sessions import Sessions
from ostinato.engine_runtime.stream.request import Request
from ostinato.engine_runtime.stream.sessions import Runtime, runtime

from ... import locks
from ... import trt_stand_in as stand_in
from ...helpers import StandIn, made_up

SECONDS = 20  # far more than any of it takes


class Crowded(StandIn):
    """An engine that asks in a tick who else plays, as whoever makes room on the device does."""

    def __call__(self, rows):
        self.inside.set()
        self.others.wait(SECONDS)
        self.found = runtime().plays(self)
        return super().__call__(rows)


@pytest.fixture
def crowded():
    engine = Crowded()
    engine.inside, engine.others, engine.found = threading.Event(), threading.Event(), None
    return engine


def test_a_tick_may_make_room_while_a_session_is_opened(crowded):
    def step():
        with runtime().playing("plays", crowded, StreamConfig(depth=1)) as session:
            session.submit(Request(made_up(1, 8)))
            session.step()

    def open_another():
        assert crowded.inside.wait(SECONDS)
        threading.Timer(0.2, crowded.others.set).start()  # once this thread waits for the tick
        runtime().open("comes", crowded, StreamConfig(depth=1))
        runtime().close("comes")

    threads = [threading.Thread(target=work, daemon=True) for work in (step, open_another)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert not any(thread.is_alive() for thread in threads), "both wait for what the other holds"
    assert crowded.found is True


def test_an_engine_whose_session_is_being_opened_plays():
    engine, here, told = StandIn(), Runtime(), threading.Event()

    def ask():
        while not here.plays(engine):
            pass
        told.set()

    with here.lane(engine.device).lock:  # as a tick that runs has it
        opens = threading.Thread(target=lambda: here.open("comes", engine, StreamConfig(depth=1)), daemon=True)
        opens.start()
        threading.Thread(target=ask, daemon=True).start()
        assert told.wait(SECONDS)
    opens.join(SECONDS)
    assert here.session("comes").engine is engine
    here.close("comes")
    assert not here.plays(engine)


def test_an_id_is_free_again_where_opening_failed():
    here, engine = Runtime(), StandIn()
    with pytest.raises(ValueError, match="depth"):
        here.open("id", engine, StreamConfig(depth=engine.limits.batch + 1))
    assert not here.plays(engine)
    here.open("id", engine, StreamConfig(depth=1))
    here.close("id")


@pytest.mark.parametrize(
    ("first", "second", "allowed"),
    [
        ("TensorRT.opening", "Lane.lock", True),
        ("Lane.lock", "TensorRT._lock", True),
        ("Lane.lock", "Runtime._lock", True),
        ("Runtime._lock", "Lane.lock", False),
        ("TensorRT._lock", "Lane.lock", False),
        ("Lane.lock", "Stage.step_lock", False),
        ("Stage.lock", "Runtime._lock", False),
        ("Runtime._lock", "Registry._lock", True),
        ("Registry._lock", "Runtime._lock", False),
    ],
)
def test_the_watch_sees_the_other_order(first, second, allowed):
    outer, inner = (locks.Watched(threading.RLock(), name) for name in (first, second))
    with outer, outer, inner:
        pass
    found, locks.violations[:] = list(locks.violations), []
    assert bool(found) != allowed


def test_every_lock_of_the_order_is_known_by_its_name(turbo):
    """A class that is renamed is renamed in the order too: else its lock would be watched as any other."""
    engine = stand_in.load(stand_in.make(EagerEngine(turbo.pipe.transformer, "x")))
    control = Control(SimpleNamespace(name="locks", listening=False), None)  # whose thread waits for a change
    control.close()
    made = {
        "Keep": Keep(None, list, Path),
        "Sessions": Sessions(),
        "Control": control,
        "TensorRT": stand_in.library(),
        "Lane": runtime().lane(engine.device),
        "Stage": runtime().share(engine, StreamConfig(), 8),
        "LiveVae": LiveVae(turbo.pipe.vae),
        "Executor": engine.executor,
        "Registry": registry,
    }
    for name in LOCKS:
        if name != OTHER:
            kind, attribute = name.split(".")
            assert getattr(made[kind], attribute).name == name
