"""Curves before play began, past the ends of their points, and in messages."""

from __future__ import annotations

import numpy as np
import pytest
from ostinato.engine_runtime.controls import curves, points


@pytest.mark.parametrize("seconds", [0.4, 5.0])
def test_a_random_walk_stands_still_before_play_begins(seconds):
    walk = curves.lfo("random", 1.0, seed=3)
    begun = walk.values(50, start=0)
    later = curves.shift(walk, seconds).values(150, start=0)
    still = round(seconds * 25)
    np.testing.assert_array_equal(later[: still + 1], begun[0])
    np.testing.assert_allclose(later[still : still + 25], begun[:25], atol=1e-6)
    assert np.ptp(begun) > 0 and (curves.shift(walk, 5.0).values(25, start=0) == begun[0]).all()


@pytest.mark.parametrize("control", [[[0.5, 0.3]], [[0.2, 0.0], [0.8, 1.0], [0.8, 0.2]], [[0.4, 0.1], [0.4, 0.9]]])
def test_the_ends_of_points_are_held_and_nothing_is_divided_by_zero(control):
    with np.errstate(all="raise"):
        values = points.through(control).values(101)
    np.testing.assert_allclose(values[[0, -1]], [control[0][1], control[-1][1]], rtol=1e-6)


def test_a_long_chain_can_be_shown():
    curve = curves.constant(1.0)
    for _ in range(5000):
        curve = curves.between(curve, 0.0, 1.0)
    assert len(repr(curve)) < 1000
