"""The tape of what was made: windows that join, whatever was made again."""

from __future__ import annotations

import numpy as np
import torch
from ostinato.engine_runtime.live.block import Block, Moment
from ostinato.engine_runtime.live.line import Heard
from ostinato.engine_runtime.live.tape import Tape
from ostinato.engine_runtime.spec import ACE_STEP

HOP = ACE_STEP.hop


def moment(frame: int, count: int, value: int, epoch: int = 1) -> Moment:
    """`count` frames whose samples are all `value`."""
    pcm = np.full(2 * count * HOP, value, "<i2").tobytes()
    return Moment(frame, torch.zeros(count, 64), Block(epoch, frame * HOP, Heard(value), 0, pcm))


def made(*moments: Moment, kept: float = 100.0) -> Tape:
    tape = Tape(kept)
    for one in moments:
        tape.add(one, [(one.frame, one.block.heard)])
    return tape


def test_what_is_made_again_takes_the_place_of_what_was() -> None:
    tape = made(moment(0, 8, 1), moment(8, 8, 2), moment(4, 2, 3))
    assert [(one.frame, one.latents.shape[0]) for one in tape.moments()] == [(0, 4), (4, 2)]
    start, pcm = tape.between(3 * HOP, 99 * HOP)
    assert start == 3 * HOP and set(np.frombuffer(pcm[: 4 * HOP], "<i2")) == {1}
    assert set(np.frombuffer(pcm[4 * HOP :], "<i2")) == {3} and len(pcm) == 3 * 4 * HOP


def test_a_frame_was_made_with_the_changes_of_its_last_window() -> None:
    tape = made(moment(0, 8, 1), moment(8, 8, 2), moment(4, 2, 3))
    assert [tape.made_with(frame).hot for frame in (0, 3, 4, 5)] == [1, 1, 3, 3]


def test_it_is_known_of_all_that_a_listener_may_have_ahead_with_which_changes_it_was_made() -> None:
    tape = made(*(moment(2 * i, 2, i) for i in range(50)))  # two seconds, in the smallest windows
    assert [tape.made_with(frame).hot for frame in range(100)] == [i // 2 for i in range(100)]


def test_a_window_made_again_from_its_beginning_leaves_nothing_of_the_one_before() -> None:
    tape = made(moment(0, 4, 1), moment(4, 8, 2), moment(4, 2, 3))
    assert [(one.frame, one.latents.shape[0]) for one in tape.moments()] == [(0, 4), (4, 2)]


def test_only_so_many_frames_are_kept() -> None:
    tape = made(*(moment(4 * i, 4, i) for i in range(10)), kept=12.0)
    assert [one.frame for one in tape.moments()] == [24, 28, 32, 36]
    assert tape.between(0, 25 * HOP)[0] == 24 * HOP


def test_blocks_are_of_one_epoch_and_reach_back_far_enough_or_are_none() -> None:
    tape = made(moment(0, 4, 1), moment(4, 4, 2, epoch=2), moment(8, 4, 3, epoch=2))
    blocks = tape.blocks_since(2, 5 * HOP)
    assert blocks is not None and [block.position for block in blocks] == [4 * HOP, 8 * HOP]
    assert tape.blocks_since(2, 3 * HOP) is None and tape.blocks_since(1, 5 * HOP) is None
