"""Curves through points, against SciPy's and NumPy's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ostinato.engine_runtime.controls import points
from scipy.interpolate import CubicHermiteSpline

from .curve_checks import frames, refuses, same, shares

places = st.lists(st.integers(0, 50), min_size=2, max_size=8, unique=True)


@given(places, st.data(), frames)
def test_points_are_met_and_lines_are_numpys(xs, data, n):
    table = [(x / 50, data.draw(shares)) for x in xs]
    at = np.linspace(0, 1, n)
    line = np.interp(at, *zip(*sorted(table), strict=True))
    same(points.through(table, "linear", -1, 3), 4 * line - 1, atol=1e-5)
    same(points.through(table, "linear", 0, 1), line)
    smooth = points.through(table).values(51)
    for x, y in table:
        assert smooth[round(50 * x)] == pytest.approx(y, abs=1e-5)


@given(places, st.data())
def test_a_monotone_cubic_never_overshoots(xs, data):
    table = np.array(sorted((x / 50, data.draw(shares)) for x in xs))
    made = points.through(table.tolist()).values(1001)
    at = np.linspace(0, 1, 1001)
    for (x0, y0), (x1, y1) in zip(table[:-1], table[1:], strict=True):
        part = made[(at >= x0) & (at <= x1)]
        assert part.min() >= min(y0, y1) - 1e-5 and part.max() <= max(y0, y1) + 1e-5
        assert (np.diff(part) * np.sign(y1 - y0) >= -1e-5).all()


def test_a_monotone_cubic_by_hand():
    """Equal steps up: slopes are the secants' means, so a straight line stays straight; a peak has slope 0."""
    same(points.through([[0, 0], [0.5, 0.5], [1, 1]]), np.linspace(0, 1, 33))
    t = np.linspace(0, 1, 9)
    up = 2 * t * (t - 1) ** 2 / 2 - 2 * t**3 + 3 * t**2  # a slope of 2 at the start, 0 at the peak, half a unit wide
    same(points.through([[0, 0], [0.5, 1], [1, 0]]), [*up, *up[-2::-1]])
    # 0.2 and 1.8 mean a slope of 1 in the middle, five secants of the first interval: shortened with the 0.2 before it
    # to 3 secants together, 0.6 / sqrt(26) and 3 / sqrt(26); the second interval is then within its limit
    early, middle, late = 0.6 / math.sqrt(26), 3 / math.sqrt(26), 1.8
    first = CubicHermiteSpline([0, 0.5], [0, 0.1], [early, middle])(np.linspace(0, 0.5, 9))
    second = CubicHermiteSpline([0.5, 1], [0.1, 1], [middle, late])(np.linspace(0.5, 1, 9))
    same(points.through([[0, 0], [0.5, 0.1], [1, 1]]), [*first, *second[1:]])


def test_a_monotone_cubic_over_a_knee_is_flat_behind_it():
    """A slope of 0 at the knee. Secants 4.5, 0.5 and 0; 2.5 in the middle is shortened to three of the second's."""
    knee = [[0, 0], [0.1, 0.45], [0.2, 0.5], [1, 0.5]]
    first = CubicHermiteSpline([0, 0.1], [0, 0.45], [4.5, 1.5])(np.linspace(0, 0.1, 11))
    second = CubicHermiteSpline([0.1, 0.2], [0.45, 0.5], [1.5, 0])(np.linspace(0.1, 0.2, 11))
    same(points.through(knee), [*first, *second[1:], *[0.5] * 80], atol=1e-7)


def test_a_jump_between_slopes_breaks_neither():
    jump = points.through([[0, 0], [0.5, 0.2], [0.5, 0.8], [1, 1]]).values(100)
    at = np.linspace(0, 1, 100)
    first = CubicHermiteSpline([0, 0.5], [0, 0.2], [0.4, 0])(at[:50])
    second = CubicHermiteSpline([0.5, 1], [0.8, 1], [0, 0.4])(at[50:])
    np.testing.assert_allclose(jump, [*first, *second], atol=1e-6)


@pytest.mark.parametrize("mode", points.INTERPOLATIONS)
def test_a_jump_at_an_end_is_seen_there(mode):
    edges = [[0, 0.2], [0, 0.8], [1, 0.8], [1, 0.1]]
    made = points.through(edges, mode).values(9)
    np.testing.assert_allclose(made[1:-1], [0.8] * 7, atol=1e-6)
    assert made[-1] == np.float32(0.1) and (mode == "linear" or made[0] == np.float32(0.2))


def test_few_and_odd_points():
    for mode in points.INTERPOLATIONS:
        same(points.through([[0.3, 0.7]], mode), [0.7] * 5)
        same(points.through([[0.5, 1.0], [0.25, 0.0]], mode), [0, 0, 1, 1, 1])
        jump = points.through([[0, 0.2], [0.5, 0.2], [0.5, 0.8], [1, 0.8]], mode).values(100)
        np.testing.assert_allclose(jump, [0.2] * 50 + [0.8] * 50, atol=1e-6)
        refuses("not pairs", lambda mode=mode: points.through([], mode))
        refuses("outside the frame", lambda mode=mode: points.through([[0, 0], [1, 1.5]], mode))
        refuses("outside the frame", lambda mode=mode: points.through([[math.nan, 0]], mode))
        refuses("outside the frame", lambda mode=mode: points.through([[-0.5, 0]], mode))
        refuses("has 15001 points", lambda mode=mode: points.through([[0.5, 0.5]] * 15_001, mode))
        same(points.through([[0.5, 0.5]] * 15_000, mode), [0.5] * 3)
    for odd in ("ab", None, [1, 2], [[1, 2, 3]], [["a", "b"]], [[0, 0], [1]], {"x": 1}):
        refuses("not pairs", lambda odd=odd: points.through(odd))
    refuses("the interpolation is 'cubic'", lambda: points.through([[0, 0]], "cubic"))
