"""Tempo: a kick on each beat is found at its own tempo, and what has no beat is said to have none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ostinato.engine_runtime.controls import from_audio, tempo
from ostinato.engine_runtime.errors import InputError
from scipy.signal import butter, sosfilt

from ...fuzz import examples
from ..refusal import check_sentence

RATE = 22050
PATTERNS, NEAR, SHARE = 200, 0.02, 0.95


class Pattern:
    """A clip of a drum machine with a kick on each beat: hats, snare, bass and chords as the seed says."""

    def __init__(self, seed: int) -> None:
        self.draw = np.random.default_rng(seed)
        self.bpm, self.seconds = self.draw.uniform(60, 180), self.draw.uniform(8, 14)
        self.sound = np.zeros(int(self.seconds * RATE))
        self.beat = 60 / self.bpm
        self.beats = np.arange(self.draw.uniform(0, 0.5), self.seconds, self.beat)
        self.kicks()
        self.hats(self.draw.integers(4))
        if self.draw.random() < 0.7:
            self.put(self.noise(0.05) * 0.5, self.beats[1::2], self.draw.uniform(0.2, 0.7))  # a snare on 2 and 4
        self.bass(self.draw.integers(4), self.draw.uniform(0.1, 0.45))
        self.sound += self.draw.choice([0, 1e-3, 1e-2]) * self.draw.standard_normal(len(self.sound))
        self.sound *= self.draw.uniform(0.1, 0.9) / np.abs(self.sound).max()

    def put(self, sound, times, gain):
        for time in np.atleast_1d(times):
            at = round(time * RATE)
            if 0 <= at < len(self.sound):
                part = self.sound[at : at + len(sound)]
                part += gain * sound[: len(part)]

    def noise(self, decay, bright=False):
        made = self.draw.standard_normal(int(4 * decay * RATE))
        made = np.diff(made, prepend=0) if bright else made
        return made * np.exp(-np.arange(len(made)) / RATE / decay)

    def kicks(self):
        t = np.arange(int(0.25 * RATE)) / RATE
        kick = np.sin(2 * np.pi * (50 * t + 2.4 * (1 - np.exp(-t / 0.03)))) * np.exp(-t / 0.09)
        for time in self.beats:
            self.put(kick, time, self.draw.uniform(0.8, 1))

    def hats(self, kind):
        hat, gain = self.noise(0.015, bright=True), self.draw.uniform(0.05, 0.3)
        late = self.beat * (0.5 + self.draw.choice([0, 0.05, 0.12]))  # with swing
        self.put(hat, self.beats + late, gain * (kind > 0))
        self.put(hat, self.beats, gain * (kind > 1))
        for quarter in (0.25, 0.75):
            self.put(hat, self.beats + self.beat * quarter, gain * 0.6 * (kind > 2))

    def bass(self, kind, gain):
        t = np.arange(int(0.5 * self.beat * RATE)) / RATE
        fall = np.exp(-t / (0.35 * self.beat)) * np.minimum(1, t / 0.005)
        for i, time in enumerate(self.beats):
            note = np.sin(2 * np.pi * self.draw.uniform(40, 120) * t) * fall
            self.put(note, time + self.beat / 2, gain * (kind in (1, 2)))
            self.put(note, time, gain * (kind == 2 or (kind == 3 and i % 4 == 0)))


def found(sound, rate=RATE):
    return from_audio.find_beats(np.atleast_2d(sound).astype(np.float32), rate)


def no_beat(sound, rate=RATE):
    with pytest.raises(InputError, match="no beat was found") as caught:
        found(sound, rate)
    check_sentence(caught.value)


def test_four_on_the_floor_is_found_at_its_own_tempo():
    """Of these 200 the plain autocorrelation finds half: the others at twice, half or two thirds of it."""
    patterns = [Pattern(seed) for seed in range(PATTERNS)]
    wrong = [(p.bpm, bpm) for p in patterns if abs((bpm := found(p.sound).bpm) / p.bpm - 1) > NEAR]
    assert len(wrong) <= (1 - SHARE) * PATTERNS, wrong


@pytest.mark.parametrize("seed", range(8))
def test_the_beats_of_four_on_the_floor_are_its_kicks(seed):
    pattern = Pattern(seed)
    beats = found(pattern.sound).times
    away = np.abs(beats[:, None] - pattern.beats)
    assert np.median(away.min(axis=1)) < 0.02 and abs(len(beats) - len(pattern.beats)) <= 2


def test_a_snare_between_two_kicks_says_that_the_kicks_are_not_the_beat():
    """Kick on 1 and 3, snare on 2 and 4; without the snare each kick is a beat."""
    pattern = Pattern(0)
    pattern.sound, pattern.beats = np.zeros(10 * RATE), np.arange(0.2, 10, 0.8)
    pattern.kicks()
    alone = from_audio.onsets(pattern.sound[None], RATE)
    assert tempo.kick_period(alone.low, alone.middle, 40.0) == pytest.approx(80.0, rel=0.01)
    pattern.put(pattern.noise(0.05), pattern.beats + 0.4, 0.7)
    heard = from_audio.onsets(pattern.sound[None], RATE)
    assert tempo.kick_period(heard.low, heard.middle, 40.0) is None


def pads(seed):
    """Three held chords that come and go in 0.3 s, 8 s long."""
    draw, t = np.random.default_rng(seed), np.arange(8 * RATE) / RATE
    sound = np.zeros(8 * RATE)
    for first, last in ((0, 3.1), (3.1, 5.3), (5.3, 8)):
        level = (np.minimum(t - first, last - t) / 0.3).clip(0, 1)
        sound += level * sum(0.1 * np.sin(2 * np.pi * f * t) for f in draw.uniform(110, 800, 3))
    return sound


def strokes(times, seconds=4.0, seed=None):
    """Tones of 1 kHz that die away, or bursts of noise with a seed."""
    t = np.arange(int(0.3 * RATE)) / RATE
    stroke = np.sin(2 * np.pi * 1000 * t) if seed is None else np.random.default_rng(seed).standard_normal(len(t))
    sound = np.zeros(int(seconds * RATE))
    for time in times:
        part = sound[round(time * RATE) :][: len(t)]
        part += (stroke * np.exp(-t / 0.05))[: len(part)]
    return sound


TIME = np.arange(5 * RATE) / RATE
BEATLESS = {
    "silence": np.zeros(4 * RATE),
    "a tone": 0.3 * np.sin(2 * np.pi * 440 * TIME),
    "a low tone": 0.3 * np.sin(2 * np.pi * 55 * TIME),
    "a chord": sum(0.1 * np.sin(2 * np.pi * f * TIME) for f in (220, 277.18, 329.63)),
    "a beating chord": sum(0.1 * np.sin(2 * np.pi * f * TIME) for f in (220, 222, 440.5)),
    "vibrato": 0.3 * np.sin(2 * np.pi * 440 * TIME + 3 * np.sin(2 * np.pi * 5 * TIME)),
    "a tone that swells": 0.3 * np.sin(2 * np.pi * 200 * TIME) * np.minimum(1, TIME / 4),
    "noise": 0.1 * np.random.default_rng(0).standard_normal(5 * RATE),
    "one stroke": strokes([3.0]),
    "one burst": strokes([3.0], seed=1),
    "two strokes": strokes([0.7, 2.9]),
    "three bursts": strokes([0.3, 1.9, 3.3], seed=2),
    "four strokes without a beat": strokes([0.3, 0.9, 2.8, 3.1]),
    "a stroke every three seconds": strokes([0.5, 3.5, 6.5, 9.5], 11.0),
    "a very short clip": strokes(np.arange(0, 1.4, 0.25), 1.5),
    "a sample": np.ones(1),
    "a click at the end": np.append(np.zeros(3 * RATE), 1.0),
    "a constant": np.full(3 * RATE, 0.5),
}


@pytest.mark.parametrize("name", BEATLESS)
def test_what_has_no_beat_is_told(name):
    no_beat(BEATLESS[name])
    no_beat(np.stack([BEATLESS[name]] * 2))


@pytest.mark.parametrize("seed", range(6))
def test_held_chords_have_no_beat(seed):
    no_beat(pads(seed))


@pytest.mark.parametrize("channels", [1, 2])
def test_a_given_tempo_makes_no_beat_of_silence_or_chords_or_a_rumble(channels):
    level = (np.minimum(TIME, 5 - TIME) / 0.3).clip(0, 1)
    rumble = level * sosfilt(butter(4, 400, fs=RATE, output="sos"), BEATLESS["noise"])
    for sound in (BEATLESS["silence"], pads(0), rumble):
        with pytest.raises(InputError, match="no beat was found"):
            from_audio.find_beats(np.stack([sound] * channels), RATE, 120)


@pytest.mark.parametrize("seed", range(6))
def test_strokes_at_random_times_have_no_beat(seed):
    times = np.random.default_rng(seed).uniform(0.2, 7.6, 12)
    no_beat(strokes(times, 8.0, seed if seed % 2 else None))


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(st.floats(0, 1), max_size=12), st.floats(0.01, 6), st.sampled_from([0, 60, 240]), st.booleans())
def test_any_strokes_have_a_beat_or_none(places, seconds, bpm, noisy):
    sound = strokes(np.array(places) * seconds, seconds, 3 if noisy else None)
    try:
        beats = from_audio.find_beats(np.atleast_2d(sound), RATE, bpm) if len(sound) else None
    except InputError as error:
        check_sentence(error)
    else:
        assert beats is None or (np.diff(beats.times) > 0).all() and np.isfinite(beats.times).all()
        assert beats is None or beats.bpm == bpm or tempo.MIN_BPM * 0.9 < beats.bpm < tempo.MAX_BPM * 1.1


@pytest.mark.parametrize("period", [48.3, 50.0, 52.4])
def test_a_period_lies_between_frames(period):
    frames = np.arange(1000)
    flux = np.exp(-0.5 * (((frames + period / 2) % period - period / 2) / 3) ** 2)
    assert tempo.likely_period(flux) == pytest.approx(period, abs=0.2)


def test_where_every_other_low_stroke_is_much_weaker_the_beat_is_half_as_fast():
    low, none = np.zeros(1000), np.zeros(1000)
    low[20::100], low[70::100] = 1.0, 0.55
    assert tempo.kick_period(low, none, 50.0) == pytest.approx(100.0, abs=1.0)
    low[70::100] = 0.8
    assert tempo.kick_period(low, none, 50.0) == pytest.approx(50.0, abs=1.0)


def test_five_strokes_at_a_tempo_are_a_beat():
    assert found(strokes(np.arange(0.3, 2.9, 0.5), 3.0)).bpm == pytest.approx(120, rel=0.02)
