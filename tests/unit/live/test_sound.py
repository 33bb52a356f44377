"""The thread that decodes: what was asked for meanwhile, what is made again, and a decoder that fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ostinato.engine_runtime.live.block import Block
from ostinato.engine_runtime.live.line import Heard, Loop
from ostinato.engine_runtime.live.sound import Sound
from ostinato.engine_runtime.spec import ACE_STEP

from ...ear import PATIENCE, SAMPLE_RATE, Clock, Tone

HOP = ACE_STEP.hop


class Gate(Tone):
    """A decoder that stops where a test says, or fails, or takes time by the clock of a test."""

    def __init__(self, clock: Clock, takes: Iterator[float] | None = None) -> None:
        self.open, self.stopped, self.broken = threading.Event(), threading.Event(), False
        self.clock, self.takes = clock, takes or repeat(0.0)
        self.open.set()

    def decoder(self, latents: torch.Tensor) -> torch.Tensor:
        self.clock.now += next(self.takes)
        if self.broken:
            raise ValueError("it broke")
        if not self.open.is_set():
            self.stopped.set()
            assert self.open.wait(PATIENCE)
        return super().decoder(latents)


class Studio:
    """A sound of a loop in which each frame's latents are its number, but for ten silent ones at its start."""

    def __init__(self, takes: float = 0.0, broken: bool = False) -> None:
        self.line, self.lock, self.clock = Loop(), threading.Condition(), Clock()
        self.vae = Gate(self.clock, repeat(takes))
        self.vae.broken = broken
        self.blocks, self.errors = list[Block](), list[Exception]()
        self.frames = torch.arange(50.0)[:, None].expand(-1, 64).clone()
        self.frames[:10] = 0.0
        self.line.add(self.frames, Heard())
        source = SimpleNamespace(line=self.line, works=False, until_laid=lambda: 0.0)
        send, failed = self.blocks.append, self.errors.append
        self.sound = Sound("test", self.vae, ACE_STEP, self.lock, lambda: source, send, failed, 60.0, self.clock)
        self.sound.open()

    def report(self, position: int) -> None:
        with self.lock:
            self.sound.report(self.sound.cursor.epoch, position, SAMPLE_RATE, False)

    def until(self, done: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < end, self.errors
            time.sleep(0.002)

    def play(self) -> None:
        with self.lock:
            self.sound.play(True)


@pytest.fixture
def studio(request: pytest.FixtureRequest) -> Iterator[Studio]:
    made = Studio(**getattr(request, "param", {}))
    made.report(0)
    made.play()
    yield made
    made.vae.open.set()
    made.sound.close()


def test_a_window_of_the_epoch_before_is_thrown_away_with_what_is_behind_its_end(studio: Studio) -> None:
    studio.until(lambda: bool(studio.blocks) and studio.blocks[-1].end > SAMPLE_RATE)
    studio.vae.open.clear()
    studio.report(15 * HOP)
    studio.until(studio.vae.stopped.is_set)
    with studio.lock:
        studio.sound.begin(2 * HOP)
        studio.sound.report(1, 40 * HOP, SAMPLE_RATE, False)  # which was on its way
        assert studio.sound.cursor.listener.lead == 0
    studio.vae.open.set()
    studio.report(2 * HOP)
    studio.until(lambda: studio.blocks[-1].end > 20 * HOP and studio.blocks[-1].epoch == 2)
    first = next(block for block in studio.blocks if block.epoch == 2)
    assert first.position == 2 * HOP and not np.frombuffer(first.pcm, "<i2").any()  # of silent latents, after loud ones
    for moment in (moment for moment in studio.sound.cursor.tape.moments() if moment.block.epoch == 2):
        assert torch.equal(moment.latents, studio.frames[moment.frame :][: moment.latents.shape[0]])


def test_what_is_made_again_has_nothing_of_what_was_to_follow(studio: Studio) -> None:
    """Silence is made again within silence: the window that was made last fades into loud music."""
    studio.until(lambda: bool(studio.blocks) and studio.blocks[-1].end > SAMPLE_RATE)
    assert np.frombuffer(studio.blocks[-1].pcm, "<i2").any()
    with studio.lock:
        studio.line.add(torch.zeros(50, 64), Heard(1), 4)
        studio.lock.notify_all()
    studio.until(lambda: studio.blocks[-1].heard == Heard(1))
    again = next(block for block in studio.blocks if block.heard == Heard(1))
    assert again.position == 4 * HOP and not np.frombuffer(again.pcm, "<i2").any()


def test_a_decoder_that_fails_is_told_once_and_the_sound_pauses(studio: Studio) -> None:
    studio.until(lambda: bool(studio.blocks) and studio.blocks[-1].end > SAMPLE_RATE)
    studio.vae.broken = True
    studio.report(SAMPLE_RATE)
    studio.until(lambda: bool(studio.errors))
    count = len(studio.blocks)
    time.sleep(0.1)
    assert len(studio.errors) == 1 and len(studio.blocks) == count and not studio.sound.playing
    studio.vae.broken = False
    studio.play()
    studio.until(lambda: len(studio.blocks) > count)


@pytest.mark.parametrize("studio", [{"broken": True}], indirect=True)
def test_a_decoder_that_fails_before_music_plays_is_told_too(studio: Studio) -> None:
    studio.until(lambda: bool(studio.errors) and not studio.sound.playing)
    assert isinstance(studio.errors[0], ValueError)
    studio.vae.broken = False
    studio.play()
    studio.until(lambda: bool(studio.blocks))


@pytest.mark.parametrize("studio", [{"takes": 0.2}], indirect=True)
def test_the_times_of_decodes_set_the_pace(studio: Studio) -> None:
    pace = studio.sound.cursor.pace
    studio.until(lambda: pace.size > 4)
    assert pace.spent > 0.25  # of the first, on the safe side, and of a larger window


def test_the_time_of_a_decode_is_not_that_of_a_decoder_that_came_meanwhile(studio: Studio) -> None:
    studio.until(lambda: bool(studio.blocks) and studio.blocks[-1].end > SAMPLE_RATE)
    count = len(studio.blocks)
    studio.vae.open.clear()
    studio.report(SAMPLE_RATE)
    studio.until(studio.vae.stopped.is_set)
    other = Gate(studio.clock, repeat(0.0))
    other.open.clear()
    with studio.lock:
        studio.sound.use(other)
    studio.vae.open.set()
    studio.until(other.stopped.is_set)
    assert len(studio.blocks) == count + 1
    studio.clock.now += 9.0  # in the first decode of the other, which tells nothing
    other.open.set()
    studio.until(lambda: len(studio.blocks) > count + 2)
    assert studio.sound.cursor.pace.spent < 1.0


def test_the_first_decode_of_another_decoder_tells_nothing(studio: Studio) -> None:
    studio.until(lambda: bool(studio.blocks) and studio.blocks[-1].end > SAMPLE_RATE)
    with studio.lock:
        studio.sound.use(Gate(studio.clock, chain([9.0], repeat(0.0))))
    count = len(studio.blocks)
    studio.report(SAMPLE_RATE)
    studio.until(lambda: len(studio.blocks) > count + 2)
    assert studio.sound.cursor.pace.spent < 1.0
