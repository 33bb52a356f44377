"""Loudness and beats of hand-made sound whose loudness and beats are known."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ostinato.engine_runtime.controls import from_audio
from ostinato.engine_runtime.errors import AudioError, InputError
from scipy.signal import resample_poly

from ..refusal import check_sentence

FRAME = 1 / 25
RATES = (8000, 44100, 192000)


def clicks(bpm, seconds=10.0, rate=22050, first=0.3, noise=0.0, channels=1):
    """Short tones on the beat, and the times of the beats."""
    audio = noise * np.random.default_rng(1).standard_normal((channels, int(seconds * rate)))
    times = np.arange(first, seconds - 0.05, 60 / bpm)
    t = np.arange(int(0.03 * rate)) / rate
    tone = np.sin(2 * np.pi * 1000 * t) * np.exp(-t / 0.005)
    for start in (np.round(times * rate)).astype(int):
        audio[:, start : start + len(tone)] += tone
    return audio.astype(np.float32), times


def refuses(kind, given, action):
    with pytest.raises(InputError) as caught:
        action()
    assert type(caught.value) is kind
    check_sentence(caught.value)
    assert given in str(caught.value)


@given(st.integers(1, 700_000), st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000, 96000, 192000]))
def test_frames_are_the_encoders(samples, rate):
    """After `prepare_audio` has brought a clip to 48 kHz, the encoder makes a frame of every 1920 whole samples."""
    common = math.gcd(48000, rate)
    up, down = 48000 // common, rate // common
    resampled = -(-samples * up // down)  # the length that resample_poly documents
    assert from_audio.frames_of(samples, rate) == max(1, resampled // 1920)


def test_the_resampler_makes_that_many_samples():
    for samples, rate in ((12345, 44100), (8001, 8000), (4410, 192000)):
        common = math.gcd(48000, rate)
        made = resample_poly(np.zeros(samples), 48000 // common, rate // common)
        assert len(made) == math.ceil(samples * 48000 / rate)


@pytest.mark.parametrize("rate", RATES)
def test_the_envelope_of_a_modulated_tone(rate):
    t = np.arange(4 * rate) / rate
    swell = 0.55 + 0.45 * np.cos(2 * np.pi * 0.5 * t)
    audio = np.stack([0.3 * swell * np.sin(2 * np.pi * 440 * t), np.zeros_like(t)])
    made = from_audio.envelope(audio, rate, attack=0, release=0)
    middles = (np.arange(100) + 0.5) * FRAME
    np.testing.assert_allclose(made.values(100), 0.55 + 0.45 * np.cos(np.pi * middles), atol=0.02)
    assert made.frames == 100


def test_channels_do_not_cancel():
    t = np.arange(44100) / 44100
    tone = np.sin(2 * np.pi * 300 * t)
    both = from_audio.envelope(np.stack([tone, -tone]), 44100, 0, 0).values(25)
    np.testing.assert_allclose(both, 1, atol=0.01)


def test_attack_and_release_are_time_constants():
    audio = np.zeros((1, 100 * 1920), dtype=np.float32)
    audio[:, 25 * 1920 : 75 * 1920] = 0.5
    made = from_audio.envelope(audio, 48000, attack=120, release=400).values(100)
    since = np.arange(1, 26) * FRAME  # seconds after the step, at the end of each frame
    np.testing.assert_allclose(made[25:50], 1 - np.exp(-since / 0.12), atol=1e-4)
    np.testing.assert_allclose(made[75:100], made[74] * np.exp(-since / 0.4), atol=1e-4)
    assert (made[:25] == 0).all() and made.max() == 1


def test_silence_and_the_quietest_sound():
    assert (from_audio.envelope(np.zeros((2, 48000)), 48000, 10, 200).values(25) == 0).all()
    assert from_audio.envelope(np.full((1, 48000), 1e-20), 48000, 10, 200).values(25).max() == 1
    assert from_audio.envelope(np.ones((1, 1)), 48000, 10, 200).values(1)[0] == 1  # less than a frame counts as one


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("bpm", [90, 120, 128])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_beats_of_clicks(bpm, rate, noise):
    audio, times = clicks(bpm, rate=rate, noise=noise, channels=2 if bpm == 90 else 1)
    found = from_audio.find_beats(audio, rate)
    assert found.bpm == pytest.approx(bpm, rel=0.015)
    away = np.abs(found.times[:, None] - times)
    assert away.min(axis=0).max() < FRAME / 2, "a beat was missed"
    wrong = int((away.min(axis=1) > FRAME / 2).sum())
    assert wrong <= (noise > 0), "noise ends somewhere, which may pass for one beat there; no other is made up"


@pytest.mark.parametrize("bpm", [60, 75, 100, 120])
@pytest.mark.parametrize("rate", [22050, 48000])
def test_a_beat_is_where_the_click_begins(bpm, rate):
    """Within half a step of the measure, which is 10 ms; these tempi lie on whole ones."""
    audio, times = clicks(bpm, rate=rate)
    np.testing.assert_allclose(from_audio.find_beats(audio, rate).times, times, rtol=0, atol=0.005)


@pytest.mark.parametrize("bpm", [60, 75, 100, 140])
def test_a_loop_has_its_first_beat_at_once(bpm):
    audio, times = clicks(bpm, first=0.0)
    found = from_audio.find_beats(audio, 22050)
    assert len(found.times) == len(times)
    np.testing.assert_allclose(found.times, times, atol=FRAME / 2)


def test_no_beat_is_counted_into_silence():
    audio, times = clicks(120, seconds=6)
    still = np.zeros((1, 3 * 22050), dtype=np.float32)
    found = from_audio.find_beats(np.concatenate([still, audio, still], axis=1), 22050)
    assert len(found.times) == len(times)
    np.testing.assert_allclose(found.times, times + 3, atol=FRAME / 2)


def add_click(audio, at, rate=22050):
    tone = clicks(60, seconds=1.0, rate=rate)[0][:, int(0.3 * rate) : int(0.33 * rate)]
    audio[:, round(at * rate) : round(at * rate) + tone.shape[1]] += tone


def test_a_lone_onset_is_no_beat():
    audio = np.zeros((1, 3 * 22050), dtype=np.float32)
    add_click(audio, 1.0)
    refuses(InputError, "no beat was found in 3 s", lambda: from_audio.find_beats(audio, 22050))


def test_an_onset_off_the_tempo_before_or_after_the_beats_is_none():
    """Sound begins and ends somewhere. Nearer than a sixth of a beat to where a beat would be, it may be one."""
    audio, times = clicks(120, first=1.0)
    audio[:, round((times[-1] + 0.25) * 22050) :] = 0
    add_click(audio, times[0] - 0.41)
    add_click(audio, times[-1] + 0.41)
    np.testing.assert_allclose(from_audio.find_beats(audio, 22050).times, times, atol=0.005)


@pytest.mark.parametrize("bpm", [45, 97, 133.7, 230])
def test_a_tempo_is_found_between_40_and_240(bpm):
    audio, _ = clicks(bpm, seconds=12)
    assert from_audio.find_beats(audio, 22050).bpm == pytest.approx(bpm, rel=0.001)


def test_a_given_tempo_is_kept():
    audio, times = clicks(160)
    half = from_audio.find_beats(audio, 22050, bpm=80)
    assert half.bpm == 80 and abs(len(half.times) - len(times) / 2) <= 1
    np.testing.assert_allclose(np.diff(half.times), 0.75, atol=FRAME)


def test_opposite_channels_have_beats():
    audio, times = clicks(120)
    found = from_audio.find_beats(np.concatenate([audio, -audio]), 22050)
    assert len(found.times) == len(times)


def test_pulses_fall_by_e_each_decay():
    made = from_audio.pulses(np.array([0.39, 0.8]), 30, decay=100)
    expected = np.zeros(30)
    expected[10:20] = np.exp(-np.arange(10) * FRAME / 0.1)
    expected[20:] = np.exp(-np.arange(10) * FRAME / 0.1)
    np.testing.assert_allclose(made, expected)
    np.testing.assert_array_equal(np.flatnonzero(from_audio.pulses(np.array([0.39, 0.8]), 30, decay=0)), [10, 20])
    assert not from_audio.pulses(np.array([]), 5, decay=100).any()
    np.testing.assert_allclose(from_audio.pulses(np.array([1.0]), 30, decay=100, rate=10)[10:12], [1, np.exp(-1)])
    refuses(InputError, "the decay is -1", lambda: from_audio.pulses(np.array([0.4]), 5, decay=-1))
    refuses(InputError, "the decay is 60001", lambda: from_audio.pulses(np.array([0.4]), 5, decay=60_001))


def test_a_grid_of_beats():
    def peaks(curve, n):
        return np.flatnonzero(curve.values(n)).tolist()

    def grid(bpm, every=1, offset=0.0, decay=200.0):
        return from_audio.beat_grid(bpm, every, offset, decay)

    assert peaks(grid(120, decay=0), 60) == [0, 12, 25, 38, 50]  # every 12.5 frames, to the nearest even one
    assert peaks(grid(120, every=2, decay=0), 60) == [0, 25, 50]
    assert peaks(grid(60, offset=0.2, decay=0), 60) == [5, 30, 55]
    assert peaks(grid(60, offset=-0.2, decay=0), 60) == [20, 45]
    assert peaks(grid(100, offset=-0.72, decay=0), 60) == [12, 27, 42, 57], "the first two lie before the start"
    assert peaks(grid(60, offset=-1.0, decay=0), 60) == [0, 25, 50]
    assert peaks(grid(60, offset=0.2, every=64, decay=0), 60) == [5]
    assert peaks(grid(60, offset=9, decay=0), 60) == []
    assert grid(120).frames is None
    early = grid(60, offset=-0.2, decay=1000).values(60)
    assert early[:20].max() == 0, "a pulse before the start is skipped, its fall too"


def test_a_curve_of_found_beats():
    beats = from_audio.Beats(60.0, np.array([0.4, 1.4, 2.4]))

    def found(every=1, offset=0.0, decay=0.0):
        return from_audio.beat_curve(beats, 75, every, offset, decay)

    curve = found()
    assert np.flatnonzero(curve.values(75)).tolist() == [10, 35, 60] and curve.frames == 75
    assert np.flatnonzero(found(every=2).values(75)).tolist() == [10, 60]
    assert np.flatnonzero(found(offset=-0.6).values(75)).tolist() == [20, 45]
    assert np.flatnonzero(found(offset=0.8).values(75)).tolist() == [30, 55]
    assert np.flatnonzero(found(offset=-0.4).values(75)).tolist() == [0, 25, 50]
    early = found(offset=-0.6, decay=1000).values(75)
    assert early[:20].max() == 0, "a beat before the start is skipped, its fall too"


def test_what_is_no_audio():
    for call in (partial(from_audio.envelope, attack=10, release=200), from_audio.find_beats):
        refuses(AudioError, "shape [2, 0]", lambda call=call: call(np.zeros((2, 0)), 48000))
        refuses(AudioError, "shape [9]", lambda call=call: call(np.zeros(9), 48000))
        refuses(AudioError, "500 Hz", lambda call=call: call(np.zeros((1, 9)), 500))
        refuses(AudioError, "NaN", lambda call=call: call(np.full((1, 9), np.nan), 48000))
        refuses(AudioError, "NaN", lambda call=call: call(np.array([[0.0, 0.5, math.inf]]), 48000))
        refuses(AudioError, "768001 Hz", lambda call=call: call(np.zeros((1, 9)), 768_001))
        refuses(AudioError, "601 s", lambda call=call: call(np.zeros((1, 601_000), np.float32), 1000))


def test_beats_refuse():
    refuses(InputError, "no beat was found", lambda: from_audio.find_beats(np.zeros((2, 96000)), 48000))
    refuses(InputError, "0.5 s", lambda: from_audio.find_beats(np.ones((1, 24000)), 48000))
    refuses(InputError, "1.9 s", lambda: from_audio.find_beats(clicks(120, seconds=1.9)[0], 22050))
    assert len(from_audio.find_beats(clicks(120, seconds=2.0, first=0.1)[0], 22050).times) == 4
    audio, _ = clicks(120, seconds=3)
    refuses(InputError, "the tempo is 30", lambda: from_audio.find_beats(audio, 22050, 30))
    refuses(InputError, "the tempo is 0", lambda: from_audio.beat_grid(0, 1, 0, 200))
    refuses(InputError, "the tempo is 241", lambda: from_audio.beat_grid(241, 1, 0, 200))
    beats = from_audio.Beats(60.0, np.array([0.4]))
    for make in (partial(from_audio.beat_grid, 120), partial(from_audio.beat_curve, beats, 9)):
        for every in (0, 65):
            refuses(InputError, f"every is {every}", lambda make=make, every=every: make(every, 0, 200))
        for offset in (-601, 601):
            refuses(InputError, f"the offset is {offset}", lambda make=make, offset=offset: make(1, offset, 200))
    refuses(InputError, "the decay is -1", lambda: from_audio.beat_grid(120, 1, 0, decay=-1))
    refuses(InputError, "the attack is nan", lambda: from_audio.envelope(audio, 22050, math.nan, 200))
    refuses(InputError, "the release is -1", lambda: from_audio.envelope(audio, 22050, 10, release=-1))


def test_that_a_clip_begins_tells_less_than_what_comes_later():
    t = np.arange(3 * 22050) / 22050
    audio = np.sin(2 * np.pi * 200 * t)[None].astype(np.float32)
    add_click(audio, 1.5)
    strength = from_audio.onsets(audio, 22050).flux
    assert strength[:4].max() == strength[4:].max() / 2 and abs(int(strength.argmax()) - 150) <= 2


def test_silence_has_no_onset_however_long():
    assert from_audio.onsets(np.zeros((2, 48_000)), 48_000).flux.tolist() == [0.0] * 100
    assert from_audio.onsets(np.zeros((1, 100)), 48_000).flux.tolist() == [0.0]
