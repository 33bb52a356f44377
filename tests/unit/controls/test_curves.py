"""Curves against formulas written another way, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ostinato.engine_runtime.controls import curves, from_audio, points
from scipy import signal

from .curve_checks import frames, numbers, refuses, same, shares


@given(numbers, frames)
def test_a_constant(value, n):
    same(curves.constant(value), [value] * n)


def test_a_ramp():
    same(curves.ramp(2, 4), np.linspace(2, 4, 26))
    same(curves.ramp(2, 4), [2])
    same(curves.ramp(1, 0, begin=0.4, until=0.6), [1.0] * 10 + [1 - k / 5 for k in range(5)] + [0.0] * 10)
    same(curves.ramp(1, 0, begin=0.4), [1.0] * 10 + [1 - k / 10 for k in range(11)])
    same(curves.ramp(1, 0, begin=5), [1.0] * 20)
    refuses("from 2 to 1 s", lambda: curves.ramp(0, 1, 2, 1))
    refuses("from 1 to 1 s", lambda: curves.ramp(0, 1, 1, 1))
    refuses("the end of a ramp is -1", lambda: curves.ramp(0, 1, 0, -1))
    refuses("the end of a ramp is 601", lambda: curves.ramp(0, 1, 0, 601))
    refuses("the beginning of a ramp is -1", lambda: curves.ramp(0, 1, -1))
    refuses("the start is nan", lambda: curves.ramp(math.nan, 1))


SHAPES = {
    "sine": lambda turns: np.cos(2 * np.pi * (turns - 0.25)),
    "triangle": lambda turns: signal.sawtooth(2 * np.pi * (turns + 0.25), width=0.5),
    "square": lambda turns: signal.square(2 * np.pi * turns),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("unit", ["Hz", "cycles"])
def test_an_lfo_is_scipys_wave(shape, unit):
    n, rate, phase = 250, 1.7, 0.1234
    time = np.arange(n) / 25
    turns = phase + (rate * time if unit == "Hz" else rate * np.arange(n) / n)
    same(curves.lfo(shape, rate, unit, phase, low=-3, high=5), 1 + 4 * SHAPES[shape](turns), atol=1e-5)


def test_a_square_edge_falls_where_it_belongs():
    same(curves.lfo("square", 0.1), [1.0] * 125 + [0.0] * 125 + [1.0] * 125)
    same(curves.lfo("square", 3, "cycles"), ([1.0] * 7 + [0.0] * 7) * 3)


@given(st.sampled_from(curves.SHAPES), st.floats(0, 12.5), shares, numbers, numbers, st.integers(0, 2**64 - 1), frames)
def test_an_lfo_stays_between_low_and_high(shape, rate, phase, low, high, seed, n):
    made = curves.lfo(shape, rate, "Hz", phase, low, high, seed).values(n)
    slack = 1e-4 + 1e-6 * abs(high - low)
    assert made.shape == (n,) and made.min() >= min(low, high) - slack and made.max() <= max(low, high) + slack


def test_a_random_walk():
    def walk(**more):
        return curves.lfo("random", 1.5, **more)

    whole = walk(seed=7).values(15000)
    np.testing.assert_array_equal(whole, walk(seed=7).values(15000))
    np.testing.assert_array_equal(whole[:500], walk(seed=7).values(500))
    assert np.abs(whole - walk(seed=8).values(15000)).mean() > 0.1
    assert whole.min() < 0.1 and whole.max() > 0.9 and 0.4 < whole.mean() < 0.6
    # smooth: the steepest an S-curve over one cycle of 25 / 1.5 frames can be
    assert np.abs(np.diff(whole)).max() < 1.5 * curves.STEP * 1.5 / 25 + 1e-6
    assert np.abs(np.diff(whole, n=2)).max() < 6 * curves.STEP * (1.5 / 25) ** 2 * 2
    later = walk(seed=7, phase=0.5).values(500)
    assert np.abs(later[:100] - whole[:100]).max() > 1e-3


def test_a_random_walk_is_the_same_everywhere():
    """Written out: the steps are PCG64's raw 53-bit fractions, which no platform may change."""
    raw = np.random.PCG64(3).random_raw(4) >> np.uint64(11)
    draws = raw.astype(np.float64) / 2**53
    place, places = 0.0, []
    for k, draw in enumerate(draws):
        place += draw if k == 0 else (2 * draw - 1) * 0.5
        places.append(abs(place) if place < 1 else 2 - place)
    made = curves.lfo("random", 1, seed=3).values(76)
    np.testing.assert_allclose(made[::25], places, atol=1e-6)


def test_an_lfo_refuses():
    refuses("the rate is 13", lambda: curves.lfo("sine", 13))
    same(curves.lfo("square", 12.5), [1.0, 0.0] * 6)
    refuses("asked of 11 frames; allowed are 5;", lambda: curves.lfo("sine", 6, "cycles").values(11))
    assert curves.lfo("sine", 7500, "cycles").values(15000).shape == (15000,)
    refuses("the rate is 7500.5", lambda: curves.lfo("sine", 7500.5, "cycles"))
    refuses("the rate is -0.5", lambda: curves.lfo("sine", -0.5))
    refuses("the phase is 1.5", lambda: curves.lfo("sine", 1, phase=1.5))
    assert curves.lfo("random", 1, phase=1, seed=2**64 - 1).values(3).shape == (3,)
    refuses("the seed is 18446744073709551616", lambda: curves.lfo("random", 1, seed=2**64))
    same(curves.lfo("square", 6, "cycles"), [1.0, 0.0] * 6)
    refuses("the phase is -0.1", lambda: curves.lfo("sine", 1, phase=-0.1))
    refuses("the shape is 'saw'", lambda: curves.lfo("saw", 1))
    refuses("the unit is 'bpm'", lambda: curves.lfo("sine", 1, "bpm"))
    refuses("the seed is -1", lambda: curves.lfo("random", 1, seed=-1))
    refuses("high is inf", lambda: curves.lfo("sine", 1, high=math.inf))


def test_seconds_are_whole_frames():
    assert [curves.frames_in(s) for s in (0, 0.001, 0.04, 0.061, 2, 600)] == [0, 1, 1, 2, 50, 15_000]
    assert curves.frames_in(2, rate=10.0) == 20
    refuses("the length is -1", lambda: curves.frames_in(-1))
    refuses("the length is 601", lambda: curves.frames_in(601))


TIMED = {
    "constant": lambda: curves.constant(2.0),
    "sine in Hz": lambda: curves.lfo("sine", 0.37, phase=0.2),
    "random in Hz": lambda: curves.lfo("random", 1.3, seed=4),
    "ramp in seconds": lambda: curves.ramp(1.0, 3.0, 2.0, 9.0),
    "beats": lambda: from_audio.beat_grid(97.0, 3, 0.5, 300.0),
    "sum": lambda: curves.arithmetic(curves.lfo("square", 0.7), curves.lfo("triangle", 0.1), "add"),
}
WHOLE = {
    "drawn": lambda: points.through([[0, 0.2], [0.5, 0.9], [1, 0.1]]),
    "cycles": lambda: curves.lfo("sine", 3, "cycles", 0.1),
    "ramp to the end": lambda: curves.ramp(0.0, 1.0, 0.5),
    "measured": lambda: curves.fixed(np.linspace(0.0, 1.0, 50) ** 2),
    "stretched": lambda: curves.resample(curves.fixed(np.linspace(0.0, 1.0, 20) ** 2)),
    "product": lambda: curves.arithmetic(curves.lfo("sine", 2, "cycles"), curves.ramp(1.0, 2.0), "multiply"),
}


@pytest.mark.parametrize("name", TIMED)
@given(start=st.integers(0, 400))
def test_what_is_told_in_time_goes_on_while_music_plays(name, start):
    """A later window is a piece of one long curve."""
    curve = TIMED[name]()
    np.testing.assert_allclose(curve.values(50, start=start), curve.values(450)[start : start + 50], atol=1e-5)


@pytest.mark.parametrize("name", WHOLE)
@given(start=st.integers(0, 400))
def test_what_is_told_over_the_whole_length_comes_again(name, start):
    curve = WHOLE[name]()
    np.testing.assert_allclose(curve.values(50, start=start), np.roll(curve.values(50), -start % 50), atol=1e-6)


@pytest.mark.parametrize("seconds", [0.4, 1.03, -0.7])
def test_a_shift_has_no_edges_while_music_plays(seconds):
    moved, plain = curves.shift(curves.lfo("sine", 0.37), seconds), curves.lfo("sine", 0.37)
    want = np.interp(np.arange(200, 250) - seconds * 25, np.arange(450), plain.values(450))
    np.testing.assert_allclose(moved.values(50, start=200)[:-1], want[:-1], atol=1e-5)


@pytest.mark.parametrize("name", [*TIMED, *WHOLE])
def test_play_begins_with_the_curve_itself(name):
    curve = (TIMED | WHOLE)[name]()
    np.testing.assert_array_equal(curve.values(50, start=0), curve.values(50))
