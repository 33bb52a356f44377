"""A session that gives its memory back: when asked, when nobody listens, and how it goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from ostinato.engine_runtime.audio.live_vae import LiveVae
from ostinato.engine_runtime.config import Sampling
from ostinato.engine_runtime.device.player import PLAYER
from ostinato.engine_runtime.live import session as session_module
from ostinato.engine_runtime.live.beat import Tempo
from ostinato.engine_runtime.live.level import DELAY
from ostinato.engine_runtime.live.score import Score
from ostinato.engine_runtime.live.session import UNHEARD, LiveSession, State
from ostinato.engine_runtime.models.loading import Model
from ostinato.engine_runtime.spec import ACE_STEP
from ostinato.engine_runtime.stream.sessions import runtime

from ...ear import PATIENCE, SAMPLE_RATE, Clock, Ear
from ...helpers import StandIn, made_up
from .test_session import loudness

HOP = ACE_STEP.hop
TEMPO = Tempo(97.0)
BEAT = 60.0 / TEMPO.bpm * SAMPLE_RATE  # samples; no whole number of frames


class Counted(StandIn):
    """Counts who brings it and who lets go."""

    def __init__(self) -> None:
        super().__init__()
        self.players, self.brought = 0, 0

    def ready(self) -> None:
        self.players += 1
        self.brought += 1

    def rest(self) -> None:
        self.players -= 1


class Skipping(Clock):
    """Goes on, and further where a test moves it: decodes take their time, so that windows stay large."""

    def __call__(self) -> float:
        return time.monotonic() + self.now


@pytest.fixture
def clock() -> Clock:
    return Skipping()


@pytest.fixture(autouse=True)
def give_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """No machine is so slow that a session which rests is not waited for."""
    monkeypatch.setattr(session_module, "GIVE_BACK", 2 * PATIENCE)


@pytest.fixture(params=["loop", "endless"])
def live(turbo: Model, clock: Clock, request: pytest.FixtureRequest) -> Iterator[LiveSession]:
    vae = LiveVae(turbo.pipe.vae)
    condition = made_up(0, 50, guided=False)
    score = Score(Counted(), vae, condition, Sampling(4), depth=2, mode=request.param)
    made = LiveSession("resting", score, clock)
    yield made
    made.close()
    assert made.score.engine.players == 0  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if "resting" in thread.name]


def holds_nothing(live: LiveSession) -> bool:
    vae = live.score.vae
    assert isinstance(vae, LiveVae)
    nothing = live.score.engine.players == 0 and vae._made_layers is None  # type: ignore[attr-defined]
    return nothing and not [name for name in runtime().names if name.startswith("resting")]


def test_a_session_that_was_asked_to_rest_holds_nothing_and_start_goes_on_from_there(live: LiveSession) -> None:
    ear = Ear(live)
    live.start()
    ear.until(ear.played(1.0))
    epoch = live.epoch
    live.rest()
    assert holds_nothing(live) and live.state is State.PAUSED and live.figures().resting
    made = len(ear.blocks)
    time.sleep(0.2)
    assert len(ear.blocks) == made and holds_nothing(live)
    live.start()
    ear.until(ear.played(3.0))
    assert live.epoch == epoch and not ear.errors
    assert (loudness(ear)[2:] > 100).all() and not live.figures().resting
    beats = (live.next_beat("beat", TEMPO, 0.0) - DELAY) % (50 * HOP if live.score.mode == "loop" else 1 << 40)
    assert abs(beats / BEAT - round(beats / BEAT)) * BEAT <= 1.0  # they are counted from where they were


def test_it_goes_on_by_itself_when_there_is_room_again(live: LiveSession) -> None:
    ear, room = Ear(live), threading.Event()
    live.start()
    ear.until(ear.played(1.0))
    live.rest(room.is_set)
    assert holds_nothing(live) and live.state is State.PLAYING
    made, end = len(ear.blocks), time.monotonic() + 0.7  # more than one look
    ear.until(lambda: time.monotonic() > end)
    assert len(ear.blocks) == made and holds_nothing(live)
    room.set()
    ear.until(ear.played(3.0))
    assert (loudness(ear)[2:] > 100).all() and not ear.errors


def test_a_pause_while_it_waits_for_room_is_kept(live: LiveSession) -> None:
    ear, room = Ear(live), threading.Event()
    live.start()
    ear.until(ear.played(0.5))
    live.rest(room.is_set)
    live.pause()
    room.set()
    end = time.monotonic() + 0.7
    ear.until(lambda: time.monotonic() > end)
    assert holds_nothing(live)
    live.start()
    ear.until(ear.played(1.5))


def test_it_may_be_asked_at_any_moment(live: LiveSession) -> None:
    """And is told that it is done before the memory is taken again."""
    ear = Ear(live)
    live.start()
    for i in range(12):
        ear.until(ear.played(0.05 * i))
        began = time.monotonic()
        live.rest(lambda: True)
        assert time.monotonic() - began < PATIENCE  # it did not wait in vain
    ear.until(ear.played(4.0))
    assert not ear.errors and live.score.engine.brought >= 3  # type: ignore[attr-defined]
    assert live.score.engine.players == 1  # type: ignore[attr-defined]


def test_nobody_hears_it_for_long(live: LiveSession, clock: Clock) -> None:
    ear = Ear(live)
    live.start()
    ear.until(ear.played(1.0))
    clock.now += 0.5 * UNHEARD
    time.sleep(0.7)  # more than one look
    assert live.state is State.PLAYING and not holds_nothing(live)
    clock.now += 0.6 * UNHEARD
    end = time.monotonic() + PATIENCE
    while not (live.state is State.PAUSED and holds_nothing(live)):
        assert time.monotonic() < end, live.figures()
        time.sleep(0.05)
    live.start()
    ear.until(ear.played(2.0))
    assert not ear.errors


def test_a_thread_of_the_session_that_asks_for_rest_does_not_wait_for_itself(
    turbo: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first step may ask, and come before the one who makes the session goes on."""
    start, took = threading.Thread.start, list[float]()

    class Asks(Counted):
        def ready(self) -> None:
            super().ready()
            player = PLAYER.get()
            assert player is not None
            began = time.monotonic()
            if self.brought == 1:
                player.rest(lambda: True)
                took.append(time.monotonic() - began)

    def first(thread: threading.Thread) -> None:
        start(thread)
        end = time.monotonic() + PATIENCE
        while thread.name.startswith("ostinato ring") and not took and thread.is_alive() and time.monotonic() < end:
            time.sleep(0.01)

    monkeypatch.setattr(threading.Thread, "start", first)
    score = Score(Asks(), turbo.pipe.vae, made_up(0, 50, guided=False), Sampling(4))
    made = LiveSession("resting itself", score)
    try:
        ear = Ear(made)
        made.start()
        ear.until(ear.played(1.0))
        assert made.error is None and not ear.errors and max(took) < PATIENCE
    finally:
        made.close()
