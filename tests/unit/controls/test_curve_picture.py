"""The picture of a curve: round marks, the curve and the sound, and no pulse lost."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ostinato.engine_runtime.plots.curve import plot_curve, ticks


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(1, 10))
def test_marks_are_round_and_even(low, span, count):
    made = ticks(low, low + span, count)
    assert len(made) <= count + 1
    slack = 1e-6 * span + 1e-9 * abs(low)
    assert all(low - slack <= mark <= low + span + slack for mark in made)
    if len(made) > 1:
        step = (made[-1] - made[0]) / (len(made) - 1)
        lead = step / 10 ** math.floor(math.log10(step) + 1e-6)
        assert min(abs(lead - k) for k in (1, 2, 5, 10)) < 1e-2


def pixels(image, colour: str):
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.abs(image[0].numpy() - wanted).max(axis=-1) < 0.02


def test_a_picture_shows_the_curve_and_the_sound():
    from ostinato.engine_runtime.plots.curve import WAVE
    from ostinato.engine_runtime.plots.plot import BOTTOM, LEFT, LINE, RIGHT, TOP

    image = plot_curve(np.linspace(0, 1, 100, dtype=np.float32))
    assert image.shape == (1, 320, 720, 3) and not pixels(image, WAVE).any()
    line = pixels(image, LINE)
    assert not line[:, :LEFT].any() and not line[:TOP].any() and not line[BOTTOM:].any()
    for share in (0.25, 0.5, 0.75):  # rows count downwards
        column = line[:, round(LEFT + share * (RIGHT - LEFT))]
        assert np.flatnonzero(column).mean() == pytest.approx(BOTTOM - share * (BOTTOM - TOP), abs=6)

    sound = np.zeros((2, 4000), dtype=np.float32)
    sound[1, 2000:] = np.tile([0.5, -0.5], 1000)  # 4 s at 1 kHz, the second half loud in one channel
    wave = pixels(plot_curve(np.zeros(100, dtype=np.float32), sound, 1000), WAVE)
    half = (LEFT + RIGHT) // 2
    assert wave[:, half + 10 : RIGHT - 10].sum() > 50 * wave[:, LEFT + 10 : half - 10].sum()
    shorter = pixels(plot_curve(np.zeros(200, dtype=np.float32), sound, 1000), WAVE)
    assert not shorter[:, half + 10 :].any() and shorter[:, half - 100 : half - 10].any()


@pytest.mark.parametrize("values", [[3.0], [0.0] * 5, [1e-38, 3e-38], [-3e38, 3e38], list(range(15000))])
def test_any_curve_can_be_drawn(values):
    from ostinato.engine_runtime.plots.plot import LINE

    assert pixels(plot_curve(np.array(values, dtype=np.float32)), LINE).sum() > 500


def test_no_pulse_is_lost_in_a_long_curve():
    from ostinato.engine_runtime.plots.plot import LINE, TOP

    values = np.zeros(15000, dtype=np.float32)
    values[7321] = 1
    assert pixels(plot_curve(values), LINE)[TOP : TOP + 20].any()
