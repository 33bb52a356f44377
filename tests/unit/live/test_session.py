"""A live session end to end on the stand-in: what is heard, when changes are heard, and that nothing is left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from ostinato.engine_runtime.config import Sampling
from ostinato.engine_runtime.engines.contract import Rows
from ostinato.engine_runtime.errors import EngineError, InputError, SessionError
from ostinato.engine_runtime.live.beat import Tempo
from ostinato.engine_runtime.live.line import Heard
from ostinato.engine_runtime.live.listener import GONE
from ostinato.engine_runtime.live.maker import HOLD
from ostinato.engine_runtime.live.score import Cost, Score, cost
from ostinato.engine_runtime.live.session import LiveSession, State
from ostinato.engine_runtime.spec import ACE_STEP
from ostinato.engine_runtime.stream.sessions import runtime
from ostinato.engine_runtime.takes.replay import replay
from ostinato.engine_runtime.takes.take import SUBMITTED

from ...ear import LEAD, PATIENCE, Clock, Ear, Tone, turn, until
from ...helpers import StandIn, helping, made_up

HOP, SAMPLE_RATE = ACE_STEP.hop, ACE_STEP.sample_rate

FRAMES = 50


def loudness(ear: Ear) -> np.ndarray:
    """The root mean square of each frame that was heard; a gap has 0."""
    frames = ear.sound[: ear.position // HOP * HOP].astype(float).reshape(-1, 2 * HOP)
    return np.sqrt((frames**2).mean(axis=1))


@pytest.fixture
def score() -> Score:
    return Score(StandIn(), Tone(), made_up(0, FRAMES, guided=False), Sampling(4), depth=2)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def session(score: Score, clock: Clock, request: pytest.FixtureRequest) -> Iterator[LiveSession]:
    before = set(threading.enumerate())
    with_mode = getattr(request, "param", {})
    live = LiveSession(f"test {request.node.name}", replace(score, **with_mode), clock)
    yield live
    live.close()
    assert set(threading.enumerate()) - before <= helping()  # which are the process's
    assert not [name for name in runtime().names if name.startswith("test ")]


@pytest.mark.parametrize("session", [{"mode": "loop"}, {"mode": "endless"}], indirect=True)
def test_it_plays_on_without_a_gap(session: LiveSession) -> None:
    ear = Ear(session)
    session.start()
    ear.until(ear.played(8.0))
    covered = np.zeros(ear.position, bool)
    for block in ear.blocks:
        covered[block.position : block.end] = True
    assert covered.all() and not ear.errors
    assert all(block.position % HOP == 0 and block.epoch == session.epoch for block in ear.blocks)
    assert (loudness(ear)[2:] > 100).all()
    assert session.score.mode == "endless" or session.figures().dry == 0  # this ear outruns real time


def test_nothing_is_made_before_the_start_and_no_more_than_two_seconds_ahead(session: LiveSession) -> None:
    ear = Ear(session)
    time.sleep(0.3)
    assert ear.blocks == []
    session.start()
    ear.until(lambda: len(ear.blocks) > 0, moving=False)
    for lead in (SAMPLE_RATE, 100 * SAMPLE_RATE):
        session.report(session.epoch, 0, lead, False)
    time.sleep(0.5)
    assert ear.blocks[-1].end <= 3 * SAMPLE_RATE


@pytest.mark.parametrize("session", [{"seed_step": 1}], indirect=True)
def test_a_ring_that_nobody_hears_rests(session: LiveSession, score: Score, clock: Clock) -> None:
    """Before the start it makes the first latent; where the listener has left, it makes no more."""
    ear, calls = Ear(session), score.engine.calls
    ear.until(lambda: len(calls) >= score.steps and not session.works)
    assert len(calls) == score.steps
    session.start()
    ear.until(lambda: len(calls) > 2 * score.steps)
    clock.now += 0.9 * GONE
    count = len(calls)
    until(lambda: len(calls) > count + score.steps)
    clock.now += 0.2 * GONE
    until(lambda: not session.works)
    count = len(calls)
    time.sleep(0.2)
    assert len(calls) == count
    ear.until(lambda: len(calls) > count)


def test_a_hot_knob_comes_back_with_the_first_sample_that_heard_it(session: LiveSession) -> None:
    ear = Ear(session)
    session.start()
    ear.until(ear.played(1.0))
    assert turn(session, 7, velocity_scale=0.2) is Cost.TICK
    ear.until(ear.heard(7))
    first = next(block for block in ear.blocks if block.heard.hot == 7)
    assert first.position <= first.at < first.end and first.heard.slot == 0
    assert all(block.heard.hot == 0 for block in ear.blocks[: ear.blocks.index(first)])


def ready(session: LiveSession) -> bool:
    """Whether the ring rests with a generation in flight: the session's first latent was made before its start."""
    return len(session.score.engine.calls) > session.score.steps and not session.works


@pytest.mark.parametrize("session", [{"depth": 1}, {"depth": 2}], indirect=True)
def test_a_loop_that_would_repeat_itself_rests_a_step_from_its_end(session: LiveSession, score: Score) -> None:
    ear, calls = Ear(session), score.engine.calls
    session.start()
    ear.until(lambda: ready(session))
    count, depth = len(calls), session.score.depth
    turn(session, 1, velocity_scale=0.5)
    ear.until(ear.heard(1))
    assert len(calls) > count
    ear.until(lambda: ready(session))
    # the step that was left, then a generation that has the knob from its start, up to the last step of the next
    assert len(calls) - count == 1 + (2 * score.steps - 1 if depth == 1 else score.steps + 1)


class Stepped(StandIn):
    """Makes no more steps than a test allows, once it says so."""

    allowed: threading.Semaphore | None = None
    waits: bool = False

    def __call__(self, rows: Rows) -> torch.Tensor:
        if self.allowed is not None:
            self.waits = True
            assert self.allowed.acquire(timeout=PATIENCE)
        return super().__call__(rows)


def test_a_hot_knob_is_in_the_music_after_the_step_that_was_left(score: Score, clock: Clock) -> None:
    """Although its generation was begun before the knob."""
    engine = Stepped()
    session = LiveSession("test step", replace(score, engine=engine), clock)
    ear, allowed = Ear(session), threading.Semaphore(1)
    session.start()
    try:
        ear.until(lambda: ready(session))
        engine.allowed = allowed
        turn(session, 1, velocity_scale=0.5)
        ear.until(lambda: session.made.hot == 1)
    finally:
        allowed.release(1000)
        session.close()


@pytest.mark.parametrize("session", [{"seed_step": 1}, {"mode": "endless"}], indirect=True)
def test_music_that_moves_does_not_rest(session: LiveSession, score: Score) -> None:
    ear, calls = Ear(session), score.engine.calls
    session.start()
    ear.until(ear.played(1.0))
    count = len(calls)
    ear.until(ear.played(10.0))
    assert len(calls) >= count + 2 * score.steps
    take = session.capture(seconds=2.0).take
    seeds = [event.what.sampling.seed for event in take.events if event.kind == SUBMITTED]
    assert len(seeds) > 2 and seeds == [seeds[0] + i for i in range(len(seeds))]


LONG = {"mode": "endless", "condition": made_up(0, 8 * FRAMES, guided=False)}


@pytest.mark.parametrize("session", [LONG], indirect=True)
def test_a_change_does_not_wait_until_endless_music_runs_short(session: LiveSession, score: Score) -> None:
    ear = Ear(session)
    session.start()
    ear.until(lambda: len(score.engine.calls) >= score.steps and not session.works, moving=False)
    turn(session, 1, velocity_scale=0.5)
    ear.until(lambda: session.made.hot == 1, moving=False)
    ear.until(ear.heard(1))
    assert next(block for block in ear.blocks if block.heard.hot == 1).at < 2 * SAMPLE_RATE


def test_the_ring_waits_for_what_is_evaluated_and_not_for_ever(
    session: LiveSession, score: Score, clock: Clock
) -> None:
    ear, calls = Ear(session), score.engine.calls
    session.start()
    ear.until(lambda: ready(session))
    count = len(calls)
    with session.held():
        turn(session, 1, velocity_scale=0.5)
        for _ in range(2):
            time.sleep(0.1)
            assert len(calls) == count
            clock.now += 0.6 * HOLD
        ear.until(ear.heard(1))
    ear.until(lambda: ready(session))
    count = len(calls)
    with session.held():
        turn(session, 2, velocity_scale=0.4)
        time.sleep(0.1)
        assert len(calls) == count
    ear.until(ear.heard(2))  # at once, with no time gone by


def ahead(ear: Ear, seconds: float, heard: Heard) -> None:
    """Wait, at the session's begin, until sound is made so far, with these changes."""
    end = time.monotonic() + PATIENCE
    while not ear.blocks or ear.blocks[-1].end < seconds * SAMPLE_RATE or ear.blocks[-1].heard != heard:
        assert time.monotonic() < end, ear.errors
        ear.session.report(ear.session.epoch, 0, SAMPLE_RATE, False)
        time.sleep(0.002)


def check_whole(ear: Ear) -> None:
    """What a listener gets again from the first sound of this epoch on joins, without what was made again."""
    session = ear.session
    blocks = session.resume(ear, session.epoch, next(b.position for b in ear.blocks if b.epoch == session.epoch))
    assert blocks and [block.end for block in blocks[:-1]] == [block.position for block in blocks[1:]]
    assert all(block.samples % HOP == 0 for block in blocks)


def test_what_is_about_to_be_heard_is_made_again(session: LiveSession) -> None:
    """A listener with a second of sound ahead of it need not hear all of that before it hears a knob."""
    ear = Ear(session)
    session.start()
    ahead(ear, 1.0, Heard())
    count = len(ear.blocks)
    turn(session, 1, velocity_scale=0.5)
    ahead(ear, 0.0, Heard(1))
    first = next(block for block in ear.blocks[count:] if block.heard.hot == 1)
    assert first.position < ear.blocks[count - 1].end - HOP
    check_whole(ear)


def test_nothing_is_made_again_before_the_first_of_another_line(session: LiveSession, score: Score) -> None:
    """Endless music begins where the loop's sound ends: what lies before it cannot be made from its latents."""
    ear = Ear(session)
    session.start()
    turn(session, 1, velocity_scale=0.5)
    ahead(ear, 1.0, Heard(1))
    session.play(replace(session.score, mode="endless"), 2)
    ahead(ear, 1.0, Heard(2, 2))
    check_whole(ear)
    assert session.resume(ear, session.epoch + 1, 0) == []  # whose sound begins anew at the listener, at 0
    count = len(ear.blocks)
    ear.until(lambda: len(ear.blocks) > count + 2)
    check_whole(ear)
    assert ear.blocks[count].epoch == session.epoch and not ear.errors


def test_a_hot_knob_is_in_the_music(score: Score) -> None:
    """The loop after the knob is the one that a session with this knob from the start plays."""
    loops = []
    for turned in (False, True):
        session = LiveSession(f"test music {turned}", score)
        ear = Ear(session)
        try:
            session.start()
            if turned:
                ear.until(ear.played(1.0))
                turn(session, 1, velocity_scale=0.5)
                ear.until(ear.heard(1))
            ear.until(ear.played(ear.position / SAMPLE_RATE + 8.0))
            loops.append(session.capture(seconds=2.0))
        finally:
            session.close()
    quiet, loud = (loop.latent.square().mean() for loop in reversed(loops))
    assert quiet < 0.8 * loud


def test_a_new_prompt_is_heard_with_the_next_generation(session: LiveSession, score: Score) -> None:
    ear = Ear(session)
    session.start()
    ear.until(ear.played(1.0))
    other = replace(score, condition=made_up(50, FRAMES, guided=False))
    assert session.play(other, 3) is Cost.SLOT
    ear.until(lambda: any(block.heard.slot >= 3 for block in list(ear.blocks)))
    ear.until(ear.played(ear.position / SAMPLE_RATE + 2.2))
    assert session.score is other


@pytest.mark.parametrize("mode", ["loop", "endless"])
def test_another_length_or_mode_comes_without_a_gap(session: LiveSession, score: Score, mode: str) -> None:
    ear = Ear(session)
    session.start()
    ear.until(ear.played(1.0))
    other = replace(score, condition=made_up(5, 2 * FRAMES, guided=False), mode=mode)
    assert session.play(other, 4) is Cost.RING
    ear.until(lambda: any(block.heard.slot >= 4 for block in list(ear.blocks)))
    ear.until(ear.played(ear.position / SAMPLE_RATE + 3.0))
    assert (loudness(ear)[2:] > 100).all() and not ear.errors


def test_a_capture_is_what_was_heard_and_its_take_plays_again(session: LiveSession, score: Score) -> None:
    ear = Ear(session)
    session.start()
    for change in range(1, 6):
        ear.until(ear.played(change))
        turn(session, change, velocity_scale=1.0 - 0.05 * change)
    ear.until(ear.played(7.0))
    session.pause()
    got = session.capture(bars=1, tempo=Tempo(120.0))
    assert got.audio.shape == (2, 2 * SAMPLE_RATE) and got.latent.shape == (FRAMES, 64)
    sound = ear.sound
    end = next(e for e in range(sound.shape[0], 0, -HOP) if np.array_equal(sound[e - 96000 : e], _int16(got.audio)))
    assert end >= 6.5 * SAMPLE_RATE
    again = replay(got.take, score.engine)
    assert len(got.take.latents) >= 5 and again.differing == []
    made = torch.cat([latent for latent in again.latents])
    assert all(bool((made == frame).all(dim=1).any()) for frame in got.latent[::7])


def _int16(audio: np.ndarray) -> np.ndarray:
    return np.rint(audio.T * 32_767.0).astype(np.int16)


@pytest.mark.parametrize(
    "wrong",
    [{}, {"seconds": 1.0, "bars": 1, "tempo": Tempo(120.0)}, {"bars": 2}, {"seconds": 61.0}, {"seconds": float("nan")}],
)
def test_a_capture_says_what_it_needs(session: LiveSession, wrong: dict) -> None:
    with pytest.raises(InputError):
        session.capture(**wrong)


def test_pause_stop_and_start(session: LiveSession) -> None:
    ear = Ear(session)
    session.start()
    ear.until(ear.played(1.0))
    session.pause()
    count = len(ear.blocks)
    for _ in range(3):
        ear.position = ear.blocks[-1].end
        session.report(session.epoch, ear.position, LEAD, False)
        time.sleep(0.2)
    assert len(ear.blocks) <= count + 1 and session.state is State.PAUSED  # a window that was begun may still come
    session.start()
    ear.until(ear.played(ear.position / SAMPLE_RATE + 1.0))
    before = session.epoch
    session.stop()
    assert session.epoch == before + 1 and session.state is State.READY
    session.rest()
    assert session.state is State.READY
    session.start()
    ear.until(lambda: ear.blocks[-1].epoch == before + 1)
    session.close()
    session.close()
    assert session.state is State.CLOSED
    with pytest.raises(SessionError):
        session.start()


def test_a_listener_that_comes_back_gets_what_it_has_missed(session: LiveSession) -> None:
    ear = Ear(session)
    session.start()
    ear.until(ear.played(2.0))
    session.detach(ear)
    place = ear.blocks[-3].position + 100
    blocks = session.resume(ear, session.epoch, place)
    assert blocks[0].position <= place < blocks[0].end
    assert [block.end for block in blocks[:-1]] == [block.position for block in blocks[1:]]
    epoch = session.epoch
    assert session.resume(ear, epoch - 1, place) == [] and session.epoch == epoch + 1


def test_a_listener_that_comes_back_gets_what_was_made_again(session: LiveSession) -> None:
    """It has sound up to a place behind which the session went back for a change: the sound goes on, in its epoch."""
    ear = Ear(session)
    session.start()
    ahead(ear, 1.0, Heard())
    epoch, end = session.epoch, ear.blocks[-1].end
    session.detach(ear)
    turn(session, 1, velocity_scale=0.5)
    give_up = time.monotonic() + PATIENCE
    while not any(block.heard.hot == 1 for block in session.resume(ear, epoch, end)):
        assert time.monotonic() < give_up and session.epoch == epoch
        session.report(epoch, 0, LEAD, False)
        time.sleep(0.01)
    assert session.epoch == epoch


def test_a_rest_makes_no_generation_longer(session: LiveSession, clock: Clock) -> None:
    """What a change on the beat takes goes by the steps, not by how long nothing was to be done."""
    ear = Ear(session)
    session.start()
    ear.until(lambda: ready(session))
    maker = session._maker
    before = maker.reach(Cost.SLOT)  # without the decode, which may run now and would take ten seconds too
    with maker.lock:
        assert maker.lock.wait_for(lambda: not maker.works, PATIENCE)
        clock.now += 10.0
    turn(session, 1, velocity_scale=0.5)
    ear.until(ear.heard(1))
    assert maker.reach(Cost.SLOT) <= before


@pytest.mark.parametrize(
    "wrong", [{"velocity_scale": float("nan")}, {"velocity_scale": torch.ones(7)}, {"loudness": 1.0}, {"dcw": 2}]
)
def test_a_wrong_knob_is_refused_and_the_music_goes_on(session: LiveSession, wrong: dict) -> None:
    ear = Ear(session)
    session.start()
    ear.until(ear.played(1.0))
    with pytest.raises(InputError):
        turn(session, 1, **wrong)
    ear.until(ear.played(ear.position / SAMPLE_RATE + 1.0))
    assert not ear.errors


def test_a_failing_tick_is_told_and_the_sound_goes_on(session: LiveSession, score: Score) -> None:
    ear = Ear(session)
    session.start()
    ear.until(ear.played(1.0))
    broken = StandIn()
    broken.rows = _refuse  # type: ignore[method-assign]
    session.play(replace(score, engine=broken), 1)
    ear.until(lambda: bool(ear.errors))
    assert isinstance(ear.errors[0], EngineError)
    ear.until(ear.played(ear.position / SAMPLE_RATE + 3.0))
    turn(session, 2, velocity_scale=0.9) if session.score.engine is score.engine else session.play(score, 2)
    ear.until(ear.heard(2))


def _refuse(*_: object) -> None:
    raise EngineError("the engine broke", "it must not", "mend it")


class Breaking(Tone):
    """A decoder that fails while a test says so."""

    broken = False

    def decoder(self, latents: torch.Tensor) -> torch.Tensor:
        if self.broken:
            raise ValueError("it broke")
        return super().decoder(latents)


@pytest.mark.parametrize("session", [{"vae": Breaking()}], indirect=True)
def test_a_session_whose_sound_fails_is_paused_and_start_tries_again(session: LiveSession) -> None:
    ear, vae = Ear(session), session.score.vae
    assert isinstance(vae, Breaking)
    session.start()
    ear.until(ear.played(1.0))
    vae.broken = True
    ear.until(lambda: bool(ear.errors))
    assert session.state is State.PAUSED and session.error is ear.errors[0] and not session.listening
    vae.broken = False
    session.start()
    assert session.state is State.PLAYING and session.error is None
    ear.until(ear.played(ear.position / SAMPLE_RATE + 1.0))
    assert len(ear.errors) == 1


def test_a_score_that_cannot_be_played_is_refused(score: Score) -> None:
    for wrong in ({"mode": "backwards"}, {"depth": 0}, {"kept": 0.0}, {"seed_step": -1}):
        with pytest.raises(InputError):
            replace(score, **wrong)
    with pytest.raises(InputError, match="25"):
        replace(score, condition=made_up(0, 20, guided=False))
    with pytest.raises(InputError, match="endless"):
        replace(score, mode="endless", source=torch.zeros(FRAMES, 64))


def test_a_stretch_is_asked_for_as_a_repaint(score: Score) -> None:
    """The music before is source and context; the chunk mask and the request's mask keep it, and make the rest."""
    endless, tail = replace(score, mode="endless"), torch.randn(20, 64)
    before, request = score.parts[0].condition.context, endless.request(3, tail)
    context = request.first.context
    assert torch.equal(context[:20, :64], tail) and not context[:20, 64:].any()
    assert torch.equal(context[20:], before[20:])
    assert request.mask is not None and request.source is not None
    assert not request.mask[:20].any() and bool((request.mask[20:] == 1).all())
    assert torch.equal(request.source[:20], tail)
    assert request.sampling.seed == score.sampling.seed + 3


def test_what_a_change_costs(score: Score) -> None:
    expected = {
        Cost.NOTHING: [{"knobs": score.knobs.changed(velocity_scale=1.0)}, {"sampling": Sampling(4)}],
        Cost.TICK: [{"knobs": score.knobs.changed(velocity_scale=0.9)}, {"depth": 3}],
        Cost.SLOT: [
            {"condition": made_up(0, FRAMES, guided=False)},
            {"sampling": Sampling(5)},
            {"source": torch.zeros(FRAMES, 64)},
            {"seed_step": 1},
        ],
        Cost.RING: [
            {"engine": StandIn()},
            {"condition": made_up(0, 2 * FRAMES, guided=False)},
            {"mode": "endless"},
            {"condition": made_up(0, FRAMES, tokens=300, guided=False)},
        ],
    }
    for want, changes in expected.items():
        assert [cost(score, replace(score, **change)) for change in changes] == [want] * len(changes)
