"""A change that waits for a beat is heard at that beat, to the nearest latent frame, in both modes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from ostinato.engine_runtime.config import Sampling
from ostinato.engine_runtime.errors import InputError
from ostinato.engine_runtime.live.beat import Tempo
from ostinato.engine_runtime.live.level import DELAY
from ostinato.engine_runtime.live.line import Heard
from ostinato.engine_runtime.live.score import Cost, Score
from ostinato.engine_runtime.live.session import LiveSession
from ostinato.engine_runtime.spec import ACE_STEP

from ...ear import SAMPLE_RATE, Clock, Ear, Tone, turn
from ...helpers import made_up
from .test_session import Stepped

HOP, FRAMES = ACE_STEP.hop, 50
REACH = 1.4  # seconds
TEMPO = Tempo(100.0)  # a beat of 0.6 s; the loop's 2 s are no whole number of them


@pytest.fixture(params=["loop", "endless"])
def session(request: pytest.FixtureRequest) -> Iterator[LiveSession]:
    condition = made_up(0, FRAMES, guided=False)
    score = Score(Stepped(), Tone(), condition, Sampling(4), depth=2, mode=request.param)
    made = LiveSession(f"test {request.node.name}", score, Clock())
    yield made
    made.close()


def is_a_beat(session: LiveSession, position: int) -> bool:
    beat, line = 60.0 / TEMPO.bpm * SAMPLE_RATE, FRAMES * HOP
    since = position - DELAY
    since = since % line if session.score.mode == "loop" else since
    return min(since % beat, -since % beat) <= 1


def laid(ear: Ear, at: int, heard: Heard) -> None:
    """Wait, where the listener is, until these changes are in the music and none of the sound from `at` on is older."""
    frame = round((at - DELAY) / HOP)

    def done() -> bool:
        last = ear.blocks[-1]
        return ear.session.made == heard and (last.end <= frame * HOP or last.heard.hot == heard.hot)

    ear.until(done, moving=False)


def test_a_change_is_heard_at_its_beat(session: LiveSession) -> None:
    ear = Ear(session)
    session.start()
    ear.until(ear.played(1.5))
    for change in range(1, 6):
        at = session.next_beat("beat", TEMPO, REACH)
        assert is_a_beat(session, at) and at >= ear.position
        score = replace(session.score, knobs=session.score.knobs.changed(velocity_scale=1.0 - 0.1 * change))
        assert session.play(score, change, at) is Cost.TICK
        laid(ear, at, Heard(change))
        ear.until(lambda at=at: ear.position > at + HOP)
        first = next(block for block in ear.blocks if block.heard.hot == change)
        assert abs(first.at - at) <= HOP // 2 and first.position <= first.at < first.end
        assert all(b.heard.hot < change for b in ear.blocks if b.end <= first.at)
    assert not ear.errors


def test_a_prompt_and_a_knob_wait_for_one_beat(session: LiveSession) -> None:
    ear = Ear(session)
    session.start()
    ear.until(ear.played(1.5))
    at = session.next_beat("beat", TEMPO, REACH)
    score = replace(session.score, condition=made_up(50, FRAMES, guided=False))
    assert session.play(score, 1, at) is Cost.SLOT
    session.play(replace(score, knobs=score.knobs.changed(velocity_scale=0.5)), 2, at)
    laid(ear, at, Heard(2, 1))
    ear.until(lambda: ear.position > at + HOP)
    changed = [block for block in ear.blocks if block.heard.hot or block.heard.slot]
    assert changed[0].heard.hot == 2 and abs(changed[0].at - at) <= HOP // 2
    assert changed[0].heard.slot == 1 or session.score.mode == "endless"


def test_a_change_waits_for_its_beat_although_music_was_in_flight(session: LiveSession) -> None:
    """Which was begun for a moment before the beat, and hears the change in its last steps."""
    ear, engine, allowed = Ear(session), session.score.engine, threading.Semaphore(0)
    assert isinstance(engine, Stepped)
    session.start()
    ear.until(ear.played(1.5))
    engine.allowed = allowed
    turn(session, 1, velocity_scale=0.8)
    try:
        ear.until(lambda: engine.waits, moving=False)
        at = session.next_beat("beat", TEMPO, 0.5)
        session.play(replace(session.score, knobs=session.score.knobs.changed(velocity_scale=0.5)), 2, at)
    finally:
        allowed.release(1000)
    laid(ear, at, Heard(2))
    ear.until(lambda: ear.position > at + HOP)
    first = next(block for block in ear.blocks if block.heard.hot == 2)
    assert abs(first.at - at) <= HOP // 2


def test_nothing_is_decoded_over_and_over_for_a_change_that_waits(session: LiveSession) -> None:
    ear = Ear(session)
    session.start()
    ear.until(ear.played(1.5))
    at = session.next_beat("beat", TEMPO, REACH)
    score = replace(session.score, knobs=session.score.knobs.changed(velocity_scale=0.5))
    session.play(score, 1, at)
    ear.until(lambda: ear.position > at - SAMPLE_RATE // 2)
    count = len(ear.blocks)
    ear.until(lambda: ear.position > at + SAMPLE_RATE // 2)
    made = sum(block.samples for block in ear.blocks[count:])
    assert made < 4 * SAMPLE_RATE, made


def test_a_session_knows_how_long_a_change_takes(session: LiveSession) -> None:
    assert not session.listening
    ear = Ear(session)
    session.start()
    ear.until(ear.played(1.5))
    assert session.listening and 0.0 < session.reach(Cost.TICK) < session.reach(Cost.SLOT) < 20.0
    with pytest.raises(InputError, match="tempo"):
        session.next_beat("beat", Tempo(), 0.0)
