"""Loudness and beats at the edges: of what is allowed, of a clip, and of the music in it."""

from __future__ import annotations

import numpy as np
import pytest
from ostinato.engine_runtime.controls import from_audio
from ostinato.engine_runtime.errors import AudioError

RATE = 16_000


def strokes(times, seconds, gain=1.0):
    """Tones of 1 kHz that die away, `[1, samples]`."""
    audio, t = np.zeros((1, int(seconds * RATE)), np.float32), np.arange(int(0.03 * RATE)) / RATE
    tone = gain * np.sin(2 * np.pi * 1000 * t) * np.exp(-t / 0.005)
    for time in times:
        at = round(time * RATE)
        audio[0, at : at + len(tone)] += tone[: audio.shape[1] - at]
    return audio


def peaks(curve, frames):
    return np.flatnonzero(curve.values(frames) == 1).tolist()


def test_the_least_and_the_most_that_is_allowed_are():
    for rate in (1_000, 768_000):
        assert from_audio.checked(np.zeros((1, 9)), rate).shape == (1, 9)
    with pytest.raises(AudioError, match="999 Hz"):
        from_audio.checked(np.zeros((1, 9)), 999)
    assert from_audio.checked(np.zeros((1, 600_000), np.float32), 1_000).shape == (1, 600_000)
    assert from_audio.envelope(np.ones((1, 80)), 1_000, 60_000, 60_000).values(2).max() == 1
    beats = from_audio.Beats(60.0, np.array([0.4]))
    assert peaks(from_audio.beat_curve(beats, 25, 64, 0, 60_000), 25) == [10]


def test_each_frame_is_measured_by_its_own_number_of_samples():
    """At 1,010 Hz a frame has 40 or 41 of them; a constant is as loud in both."""
    curve = from_audio.envelope(np.full((1, 1010), 0.5), 1_010, 0, 0)
    np.testing.assert_allclose(curve.values(25), 1, rtol=0, atol=1e-6)


def test_the_first_pulse_comes_after_the_offset():
    """And a pulse that an offset below 0 puts before the start is not there, nor what falls after it."""
    assert peaks(from_audio.beat_grid(240, 1, 0.8, 200), 40) == [20, 26, 32, 39]
    assert from_audio.beat_grid(240, 1, 0.8, 200).values(40)[:20].max() == 0
    assert from_audio.beat_grid(100, 1, -0.72, 1000).values(40)[:12].max() == 0


@pytest.mark.parametrize("gain", [1e-4, 1e-2])
def test_how_loud_a_clip_is_changes_no_onset(gain):
    audio = strokes(np.arange(0.3, 2, 0.5), 2.0)
    audio += 0.3 * np.sin(2 * np.pi * 80 * np.arange(audio.shape[1]) / RATE)
    loud, quiet = from_audio.onsets(audio, RATE), from_audio.onsets(gain * audio, RATE)
    for name in ("flux", "low", "middle"):
        np.testing.assert_allclose(getattr(quiet, name), getattr(loud, name), rtol=1e-3, atol=1e-3)
    assert (loud.channels, from_audio.onsets(np.zeros((2, RATE)), RATE).channels) == (1, 0)


def test_there_is_a_strength_every_10_ms_to_the_end_of_the_clip():
    assert len(from_audio.onsets(strokes([0.5], 1.0), RATE).flux) == 101


@pytest.mark.parametrize("begins", [0.0, 0.01, 0.015, 0.02])
def test_a_clip_that_begins_within_a_window_begins_softly(begins):
    """A tone of 200 Hz has its strength in the middle band, a stroke of 1 kHz hardly any there."""
    audio, t = strokes([1.5], 3.0), np.arange(3 * RATE) / RATE
    audio += np.sin(2 * np.pi * 200 * t) * (t >= begins)
    heard = from_audio.onsets(audio, RATE)
    for strength in (heard.flux, heard.middle):
        assert 0 < strength[:4].max() <= strength[4:].max() / 2


def test_of_a_clip_that_is_all_beginning_nothing_is_an_onset():
    assert from_audio.onsets(strokes([0.0], 0.02), RATE).flux.tolist() == [0.0] * 3


def test_a_given_tempo_a_tenth_off_finds_the_strokes_all_the_same():
    times = np.arange(0.3, 7.9, 60 / 109)
    found = from_audio.find_beats(strokes(times, 8.0), RATE, 120)
    assert found.bpm == 120
    np.testing.assert_allclose(found.times, times, rtol=0, atol=0.02)


@pytest.mark.parametrize("off", [0.1, 0.6])
@pytest.mark.parametrize("gain", [1.0, 2.0, 5.0])
def test_a_loud_stroke_off_the_tempo_at_either_end_is_no_beat(off, gain):
    """It may hide the beat beside it, and no other."""
    times = np.arange(1.5, 9, 0.5)
    accidents = strokes([times[0] - off, times[-1] + off], 10.0, gain)
    found = from_audio.find_beats(strokes(times, 10.0) + accidents, RATE).times
    at = np.abs(found[:, None] - times).argmin(axis=1)
    np.testing.assert_allclose(found, times[at], rtol=0, atol=0.02)
    assert set(range(1, len(times) - 1)) <= set(at)


def test_beats_that_waver_are_kept_to_the_last():
    """Within a sixth of a beat: a drummer is no clock."""
    times = np.arange(0.5, 9.6, 0.6) + np.array([0.0, 0.02, -0.02, 0.03])[np.arange(16) % 4]
    found = from_audio.find_beats(strokes(times, 10.0), RATE).times
    np.testing.assert_allclose(found, times, rtol=0, atol=0.02)
