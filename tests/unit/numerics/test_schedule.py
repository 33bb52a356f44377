"""Schedules given by hand."""

from __future__ import annotations

import math

import pytest
from ostinato.engine_runtime.constants import MAX_STEPS
from ostinato.engine_runtime.errors import InputError
from ostinato.engine_runtime.numerics.schedule import explicit


@pytest.mark.parametrize(
    "values", [[2.0, 0.5, 0.0], [math.inf, 0.5, 0.0], [0.5, -0.1, 0.0], [0.5, 0.5, 0.0], [1.0, 0.5]]
)
def test_one_bad_sigma_is_enough(values: list[float]) -> None:
    with pytest.raises(InputError, match="fall to exactly 0"):
        explicit(values)


def test_a_good_schedule_is_returned_as_it_is() -> None:
    assert explicit([1, 0.5, 0.0]) == (1.0, 0.5, 0.0)


def test_a_schedule_has_at_most_the_steps_of_a_request() -> None:
    line = [1.0 - i / (MAX_STEPS + 1) for i in range(MAX_STEPS + 1)]
    assert len(explicit([*line[1:], 0.0])) == MAX_STEPS + 1
    with pytest.raises(InputError, match=f"there are {MAX_STEPS + 2} sigmas"):
        explicit([*line, 0.0])


def test_a_schedule_has_a_step() -> None:
    assert explicit([0.5, 0.0]) == (0.5, 0.0)
    for values, words in (([], "the sigmas are empty"), ([0.0], "the sigmas are 0;")):
        with pytest.raises(InputError, match=words):
            explicit(values)
