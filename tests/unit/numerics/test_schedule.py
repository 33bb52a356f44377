"""Schedules given by hand."""

from __future__ import annotations

import math

import pytest
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
