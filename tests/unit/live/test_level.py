"""Loudness and peaks of live sound."""

import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ostinato.engine_runtime.live.level import AHEAD, CEILING, DELAY, MOST, QUIET, TARGET, Level
from ostinato.engine_runtime.spec import ACE_STEP

HOP, SAMPLE_RATE = ACE_STEP.hop, ACE_STEP.sample_rate

BLOCK = 4 * HOP


def sine(hertz: float, seconds: float, amplitude: float = 1.0) -> np.ndarray:
    wave = amplitude * np.sin(2 * np.pi * hertz * np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE)
    return np.stack([wave, wave]).astype(np.float32)


def shaped(level: Level, audio: np.ndarray, block: int = BLOCK) -> np.ndarray:
    return np.concatenate([level.shape(audio[:, i : i + block]) for i in range(0, audio.shape[1], block)], axis=1)


@pytest.mark.parametrize(("hertz", "lufs"), [(997.0, 0.0), (100.0, -1.8), (4000.0, 3.3)])
def test_loudness_is_that_of_the_standard(hertz: float, lufs: float) -> None:
    """A full-scale sine of 997 Hz in both channels is 0 LUFS; 100 Hz and 4 kHz as the two filters' responses say."""
    level = Level()
    shaped(level, sine(hertz, 4.0))
    assert level.loudness == pytest.approx(lufs, abs=0.1)


def test_music_is_brought_to_the_target() -> None:
    level = Level()
    out = shaped(level, sine(997.0, 8.0, 0.04))
    again = Level()
    shaped(again, out[:, -4 * SAMPLE_RATE :])
    assert again.loudness == pytest.approx(TARGET, abs=0.2)


def test_a_gain_follows_slowly() -> None:
    level = Level()
    shaped(level, sine(997.0, 4.0, 0.5))
    before = level.gain
    level.shape(sine(997.0, BLOCK / SAMPLE_RATE, 0.01))
    assert abs(level.gain - before) <= 3.0 * BLOCK / SAMPLE_RATE + 1e-6


def test_near_silence_is_not_pumped_up() -> None:
    level = Level()
    shaped(level, sine(997.0, 8.0, 10 ** ((QUIET - 6) / 20)))
    assert level.gain == 0.0


def test_quiet_music_is_raised_by_so_much_and_no_more() -> None:
    level = Level()
    shaped(level, sine(997.0, 8.0, 10 ** ((QUIET + 6) / 20)))
    assert level.gain == MOST


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 4, 6]))
def test_no_peak_passes_the_ceiling(seed: int, frames: int) -> None:
    rng = np.random.default_rng(seed)
    audio = (0.05 * rng.standard_normal((2, 12 * frames * HOP))).astype(np.float32)
    audio[rng.integers(0, 2, 40), rng.integers(0, audio.shape[1], 40)] *= rng.uniform(1, 400, 40).astype(np.float32)
    out = shaped(Level(), audio, frames * HOP)
    assert np.abs(out).max() <= CEILING * 1.00001


def test_what_is_below_the_ceiling_is_only_late() -> None:
    level = Level()
    audio = sine(997.0, 2.0, 0.1)
    out = shaped(level, audio)
    gain = 10 ** (level.gain / 20)
    late = audio[:, SAMPLE_RATE - DELAY : -DELAY] * gain
    np.testing.assert_allclose(out[:, SAMPLE_RATE:], late, atol=2e-3)
    assert level.limited == 0.0 and DELAY == AHEAD * 64


def test_blocks_join_as_if_they_were_one() -> None:
    audio = sine(220.0, 1.92, 0.9)
    parts, whole = Level(), Level()
    parts.gain = whole.gain = 0.0
    joined = shaped(parts, audio, 2 * HOP)
    assert np.abs(np.diff(joined[0])).max() < 0.06  # a sine of that size and pitch moves by 0.026 a sample


def test_the_loudness_is_read_while_a_block_is_shaped() -> None:
    """By the server, for the page: the sound's thread does not wait for it."""
    level, ends, interval = Level(), threading.Event(), sys.getswitchinterval()

    def play() -> None:
        while not ends.is_set():
            level.shape(sine(997.0, BLOCK / SAMPLE_RATE))

    thread = threading.Thread(target=play)
    sys.setswitchinterval(1e-5)
    try:
        thread.start()
        assert all(level.loudness < 1.0 for _ in range(20_000))
    finally:
        ends.set()
        thread.join()
        sys.setswitchinterval(interval)
