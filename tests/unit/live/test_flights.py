"""When the requests of a ring end, by a clock that a test moves."""

from __future__ import annotations

import pytest
from ostinato.engine_runtime.config import Sampling
from ostinato.engine_runtime.live.flights import Flight, Flights
from ostinato.engine_runtime.live.line import Heard
from ostinato.engine_runtime.stream.request import Request

from ...ear import Clock
from ...helpers import made_up

TICK = 0.05  # seconds


def flying(clock: Clock, *ends: int) -> tuple[Flights, list[Request]]:
    """Requests that end in these steps; the next step has just begun."""
    made, requests = Flights(clock), [Request(made_up(0, 50, guided=False), Sampling(4)) for _ in ends]
    made.tick = TICK
    for request, end in zip(requests, ends, strict=True):
        made.add(request, Flight(Heard(end), end))
    made.step_begins()
    return made, requests


def test_the_first_ends_after_the_steps_that_are_left() -> None:
    clock = Clock()
    flights, _ = flying(clock, 12, 8)
    assert flights.until_end(5) == pytest.approx(3 * TICK)
    clock.now += 0.4 * TICK  # of the step that runs
    assert flights.until_end(5) == pytest.approx(2.6 * TICK)


def test_a_step_that_takes_longer_than_usual_may_end_at_any_moment() -> None:
    clock = Clock()
    flights, _ = flying(clock, 8)
    clock.now += 1.5 * TICK
    assert flights.until_end(7) == pytest.approx(0.1 * TICK)
    assert flights.until_end(8) == pytest.approx(0.1 * TICK)  # it has ended, and is being laid


def test_nothing_is_said_of_a_step_that_takes_too_long_or_where_nothing_flies() -> None:
    clock = Clock()
    flights, (request,) = flying(clock, 8)
    clock.now += 2.1 * TICK
    assert flights.until_end(5) == 0.0
    flights.step_begins()
    assert flights.until_end(5) > 0.0
    flights.drop(request)
    assert flights.until_end(5) == 0.0 and len(flights) == 0 and flights.first is None


def test_the_time_of_a_step_is_learned() -> None:
    clock = Clock()
    flights, _ = flying(clock)
    clock.now += 2 * TICK
    flights.step_ends()
    assert flights.tick == pytest.approx(1.1 * TICK)


def test_requests_are_told_apart_by_what_they_are_and_not_by_their_values() -> None:
    flights, requests = flying(Clock(), 12, 8)
    assert [flights.of(request).ends for request in requests] == [12, 8] == flights.ends
    assert flights.first is flights.of(requests[0])
    flights.clear()
    assert flights.ends == []
