"""Where a listener is between its reports, by a clock that a test moves."""

from __future__ import annotations

from ostinato.engine_runtime.live.listener import Listener

from ...ear import SAMPLE_RATE, Clock


def test_one_that_moves_is_taken_to_move_on_for_a_quarter_of_a_second() -> None:
    clock = Clock()
    listener = Listener(clock)
    listener.report(1000, 2400, True)
    for passed, moved in ((0.0, 0), (0.1, 4_800), (0.25, 12_000), (2.0, 12_000)):
        clock.now = Clock.now + passed
        assert abs(listener.now() - 1000 - moved) <= 1
    listener.report(5000, 2400, False)
    clock.now += 0.1
    assert listener.now() == 5000 and listener.lead == 2400


def test_one_that_has_not_reported_for_three_seconds_has_left() -> None:
    clock = Clock()
    listener = Listener(clock)
    assert not listener.here and listener.now() == 0
    listener.report(SAMPLE_RATE, 2400, True)
    clock.now += 2.9
    assert listener.here
    clock.now += 0.2
    assert not listener.here
