"""The pace of a session's sound: sizes of windows, where one begins after a change, and when the next is made."""

from __future__ import annotations

import pytest
from ostinato.engine_runtime.live.pace import WARM, Pace
from ostinato.engine_runtime.spec import ACE_STEP

HOP, RATE, SAMPLE_RATE = ACE_STEP.hop, ACE_STEP.frame_rate, ACE_STEP.sample_rate
MARGINS = 11  # frames that are decoded beside those of a window
LEAD = 2400  # samples


def pace(usual: float, spent: float, size: int = 8) -> Pace:
    made = Pace(lambda count: count + MARGINS, RATE)
    made.size, made.usual, made.spent = size, usual, spent
    return made


def samples(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE)


def test_a_longer_decode_counts_at_once_and_is_forgotten_slowly() -> None:
    one = pace(0.1, 0.1)
    one.learn(0.2, 8)
    assert one.spent == 0.2 and one.usual == pytest.approx(0.12)
    one.learn(0.1, 8)
    assert one.spent == pytest.approx(0.197)


def test_a_part_of_a_window_is_learned_as_a_whole_one() -> None:
    one = pace(0.1, 0.1)
    one.learn(0.1 * (2 + MARGINS) / (8 + MARGINS), 2)
    assert one.usual == pytest.approx(0.1) and one.usual_of(2) == pytest.approx(0.1 * 13 / 19)


def test_the_first_decode_of_a_size_or_of_another_decoder_is_passed_over() -> None:
    one = pace(0.1, 0.1)
    assert 12 not in WARM and 8 in WARM
    one.learn(9.0, 12)
    assert one.spent == 0.1
    one.use(lambda count: count + 2 * MARGINS)
    assert one.usual_of(2) == pytest.approx(0.1 * 24 / 30)
    one.learn(9.0, 8)
    assert one.spent == 0.1
    one.learn(0.2, 8)
    assert one.spent == 0.2


def test_windows_grow_where_decodes_are_slow_and_shrink_where_they_are_quick() -> None:
    one = pace(0.2, 0.2)  # of 0.32 s of music
    one.learn(0.2, 8)
    assert one.size == 12 and one.usual == pytest.approx(0.2 * 23 / 19) and one.spent == pytest.approx(0.2 * 23 / 19)
    one.learn(0.01, 8)
    assert one.size == 12  # one quick decode proves nothing
    one = pace(0.03, 0.2)
    one.learn(0.03, 8)
    assert one.size == 6 and one.usual == pytest.approx(0.03 * 17 / 19)


def test_the_first_decode_is_taken_with_some_care() -> None:
    """The ring does not play yet, and nothing else is in the way."""
    one = pace(0.0, 0.0)
    one.begin(0.1)
    assert one.usual == 0.1 and one.spent == pytest.approx(0.18)


def test_windows_have_from_2_to_25_frames() -> None:
    for seconds, size, last in ((5.0, 12, 25), (5.0, 25, 25), (0.001, 4, 2), (0.001, 2, 2)):
        one = pace(seconds, seconds, size)
        one.learn(seconds, size)  # the first of a size tells nothing
        one.learn(seconds, size)
        assert one.size == last


def test_the_first_window_of_an_epoch_lasts_while_the_next_are_made() -> None:
    for spent, frames in ((0.001, 4), (0.06, 4), (0.07, 6), (0.1, 8)):
        assert pace(spent, spent, 4).opening == frames
    assert pace(0.9, 0.9, 4).opening == 8 and pace(0.9, 0.9, 12).opening == 25  # decodes that are slower than the music


def test_the_first_window_begins_where_its_decode_ends_and_lasts_for_the_next() -> None:
    one = pace(0.1, 0.06)
    for now, size in ((10 * HOP + 60, 4), (10 * HOP, 6)):  # of the latter's first frame more is heard before
        soon = now + samples(one.usual_of(size))
        assert one.first(now, HOP) == (soon // HOP, size)
        assert (soon // HOP + size) * HOP - soon >= samples(0.15)
    assert pace(0.005, 0.006).first(0, HOP)[1] == 2
    assert pace(0.05, 0.07, size=4).first(0, HOP)[1] == 6  # one larger than usual, where that takes it
    assert pace(0.3, 0.4, size=6).first(0, HOP)[1] == 8  # none lasts: no larger one still
    assert pace(0.3, 0.9, size=25).first(0, HOP)[1] == 25


def test_after_a_change_no_larger_size_is_decoded_for_the_first_time() -> None:
    """On a GPU that would take longer than there is sound."""
    one = pace(0.1, 0.2)
    assert one.first(0, HOP)[1] == 8  # which last 0.32 s
    one.learn(9.0, 12)
    assert one.first(0, HOP)[1] == 12
    one.use(lambda count: count + MARGINS)
    assert one.first(0, HOP)[1] == 8


def test_while_the_ring_works_only_what_is_needed_is_decoded() -> None:
    one = pace(0.1, 0.1)
    assert one.spare(samples(0.2), samples(0.5), LEAD, True, 0.0) == samples(0.05)  # the lead and a decode
    assert one.spare(samples(0.1), samples(0.5), LEAD, True, 0.0) == 0  # of the latest music too little is ahead
    assert one.spare(samples(0.7), samples(0.5), LEAD, True, 0.0) == samples(0.05)  # the lead and four decodes
    assert one.spare(samples(0.7), samples(0.7), LEAD, False, 0.0) == 0
    assert one.spare(samples(1.2), samples(1.2), LEAD, False, 0.0) == samples(0.15)
    assert pace(0.1, 0.9).spare(samples(2.0) + 7, 0, LEAD, False, 0.0) == 7  # never more than two seconds


def test_a_decode_that_would_be_in_the_way_of_a_change_waits_for_it() -> None:
    """As long as what is sent lasts until the change is decoded."""
    one = pace(0.1, 0.12)
    enough = samples(0.15 + 0.12)
    assert one.spare(0, enough + 1, LEAD, True, 0.1) == samples(0.1)
    assert one.spare(enough, enough, LEAD, True, 0.1) == 0  # later it would be still more in the way


def test_a_decode_that_ends_before_a_change_comes_is_made() -> None:
    """Unless so much is sent that there is no need of it."""
    one = pace(0.1, 0.12)
    enough = samples(0.13 + 2 * 0.12) + LEAD
    assert one.spare(enough, enough, LEAD, True, 0.13) == 0
    assert one.spare(0, enough + 1, LEAD, True, 0.13) == samples(0.13)


def test_endless_music_is_made_a_decode_ahead() -> None:
    one = pace(0.1, 0.1)
    assert one.spare_endless(samples(0.15) + 5, LEAD) == 5
    assert one.spare_endless(samples(0.15), LEAD) == 0
