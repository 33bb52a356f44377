"""A session whose engine, decoder, listener or end comes at a bad moment: nothing stays held, nothing stays mute."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from ostinato.engine_runtime.config import Sampling
from ostinato.engine_runtime.errors import MemoryShortage
from ostinato.engine_runtime.live import session as session_module
from ostinato.engine_runtime.live.score import Score
from ostinato.engine_runtime.live.session import LiveSession
from ostinato.engine_runtime.models import comfy_queue

from ...ear import PATIENCE, Ear, Tone, until
from ...helpers import StandIn, made_up


class Brought(StandIn):
    """Counts its players. `comes` is called while it is brought, with the number of times before."""

    def __init__(self) -> None:
        super().__init__()
        self.players = self.times = 0
        self.comes: Callable[[int], None] = lambda times: None

    def ready(self) -> None:
        self.times += 1
        self.comes(self.times - 1)
        self.players += 1

    def rest(self) -> None:
        self.players -= 1


class Decoder(Tone):
    """Has memory from when it is brought, or decodes, until it rests."""

    def __init__(self) -> None:
        self.has_memory, self.comes = False, lambda: None

    def ready(self) -> None:
        self.comes()
        self.has_memory = True

    def rest(self) -> None:
        self.has_memory = False

    def decoder(self, latents: Any) -> Any:
        self.has_memory = True
        return super().decoder(latents)


class Gate:
    """Holds who comes until it is opened."""

    def __init__(self) -> None:
        self.came, self.opened = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.came.set()
        assert self.opened.wait(PATIENCE)


@pytest.fixture
def engine() -> Brought:
    return Brought()


@pytest.fixture
def vae() -> Decoder:
    return Decoder()


@pytest.fixture
def play(engine: Brought, vae: Decoder) -> Iterator[Callable[[], Ear]]:
    """`play()`: a listener of a session that was started."""
    made: list[LiveSession] = []

    def start() -> Ear:
        score = Score(engine, vae, made_up(0, 50, guided=False), Sampling(4))  # type: ignore[arg-type]
        made.append(LiveSession("begun", score))
        ear = Ear(made[-1])
        made[-1].start()
        return ear

    yield start
    for session in made:
        session.close()
    assert engine.players == 0


def test_an_engine_is_let_go_as_often_as_it_was_brought(play: Callable[[], Ear], engine: Brought) -> None:
    """Another mode takes another ring of the same engine."""
    ear = play()
    ear.until(ear.played(0.5))
    for change, mode in enumerate(("endless", "loop"), 1):
        ear.session.play(replace(ear.session.score, mode=mode), change)
        ear.until(ear.heard(change))
        until(lambda: engine.players == 1)
    ear.session.rest()
    assert engine.players == 0


def test_an_opening_that_fails_holds_nothing(play: Callable[[], Ear], engine: Brought, vae: Decoder) -> None:
    def refuse() -> None:
        raise RuntimeError("no room for the decoder")

    vae.comes = refuse
    ear = play()
    for _ in range(2):
        until(lambda: ear.session.error is not None)
        until(lambda: engine.players == 0)
        ear.session.start()
    vae.comes = lambda: None
    ear.session.start()
    ear.until(ear.played(0.5))


def test_rest_is_kept_where_the_ring_opens_at_that_moment(
    play: Callable[[], Ear], engine: Brought, vae: Decoder
) -> None:
    ear, gate = play(), Gate()
    ear.until(ear.played(0.5))
    ear.session.rest()
    engine.comes = lambda times: gate()
    ear.session.start()
    ear.until(gate.came.is_set)
    asks = threading.Thread(target=ear.session.rest, args=(lambda: False,))
    asks.start()
    until(lambda: ear.session._maker.giving)
    gate.opened.set()
    asks.join(PATIENCE)
    assert not asks.is_alive() and engine.players == 0 and not vae.has_memory
    count, end = len(ear.blocks), time.monotonic() + 0.3
    ear.until(lambda: time.monotonic() > end)
    assert len(ear.blocks) == count and not vae.has_memory


@pytest.mark.parametrize("what", ["another score", "start"])
def test_what_is_asked_for_while_an_opening_fails_is_tried(play: Callable[[], Ear], engine: Brought, what: str) -> None:
    gate = Gate()

    def fail(times: int) -> None:
        if times == 0:
            gate()
            raise RuntimeError("no room")

    engine.comes = fail
    ear = play()
    until(gate.came.is_set)
    if what == "start":
        ear.session.start()
    else:
        ear.session.play(replace(ear.session.score, depth=1), 1)
    gate.opened.set()
    ear.until(ear.played(0.5))
    assert len(ear.errors) == 1


def test_what_fails_is_not_tried_for_ever(play: Callable[[], Ear], engine: Brought) -> None:
    def fail(times: int) -> None:
        raise RuntimeError("no room")

    engine.comes = fail
    ear = play()
    until(lambda: ear.session.error is not None)
    end = time.monotonic() + 0.7  # more than one look
    ear.until(lambda: time.monotonic() > end)
    assert engine.times <= 2  # the first latent's, and that of the start


def test_a_closed_session_rests_at_once(play: Callable[[], Ear], monkeypatch: pytest.MonkeyPatch) -> None:
    """ComfyUI's manager may still know it."""
    ear = play()
    ear.until(ear.played(0.5))
    ear.session.close()
    monkeypatch.setattr(session_module, "GIVE_BACK", 10 * PATIENCE)
    asks = threading.Thread(target=ear.session.rest, args=(lambda: True,), daemon=True)
    asks.start()
    asks.join(PATIENCE)
    assert not asks.is_alive()


@pytest.mark.usefixtures("endless_job")
def test_a_session_ends_while_its_ring_waits_for_the_job_that_ends_it(play: Callable[[], Ear], engine: Brought) -> None:
    began = threading.Event()

    def bring(times: int) -> None:
        began.set()
        with comfy_queue.loading():
            raise AssertionError("a job runs")

    engine.comes = bring
    ear = play()
    assert began.wait(PATIENCE)
    job = threading.Thread(target=ear.session.close, daemon=True)
    job.start()
    job.join(PATIENCE)
    assert not job.is_alive() and isinstance(ear.errors[-1], MemoryShortage)


def test_nothing_is_made_between_what_a_listener_has_missed_and_what_it_gets(play: Callable[[], Ear]) -> None:
    ear = play()
    ear.until(ear.played(1.0))
    session, late = ear.session, SimpleNamespace(block=lambda block: None, changed=lambda: None)
    blocks_since, seen = session._cursor.blocks_since, []

    def noted(epoch: int, position: int) -> Any:
        seen.append((session.outlets.has_sound(late), session._lock._is_owned()))  # type: ignore[attr-defined]
        return blocks_since(epoch, position)

    session._cursor.blocks_since = noted  # type: ignore[method-assign]
    assert session.resume(late, session.epoch, ear.blocks[-2].position)
    assert seen == [(True, True)] and session.outlets.all == (ear, late)
    session.resume(ear, session.epoch, ear.blocks[-2].position)
    assert session.outlets.all == (late, ear)
