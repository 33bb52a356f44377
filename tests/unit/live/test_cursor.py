"""Where the sound of a change begins, and when the next window is made, for a listener that stands still."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ostinato.engine_runtime.live.block import Block, decoded_pcm
from ostinato.engine_runtime.live.cursor import Cursor
from ostinato.engine_runtime.live.level import DELAY
from ostinato.engine_runtime.live.line import Endless, Heard, Loop
from ostinato.engine_runtime.live.pace import Pace
from ostinato.engine_runtime.spec import ACE_STEP

HOP, RATE, SAMPLE_RATE = ACE_STEP.hop, ACE_STEP.frame_rate, ACE_STEP.sample_rate
OLD, NEW = 0.25, 0.75
MARGINS = 11  # frames that are decoded beside those of a window
LEAD = 2400  # samples
TRANSIT = 240  # samples, 5 ms


@pytest.fixture
def ring() -> SimpleNamespace:
    """A loop without changes yet; the ring works."""
    line = Loop()
    line.add(torch.zeros(50, 64), Heard())
    return SimpleNamespace(line=line, works=True, until_laid=lambda: 0.0)


@pytest.fixture
def cursor(ring: SimpleNamespace) -> Cursor:
    """16 frames are made for a listener at the start, by decodes of 0.1 s; windows have 8 frames."""
    pace = Pace(lambda count: count + MARGINS, RATE)
    pace.size, pace.usual, pace.spent = 8, 0.1, 0.1
    made = Cursor(lambda: ring, pace, HOP, 100.0, clock=lambda: 0.0)
    made.report(0, LEAD, False)
    for _ in range(2):
        window(made, 8, OLD)
    return made


def window(cursor: Cursor, count: int, value: float) -> Block:
    """Make the next window, all of one value, of the music that the line has there."""
    changes = cursor.line.changes(cursor.decoded, cursor.decoded + count)
    return cursor.add(np.full((2, count * HOP), value, np.float32), torch.zeros(count, 64), changes)


def changed(ring: SimpleNamespace, frame: int) -> None:
    ring.line.add(torch.zeros(50, 64), Heard(1), frame)


def made_again(cursor: Cursor, ring: SimpleNamespace, position: int) -> tuple[Block, np.ndarray]:
    """Make sound again for a change at frame 4; the listener is at `position` when that is decoded."""
    changed(ring, 4)
    assert cursor.next() == (8, 0.0) and cursor.decoded == 4
    cursor.report(position, LEAD, False)
    block = window(cursor, 8, NEW)
    assert block.position == 4 * HOP and block.heard == Heard(1)
    return block, decoded_pcm(block.pcm)[0]


def test_a_change_fades_in_right_before_the_listener(cursor: Cursor, ring: SimpleNamespace) -> None:
    block, sound = made_again(cursor, ring, 4 * HOP + 700)
    assert block.at == 4 * HOP + 700 + TRANSIT + DELAY
    at = block.at - block.position
    assert np.allclose(sound[:at], OLD, atol=1e-4) and np.allclose(sound[at + HOP - DELAY :], NEW, atol=1e-4)
    rise = sound[at : at + HOP - DELAY]
    assert (np.diff(rise) >= 0).all() and rise[0] == pytest.approx(OLD, abs=1e-3)
    assert window(cursor, 2, NEW).at == block.at  # the window that follows goes on
    assert np.allclose(decoded_pcm(window(cursor, 2, NEW).pcm), NEW, atol=1e-4)


def test_a_change_that_is_ready_early_begins_with_its_window(cursor: Cursor, ring: SimpleNamespace) -> None:
    block, sound = made_again(cursor, ring, 2 * HOP)
    assert block.at == 4 * HOP + DELAY and np.allclose(sound[HOP:], NEW, atol=1e-4)


def test_a_change_that_is_late_fades_in_over_what_is_left_of_its_window(cursor: Cursor, ring: SimpleNamespace) -> None:
    block, sound = made_again(cursor, ring, 11 * HOP + 700)
    assert block.at == 11 * HOP + DELAY
    assert np.allclose(sound[: 7 * HOP], OLD, atol=1e-4) and sound[-1] == pytest.approx(NEW, abs=1e-4)


def test_a_change_within_a_window_is_heard_from_its_own_frame(cursor: Cursor, ring: SimpleNamespace) -> None:
    changed(ring, 20)
    assert window(cursor, 8, NEW).at == 20 * HOP + DELAY


@pytest.mark.parametrize("last, at", [(4, 5 * HOP + 700 + TRANSIT), (7, 7 * HOP)])
def test_a_change_counts_as_heard_from_where_it_fades_in_or_begins(
    cursor: Cursor, ring: SimpleNamespace, last: int, at: int
) -> None:
    changed(ring, 4)
    assert cursor.next() == (8, 0.0)
    cursor.report(5 * HOP + 700, LEAD, False)
    sound = np.full((2, 8 * HOP), NEW, np.float32)
    block = cursor.add(sound, torch.zeros(8, 64), [(4, Heard(1)), (last, Heard(2))])
    assert (block.position, block.heard, block.at) == (4 * HOP, Heard(2), at + DELAY)


def test_a_listener_is_no_further_than_sound_was_sent(cursor: Cursor, ring: SimpleNamespace) -> None:
    changed(ring, 4)
    cursor.next()
    for told, place in ((5 * HOP, 5 * HOP), (17 * HOP, 16 * HOP)):
        cursor.report(told, LEAD, False)
        assert cursor.listener.position == place


def test_a_new_epoch_begins_with_a_window_that_lasts(cursor: Cursor) -> None:
    cursor.pace.size = 4
    assert cursor.next()[0] == 4
    cursor.begin()
    assert cursor.next() == (8, 0.0)  # two and a half decodes of 0.1 s
    window(cursor, 8, NEW)
    assert cursor.next()[0] == 4


def test_a_new_epoch_fades_in_from_silence_where_the_listener_was(cursor: Cursor) -> None:
    cursor.begin(5 * HOP + 7)
    block = window(cursor, 2, NEW)
    assert (block.epoch, block.position, cursor.listener.now()) == (2, 5 * HOP, 5 * HOP)
    sound = decoded_pcm(block.pcm)[0]
    assert not sound[: DELAY + 1].any() and (np.diff(sound[:HOP]) >= 0).all()
    assert np.allclose(sound[HOP:], NEW, atol=1e-4)


def test_sound_is_made_again_from_the_frame_in_which_it_can_be_ready(cursor: Cursor, ring: SimpleNamespace) -> None:
    changed(ring, 0)
    cursor.report(HOP, LEAD, False)
    frame, size = cursor.pace.first(HOP, HOP)
    assert cursor.next() == (size, 0.0)
    assert cursor.decoded == frame == (HOP + int(cursor.pace.usual_of(size) * SAMPLE_RATE)) // HOP


def test_what_has_no_room_for_a_fade_is_not_made_again(cursor: Cursor, ring: SimpleNamespace) -> None:
    changed(ring, 15)
    assert cursor.next() == (8, 0.0) and cursor.decoded == 16  # goes on at once
    changed(ring, 14)
    assert cursor.next() == (8, 0.0) and cursor.decoded == 14


def test_what_was_made_with_the_change_is_not_made_again(cursor: Cursor, ring: SimpleNamespace) -> None:
    made_again(cursor, ring, 0)
    assert cursor.decoded == 12
    _, delay = cursor.next()
    assert cursor.decoded == 12 and delay > 0.0


def test_nothing_is_made_again_of_a_line_that_does_not_reach_it(cursor: Cursor, ring: SimpleNamespace) -> None:
    """The line of another ring begins where the sound is when its first latent comes."""
    changed(ring, 0)
    cursor.next()
    while cursor.decoded < 16:
        window(cursor, 2, NEW)
    ring.line = Endless(10, 64)
    assert cursor.next() == (-16, math.inf) and cursor.decoded == 16
    ring.line.begin(14)
    ring.line.add(torch.zeros(50, 64), 0, 14, 14, Heard(2))
    assert cursor.next()[1] == 0.0 and cursor.decoded == 14  # what lies before cannot be made from it
    cursor.begin(0)
    assert cursor.decoded == 14


def test_the_next_window_waits_for_a_change_that_is_about_to_come(cursor: Cursor, ring: SimpleNamespace) -> None:
    ring.until_laid = lambda: 0.05
    cursor.report(13 * HOP, 0, False)
    assert cursor.next() == (8, 0.0)  # 0.12 s are sent, which do not last
    ring.until_laid = lambda: 0.0
    cursor.report(0, 0, False)
    for _ in range(3):
        window(cursor, 8, OLD)
    changed(ring, 10)
    assert cursor.next() == (8, 0.0)
    window(cursor, 8, NEW)
    cursor.report(10 * HOP, 0, False)  # of the latest music 0.32 s are ahead, of older music more
    assert cursor.next() == (8, pytest.approx(0.22))
    ring.until_laid = lambda: 0.05
    assert cursor.next() == (8, pytest.approx(0.05))
    ring.works, ring.until_laid = False, lambda: 0.0
    assert cursor.next() == (8, 0.0)  # while the ring rests much is made ahead


def test_endless_music_is_made_a_decode_ahead_up_to_its_end(ring: SimpleNamespace, cursor: Cursor) -> None:
    ring.line = Endless(10, 64)
    ring.line.add(torch.zeros(19, 64), 0, 0, 0, Heard())
    cursor.report(10 * HOP, 0, False)
    assert cursor.next() == (3, pytest.approx(0.14))
    window(cursor, 3, OLD)
    assert cursor.dry == 0
    assert [cursor.next()[1] for _ in range(2)] == [math.inf] * 2 and cursor.dry == 1  # the line ended once
    ring.line.add(torch.zeros(2, 64), 0, 19, 19, Heard())
    assert cursor.next()[0] == 2 and cursor.dry == 1
    window(cursor, 2, OLD)
    assert cursor.next()[1] == math.inf and cursor.dry == 2


def test_a_session_without_music_yet_has_not_run_dry(ring: SimpleNamespace, cursor: Cursor) -> None:
    ring.line = Loop()
    early = Cursor(lambda: ring, cursor.pace, HOP, 100.0)
    assert early.next() == (0, math.inf) and early.dry == 0


def test_a_listener_is_where_sound_is(cursor: Cursor) -> None:
    cursor.begin(4 * HOP)
    window(cursor, 4, NEW)
    for told, place in ((0, 4 * HOP), (5 * HOP, 5 * HOP), (1 << 40, 8 * HOP)):
        cursor.report(told, 1 << 40, False)
        assert (cursor.listener.now(), cursor.listener.lead) == (place, SAMPLE_RATE)


def test_blocks_are_given_again_from_where_they_were_heard(cursor: Cursor) -> None:
    cursor.report(9 * HOP, LEAD, False)
    for position, starts in ((3 * HOP, [0, 8]), (8 * HOP, [8]), (16 * HOP, [8])):
        blocks = cursor.blocks_since(1, position)
        assert blocks is not None and [block.position // HOP for block in blocks] == starts
    cursor.report(16 * HOP, LEAD, False)
    assert cursor.blocks_since(1, 16 * HOP) == []
    assert cursor.blocks_since(0, 16 * HOP) is None
