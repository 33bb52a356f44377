"""Two minutes of endless music by a session's own ring, faster than they sound: tempo and key hold, no seam stands out,
and another prompt moves them. On the built-in model, whose music detectors understand.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from ostinato.engine_runtime.audio.decode import decode
from ostinato.engine_runtime.config import Sampling
from ostinato.engine_runtime.live.feed import Feed
from ostinato.engine_runtime.live.line import Endless
from ostinato.engine_runtime.live.maker import Maker
from ostinato.engine_runtime.live.score import Score
from ostinato.engine_runtime.models.conditioning import encode_prompt
from ostinato.engine_runtime.models.engines import eager_engine
from ostinato.engine_runtime.models.loading import load
from ostinato.engine_runtime.models.prompt import Prompt
from ostinato.engine_runtime.spec import ACE_STEP
from ostinato.tools.tiny.detect import HOP, RATE, autocorrelation, chroma, key, key_ok, onsets
from ostinato.tools.tiny.listen import Reference
from scipy.stats import mannwhitneyu

from .test_endless import flux

pytestmark = pytest.mark.slow
SECONDS, MORE = 120, 40  # before and after the other prompt
SPAN = 10 * RATE  # samples that detectors listen to
FIRST = Prompt("funk, drums, bass, electric piano", seconds=10.0, bpm=110, key="C major", time_signature="4")
OTHER = replace(FIRST, bpm=125, key="F# major")
ROOTS = {FIRST: 0, OTHER: 6}
BEAT = 60.0 * ACE_STEP.frame_rate  # frames of a beat at one a minute
PATIENCE = 1500.0  # seconds: cores are shared


class Music(NamedTuple):
    """What was made: audio `[2, samples]`, the frames at which stretches join, and the one from which the other prompt
    is heard.
    """

    audio: np.ndarray
    seams: list[int]
    changed: int

    def spans(self, start: int, stop: int) -> list[np.ndarray]:
        """The whole spans between two samples."""
        return [self.audio[:, at : at + SPAN] for at in range(start, stop - SPAN + 1, SPAN)]

    @property
    def before(self) -> list[np.ndarray]:
        return self.spans(0, self.changed * ACE_STEP.hop)

    @property
    def after(self) -> list[np.ndarray]:
        """Without the first stretches, of which the music before is a part."""
        return self.spans(self.changed * ACE_STEP.hop + SPAN, self.audio.shape[1])


GENERATION = 0.45  # seconds: stretches begin where they do on a machine of this speed, elsewhere the music is another


@pytest.fixture(scope="module")
def music(cache: None) -> Music:
    model = load("tiny", torch.device("cpu"), torch.float32)
    first, other = (encode_prompt(model, prompt) for prompt in (FIRST, OTHER))
    score = Score(
        eager_engine(model), model.pipe.vae, first, Sampling(), mode="endless", depth=1, beat=BEAT / FIRST.bpm
    )
    lock, done = threading.Condition(threading.Lock()), threading.Event()
    frames, seams, changes, errors = list[torch.Tensor](), list[int](), list[int](), list[Exception]()

    def made() -> None:
        with lock:
            line = maker.line
            assert isinstance(line, Endless)
            begin, heard = line._joints[-1]
            frames[begin:] = line.frames[begin - line.start :]
        if begin:
            seams.append(begin)
        if heard.slot and not changes:
            changes.append(begin)
        if len(frames) >= (SECONDS + MORE) * ACE_STEP.frame_rate:
            done.set()
        elif len(frames) >= SECONDS * ACE_STEP.frame_rate and not heard.slot:
            maker.play(replace(score, condition=other, beat=BEAT / OTHER.bpm), 1)

    def failed(error: Exception) -> None:
        errors.append(error)
        done.set()

    # what is decoded ends a second before what is made, as if somebody listened
    second: Callable[[], int] = lambda: max(0, len(frames) - ACE_STEP.frame_rate)  # noqa: E731
    nothing: Callable[[], None] = lambda: None  # noqa: E731
    player = SimpleNamespace(rest=lambda room: None)
    needed = lambda: not done.is_set()  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Feed, "generation", GENERATION)
        maker = Maker("two minutes", score, lock, second, needed, nothing, nothing, made, failed, player)
        maker.open()
        try:
            assert done.wait(PATIENCE) and not errors, errors
        finally:
            maker.close()
    audio = decode(model.pipe.vae, torch.stack(frames)[None], 250)[0].numpy()
    return Music(audio, seams, changes[0])


def tempo_near(audio: np.ndarray, bpm: int) -> float:
    """The tempo, within a fifth of this one, whose beat, half bar and bar repeat most in the onsets."""
    found, near = autocorrelation(onsets(audio)), bpm * np.geomspace(1 / 1.2, 1.2, 161)
    lags = np.outer((1, 2, 4), 60 * RATE / HOP / near)
    return float(near[np.interp(lags, np.arange(len(found)), found).mean(0).argmax()])


def keeps_time(audio: np.ndarray, bpm: int) -> bool:
    return abs(tempo_near(audio, bpm) / bpm - 1) < 0.03


def in_key(audio: np.ndarray, prompt: Prompt) -> bool:
    reference = Reference.load()
    found = key(chroma(audio), reference.major, reference.minor)
    return key_ok(found, ROOTS[prompt], False) in ("exact", "relative")


def test_tempo_and_key_hold_for_two_minutes(music: Music) -> None:
    assert len(music.before) >= SECONDS // 10
    for i, span in enumerate(music.before):
        assert in_key(span, FIRST), i
    right = [keeps_time(span, FIRST.bpm) for span in music.before]
    assert np.mean(right) >= 0.9, [tempo_near(span, FIRST.bpm) for span in music.before]
    assert np.mean([keeps_time(span, OTHER.bpm) for span in music.before]) < 0.5


def test_no_seam_is_a_louder_change_than_the_music_has_elsewhere(music: Music) -> None:
    found = flux(music.audio)  # every hundredth of a second; a frame has four
    at = [found[4 * seam - 6 : 4 * seam + 6].max() for seam in music.seams if 4 * seam + 6 < len(found)]
    elsewhere = [found[i : i + 12].max() for i in range(20, len(found) - 20, 7)]
    assert len(at) >= 20
    assert mannwhitneyu(at, elsewhere, alternative="greater").pvalue > 0.05
    assert max(at) <= max(elsewhere)


def test_another_prompt_moves_tempo_and_key(music: Music) -> None:
    assert len(music.after) >= 2
    for i, span in enumerate(music.after):
        assert in_key(span, OTHER) and not in_key(span, FIRST), i
        assert keeps_time(span, OTHER.bpm) and not keeps_time(span, FIRST.bpm), i


def test_the_measure_of_seams_finds_a_cut(music: Music) -> None:
    """Where stretches do not go on with what was before, the same measure says so."""
    cut = np.concatenate([span[:, : SPAN // 2] for span in reversed(music.before)], axis=1)
    cut[:, :: SPAN // 2] = 0.9  # a click at each joint
    found = flux(cut)
    joints = range(SPAN // 2 // 480, len(found) - 6, SPAN // 2 // 480)
    at = [found[joint - 6 : joint + 6].max() for joint in joints]
    elsewhere = [found[i : i + 12].max() for i in range(20, len(found) - 20, 7)]
    assert mannwhitneyu(at, elsewhere, alternative="greater").pvalue < 0.05
