"""What a live ring is given and when, and where its latents are laid; the ring is a list of what it was given."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ostinato.engine_runtime.config import Sampling
from ostinato.engine_runtime.controls.automation import Track
from ostinato.engine_runtime.live.feed import RUNWAY, Feed
from ostinato.engine_runtime.live.line import Endless, Heard, Loop
from ostinato.engine_runtime.live.score import Score
from ostinato.engine_runtime.spec import ACE_STEP
from ostinato.engine_runtime.stream.request import Request

from ...ear import Clock, Tone
from ...helpers import StandIn, made_up

FRAMES, STEPS, SEED = 100, 4, 7
GENERATION = 0.4  # seconds
AHEAD = round(GENERATION * ACE_STEP.frame_rate) + 1  # frames from the sound to where a stretch can begin
SHORT = FRAMES - AHEAD - round(RUNWAY * ACE_STEP.frame_rate)  # frames of sound at which the first stretch runs short


class Lock(threading.Condition):
    """Counts how often those who wait are told."""

    told = 0

    def __init__(self) -> None:
        self.inner = threading.Lock()
        super().__init__(self.inner)

    def notify_all(self) -> None:
        self.told += 1
        super().notify_all()


class Studio:
    """A feed, and a ring that is the list of what it was given.

    Attributes:
        given: each request, with the steps that were made before it.
        flying: those that are in the ring.
        moved: the moments that the moving knobs were set for.
        noted: what the take was told of.
        decoded: the moment up to which the sound is made.
    """

    def __init__(self, **score: Any) -> None:
        first = {"sampling": Sampling(STEPS, seed=SEED), "depth": 2} | score
        made = Score(StandIn(), Tone(), made_up(0, FRAMES, guided=False), **first)
        self.given, self.flying, self.moved = list[tuple[int, Request]](), list[Request](), list[int]()
        self.noted = list[tuple[Request, torch.Tensor]]()
        self.decoded, self.lock = 0, Lock()
        record = SimpleNamespace(finished=lambda request, latent: self.noted.append((request, latent)))
        config = SimpleNamespace(depth=made.depth)
        self.session = SimpleNamespace(ticks=0, config=config, submit=self._submit)
        self.lease = SimpleNamespace(
            score=made, session=self.session, record=record, opened=True, move=self.moved.append
        )
        self.feed = Feed(self.lease, self.lock, self._decoded, Clock())  # type: ignore[arg-type]
        self.feed.flights.tick = GENERATION / STEPS

    def _submit(self, request: Request) -> None:
        self.given.append((self.session.ticks, request))
        self.flying.append(request)

    def _decoded(self) -> int:
        assert self.lock.inner.locked()
        return self.decoded

    @property
    def begins(self) -> list[int]:
        """The steps before which requests were given."""
        return [ticks for ticks, _ in self.given]

    @property
    def line(self) -> Loop | Endless:
        return self.feed.line

    def asked(self, question: Callable[[], Any]) -> Any:
        with self.lock:
            return question()

    @property
    def wanted(self) -> bool:
        return self.asked(lambda: self.feed.wanted)

    @property
    def extends(self) -> bool:
        return self.asked(lambda: self.feed.extends)

    def turned(self, **changes: Any) -> None:
        self.lease.score = replace(self.lease.score, **changes)
        self.feed.turned()

    def opened(self, goes_on: bool = False, **changes: Any) -> None:
        """Open another ring for a changed score."""
        self.flying.clear()
        self.lease.score = replace(self.lease.score, **changes)
        self.feed.begin(self.lease.score, goes_on)

    def step(self, count: int = 1, lays: bool = True) -> None:
        """Make steps; a latent that finishes holds the number of its request."""
        for _ in range(count):
            self.feed.submit(self.session)  # type: ignore[arg-type]
            self.session.ticks += 1
            self.feed.stepped()
            ended = [r for begin, r in self.given if begin + r.steps == self.session.ticks and r in self.flying]
            for request in ended if lays else []:
                self.lay(request)

    def lay(self, request: Request, done: Any = None) -> torch.Tensor:
        number = next(i for i, (_, one) in enumerate(self.given) if one is request)
        latent = torch.full((request.frames, ACE_STEP.channels), float(number))
        self.flying.remove(request)
        self.feed.lay(SimpleNamespace(request=request, take=lambda: latent, done=done))  # type: ignore[arg-type]
        return latent

    def stretch(self) -> tuple[int, int]:
        """Return the first new moment of the stretch in flight, and the frames that it keeps."""
        flight = self.feed.flights.first
        assert flight is not None
        return flight.at, flight.kept


def moving(mode: str) -> Studio:
    return Studio(mode=mode, moving={"velocity_scale": lambda moment: torch.ones(FRAMES)})


def endless(**score: Any) -> Studio:
    """Its first stretch is laid."""
    studio = Studio(mode="endless", **score)
    studio.step(STEPS)
    assert studio.line.end == FRAMES
    return studio


# --- a loop ---


@pytest.mark.parametrize(
    "steps, asked, here, begins",
    [
        (4, 2, 2, [0, 2, 4, 6]),
        (5, 2, 2, [0, 3, 6, 9]),  # a latent every 2.5 steps would crowd two into one
        (4, 1, 1, [0, 4, 8]),
        (4, 2, 1, [0, 4, 8]),  # the ring could not grow
        (4, 1, 2, [0, 4, 8]),  # it shrinks with its next step
    ],
)
def test_a_loop_keeps_its_ring_full_evenly(steps: int, asked: int, here: int, begins: list[int]) -> None:
    studio = Studio(sampling=Sampling(steps), depth=asked)
    studio.session.config.depth = here
    studio.step(begins[-1] + 1)
    assert studio.begins == begins and all(request.mask is None for _, request in studio.given)


def test_a_request_of_fewer_steps_does_not_end_with_another() -> None:
    studio = Studio(sampling=Sampling(8))
    studio.step(4)
    studio.turned(sampling=Sampling(4))
    studio.step(2)
    assert studio.begins == [0, 5] and sorted(studio.feed.flights.ends) == [8, 9]


def test_a_ring_is_given_no_more_than_its_depth() -> None:
    """Although requests of fewer steps would come closer to each other."""
    studio = Studio(sampling=Sampling(8))
    studio.step(5)
    assert studio.begins == [0, 4]
    studio.turned(sampling=Sampling(2))
    studio.step(3)
    assert studio.begins == [0, 4]
    studio.step()
    assert studio.begins == [0, 4, 8]


def test_generations_are_counted() -> None:
    studio = Studio(seed_step=3)
    studio.step(5)
    assert [request.sampling.seed for _, request in studio.given] == [SEED, SEED + 3, SEED + 6]


def test_a_loop_that_would_repeat_itself_wants_no_last_step() -> None:
    studio = Studio(depth=1)
    assert studio.wanted
    studio.step(STEPS - 1)
    assert studio.wanted  # of the first, which brings music
    studio.step(STEPS - 1)
    assert studio.wanted
    studio.step()
    assert not studio.wanted
    studio.feed.hear(Heard(), 0)
    assert not studio.wanted
    studio.feed.hear(Heard(1), 0)
    assert studio.wanted
    studio.step()  # it was begun before the change, which is only in its last step
    assert studio.line.changes_at(0) == Heard(1)
    studio.step(STEPS - 1)
    assert studio.wanted
    studio.step()
    studio.step(STEPS - 1)
    assert not studio.wanted


@pytest.mark.parametrize(
    "score",
    [
        {"seed_step": 1},
        {"tracks": (Track("velocity_scale", [1.0, 0.9]),)},
        {"moving": {"velocity_scale": lambda moment: torch.ones(FRAMES)}},
    ],
)
def test_a_loop_that_changes_by_itself_wants_every_step(score: dict[str, Any]) -> None:
    studio = Studio(depth=1, **score)
    studio.step(2 * STEPS - 1)
    assert studio.wanted


def test_a_loop_sounds_from_the_moment_that_it_waits_for() -> None:
    studio = Studio(depth=1)
    studio.step(STEPS)
    studio.feed.hear(Heard(1, 1), 30)
    studio.feed.hear(Heard(1, 1), 40)
    studio.step(STEPS)
    assert studio.line.changes(20, 60) == [(20, Heard()), (40, Heard(1, 1))]
    assert studio.line.window(39, 41, 0)[0][:, 0].tolist() == [0.0, 1.0]


# --- music without end ---


def test_a_stretch_is_begun_when_music_runs_short() -> None:
    studio = endless()
    (_, first), studio.decoded = studio.given[0], SHORT - 1
    assert first.mask is None and first.source is None
    studio.step()
    assert len(studio.given) == 1 and not studio.wanted
    studio.decoded += 1
    assert studio.wanted
    studio.step()
    assert studio.stretch() == (FRAMES // 2, FRAMES // 2) == (SHORT + AHEAD, FRAMES // 2)
    _, second = studio.given[1]
    assert second.mask is not None and int((second.mask[:, 0] == 0).sum()) == FRAMES // 2
    studio.step()
    assert studio.wanted and len(studio.given) == 2  # one at a time
    studio.step(STEPS - 2)
    assert isinstance(studio.line, Endless) and studio.line.end == FRAMES
    assert studio.line.frames[:, 0].tolist() == [0.0] * 50 + [1.0] * 50
    assert [request.sampling.seed for _, request in studio.given] == [SEED, SEED + 1]


def test_a_change_begins_a_stretch_as_near_as_it_can_be_ready() -> None:
    studio = endless()
    studio.decoded = 5
    studio.feed.hear(Heard(), 0)
    assert not studio.wanted
    studio.feed.hear(Heard(1), 0)
    studio.step()
    assert studio.stretch() == (5 + AHEAD, 5 + AHEAD)
    studio.step(STEPS - 1)
    assert not studio.wanted  # the change is in the music


def test_a_stretch_waits_for_its_moment_and_not_beyond_the_music() -> None:
    for earliest, at in ((30, 30), (FRAMES + 50, FRAMES)):
        studio = endless()
        studio.feed.hear(Heard(1), earliest)
        studio.step()
        assert studio.stretch() == (at, min(at, FRAMES // 2))


def test_a_stretch_that_comes_late_is_laid_behind_the_sound_and_a_held_one_at_its_moment() -> None:
    for decoded, earliest, at in ((45, 0, 45), (20, 60, 60)):
        studio = endless()
        studio.feed.hear(Heard(1), 0)
        studio.step()
        studio.decoded = decoded
        studio.feed.hear(Heard(1), earliest)
        studio.step(STEPS - 1)
        assert studio.line.changes(0, FRAMES) == [(0, Heard()), (at, Heard(1))]


def test_music_is_made_up_to_the_moment_that_a_change_waits_for() -> None:
    studio = endless()
    assert not studio.extends
    studio.feed.awaited = FRAMES
    assert not studio.extends  # it can begin where the music ends
    studio.feed.awaited = FRAMES + 1
    assert studio.extends and studio.wanted
    studio.step()
    assert studio.stretch() == (FRAMES, FRAMES // 2)
    studio.step(STEPS - 1)
    assert studio.line.end == FRAMES * 3 // 2 and not studio.extends and not studio.wanted


def test_nothing_is_extended_that_has_no_music_or_goes_round_or_is_about_to_be_replaced() -> None:
    for studio in (Studio(), Studio(mode="endless")):
        studio.feed.awaited = 10 * FRAMES
        assert not studio.extends
    loop = Studio()
    loop.step(STEPS)
    loop.feed.awaited = 10 * FRAMES
    assert not loop.extends
    studio = endless()
    studio.feed.awaited = 10 * FRAMES
    studio.opened()
    assert not studio.extends


def test_a_stretch_keeps_as_much_as_the_score_says() -> None:
    studio = endless(kept=0.2)
    studio.decoded = SHORT
    studio.step(STEPS)
    assert studio.line.end == 50 + 80
    studio.turned(kept=0.4)
    studio.feed.hear(Heard(1, 1), 0)
    studio.step()
    assert studio.stretch() == (SHORT + AHEAD, 40)


def test_a_tail_begins_on_a_beat_of_the_score() -> None:
    studio = endless(beat=12.0)
    studio.feed.hear(Heard(1), 70)
    studio.step()
    assert studio.stretch() == (70, 70 - 24)  # of the 50 frames before, those from the second beat on


# --- what is laid ---


@pytest.mark.parametrize("mode", ["loop", "endless"])
def test_a_latent_has_the_hot_changes_of_now_and_the_others_of_its_begin(mode: str) -> None:
    studio = Studio(mode=mode)
    studio.feed.hear(Heard(1, 1), 0)
    studio.step(2)
    studio.feed.hear(Heard(3, 2), 0)
    studio.step(2)
    assert studio.line.changes_at(0) == Heard(3, 1)
    studio.step(STEPS)
    assert studio.line.changes_at(1 << 20) == Heard(3, 2)


def test_a_latent_is_waited_for_noted_and_told_of() -> None:
    studio, waits = Studio(), list[str]()
    studio.step(STEPS, lays=False)
    _, request = studio.given[0]
    told = studio.lock.told
    latent = studio.lay(request, SimpleNamespace(synchronize=lambda: waits.append("done")))
    assert waits == ["done"] and studio.lock.told == told + 1
    assert [(noted is request, kept is latent) for noted, kept in studio.noted] == [(True, True)]


def test_the_time_until_a_change_is_in_music_is_that_of_the_first_in_flight() -> None:
    studio = Studio()
    studio.feed.hear(Heard(1), 0)
    studio.step()
    studio.feed.flights.step_begins()
    until = lambda change: studio.asked(lambda: studio.feed.until_laid(change))  # noqa: E731
    assert until(1) == pytest.approx((STEPS - 1) * GENERATION / STEPS)
    studio.step(STEPS - 1)
    studio.feed.flights.step_begins()
    assert len(studio.feed.flights) == 1 and until(1) == 0.0 and until(2) > 0.0
    studio.feed.hear(Heard(2), 50)
    studio.step(2)
    assert studio.line.changes_at(49) == Heard(1) and until(2) == 0.0 and until(3) > 0.0  # it is yet to sound
    studio.lease.opened = False
    assert until(3) == 0.0


def test_a_generation_takes_its_steps() -> None:
    studio = Studio()
    assert studio.feed.generation == pytest.approx(GENERATION)
    studio.turned(sampling=Sampling(2 * STEPS))
    assert studio.feed.generation == pytest.approx(2 * GENERATION)


# --- another ring ---


@pytest.mark.parametrize("mode", ["loop", "endless"])
@pytest.mark.parametrize("before", ["loop", "endless"])
def test_the_line_of_another_ring_begins_with_its_first_latent_where_the_sound_is(before: str, mode: str) -> None:
    studio = Studio(mode=before)
    studio.step(STEPS)
    old, studio.decoded = studio.line, 33
    studio.opened(mode=mode)
    studio.feed.hear(Heard(1, 1), 0)
    begun = studio.session.ticks
    studio.step()
    assert studio.begins[-1] == begun and studio.given[-1][1].mask is None
    studio.step(STEPS - 2)
    assert studio.line is old and studio.wanted
    studio.decoded = 44
    studio.step()
    new = studio.line
    assert type(new) is (Loop if mode == "loop" else Endless) and new is not old
    assert new.changes_at(44) == Heard(1, 1) and new.end == (None if mode == "loop" else 44 + FRAMES)
    studio.decoded = 44 + SHORT
    studio.feed.hear(Heard(2, 2), 0)
    studio.step(2 * STEPS)
    assert studio.line is new and new.changes_at(1 << 20).slot == 2
    assert new.first == (0 if mode == "loop" else 44)


def test_a_ring_that_takes_the_place_of_one_without_music_has_a_line_of_its_own() -> None:
    """As where a mode is chosen while the first latent of the session is made."""
    studio = Studio()
    studio.step(STEPS - 1)
    studio.opened(mode="endless", kept=0.3)
    studio.step(STEPS)
    assert isinstance(studio.line, Endless) and studio.line.end == FRAMES and studio.line.kept == 30


@pytest.mark.parametrize("mode", ["loop", "endless"])
def test_music_goes_on_after_a_rest_and_what_was_in_flight_comes_again_at_once(mode: str) -> None:
    studio = Studio(mode=mode, depth=1)
    studio.step(STEPS)
    line = studio.line
    studio.feed.hear(Heard(1, 1), 0)
    studio.step()
    assert len(studio.given) == 2
    studio.opened(goes_on=True)
    assert len(studio.feed.flights) == 0 and studio.wanted
    studio.step()
    assert len(studio.given) == 3
    studio.step(STEPS - 1)
    assert studio.line is line and line.changes_at(1 << 20) == Heard(1, 1)


@pytest.mark.parametrize("mode", ["loop", "endless"])
def test_what_an_error_dropped_is_given_again(mode: str) -> None:
    studio = Studio(mode=mode, depth=1)
    studio.step(STEPS)
    studio.feed.hear(Heard(1, 1), 0)
    studio.step()
    studio.feed.clear()
    studio.flying.clear()
    assert studio.wanted
    studio.step()
    assert len(studio.given) == 3 and len(studio.feed.flights) == 1


# --- knobs that move with the time of play ---


def test_a_round_of_a_loop_is_made_for_where_the_sound_is() -> None:
    studio = moving("loop")
    studio.decoded = 310
    studio.step()
    assert studio.moved == [310]
    studio.decoded = 320
    studio.turned()
    assert studio.moved == [310, 320]


def test_a_stretch_is_made_for_the_moments_in_which_it_sounds() -> None:
    studio = moving("endless")
    studio.turned()
    assert studio.moved == []  # nothing is in flight
    studio.step(STEPS)
    studio.decoded = SHORT + 10
    studio.step()
    assert studio.moved == [0, 10]  # the 50 frames before frame 60 are kept
    studio.decoded += 5
    studio.turned()
    assert studio.moved == [0, 10, 10]


def test_the_first_stretch_of_another_line_is_made_for_where_the_sound_is() -> None:
    studio = moving("loop")
    studio.step(STEPS)
    studio.decoded = 320
    studio.opened(mode="endless")
    studio.step()
    assert studio.moved[-1] == 320


def test_knobs_are_moved_before_the_request_that_they_are_for() -> None:
    studio = moving("loop")
    order = list[str]()
    studio.lease.move = lambda moment: order.append("move")
    studio.session.submit = lambda request: order.append("submit")
    studio.step(lays=False)
    assert order == ["move", "submit"]
