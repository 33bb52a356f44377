"""Which latent frame sounds when."""

import pytest
import torch
from ostinato.engine_runtime.live.line import BACK, Endless, Heard, Loop


def frames(first: int, count: int) -> torch.Tensor:
    """Latents whose every channel holds the frame's number."""
    return torch.arange(first, first + count, dtype=torch.float32)[:, None].expand(-1, 64).clone()


def numbers(latents: torch.Tensor) -> list[int]:
    return latents[:, 0].int().tolist()


def test_a_loop_goes_round_margins_too() -> None:
    loop = Loop()
    assert loop.end == 0
    loop.add(frames(0, 10), Heard(1, 2))
    latents, before, behind = loop.window(18, 21, 2)
    assert numbers(latents) == [6, 7, 8, 9, 0, 1, 2] and (before, behind) == (2, 2)
    assert loop.end is None and loop.changes_at(5) == Heard(1, 2)


def test_a_loop_without_music_is_no_silence() -> None:
    with pytest.raises(LookupError):
        Loop().window(0, 1, 0)


def test_a_stretch_begins_where_it_was_planned() -> None:
    line = Endless(4, 64)
    line.add(frames(0, 10), 0, 0, 0, Heard())
    line.add(frames(100, 10), 4, 8, 5, Heard(3, 3))
    assert numbers(line.window(1, 14, 0)[0]) == [1, 2, 3, 4, 5, 6, 7, 104, 105, 106, 107, 108, 109]
    assert (line.changes_at(7), line.changes_at(8)) == (Heard(), Heard(3, 3))


def test_a_stretch_that_is_late_begins_behind_the_sound() -> None:
    line = Endless(4, 64)
    line.add(frames(0, 20), 0, 0, 0, Heard())
    line.add(frames(100, 20), 4, 8, 11, Heard(1, 1))
    assert numbers(line.window(8, 13, 0)[0]) == [8, 9, 10, 107, 108]
    assert line.end == 8 + 16


def test_a_tail_is_the_music_before() -> None:
    line = Endless(4, 64)
    line.add(frames(0, 10), 0, 0, 0, Heard())
    assert numbers(line.tail(8)) == [4, 5, 6, 7]
    assert numbers(line.tail(2)) == [0, 1]


def test_what_was_heard_goes_and_the_tail_stays() -> None:
    line = Endless(4, 64)
    line.add(frames(0, 10), 0, 0, 0, Heard())
    for i in range(1, 50):
        line.add(frames(100 * i, 10), 4, line.end, line.end - 1, Heard(i, i))
    assert line.frames.shape[0] <= BACK + 1 + 6
    assert numbers(line.tail(line.end)) == [4906, 4907, 4908, 4909]
    assert len(line._joints) <= BACK // 6 + 3 and line.changes_at(line.end - 1) == Heard(49, 49)


def test_margins_end_where_the_music_does() -> None:
    line = Endless(2, 64)
    line.add(frames(0, 5), 0, 0, 0, Heard())
    latents, before, behind = line.window(0, 5, 3)
    assert (numbers(latents), before, behind) == ([0, 1, 2, 3, 4], 0, 0)
    assert line.window(2, 3, 1)[1:] == (1, 1)


def test_a_loop_changes_where_it_is_told_to() -> None:
    loop = Loop()
    loop.add(frames(0, 10), Heard())
    loop.add(frames(100, 10), Heard(1, 0), 14)
    assert numbers(loop.window(11, 16, 1)[0]) == [0, 1, 2, 3, 104, 105, 106]
    assert loop.changes(11, 17) == [(11, Heard()), (14, Heard(1, 0))] and loop.changes(14, 17) == [(14, Heard(1, 0))]
    loop.add(frames(200, 10), Heard(2, 0), 18)  # a later one leaves it
    assert numbers(loop.window(13, 19, 0)[0]) == [3, 104, 105, 106, 107, 208]
    loop.add(frames(300, 10), Heard(3, 0), 14)  # an earlier one takes the place of both
    assert numbers(loop.window(13, 19, 0)[0]) == [3, 304, 305, 306, 307, 308]
    loop.add(frames(400, 10), Heard(4, 0))
    assert numbers(loop.window(13, 15, 0)[0]) == [403, 404] and loop.changes_at(0) == Heard(4, 0)


def test_a_loop_forgets_what_is_long_past() -> None:
    loop = Loop()
    for i in range(200):
        loop.add(frames(100 * i, 10), Heard(i, 0), 10 * i)
        loop.window(10 * i, 10 * i + 4, 2)
    assert len(loop._layers) <= 12
    assert numbers(loop.window(1985, 1992, 0)[0]) == [19805, 19806, 19807, 19808, 19809, 19900, 19901]


def test_a_stretch_that_is_held_leaves_the_music_before_it() -> None:
    line = Endless(4, 64)
    line.add(frames(0, 20), 0, 0, 0, Heard())
    line.add(frames(100, 20), 4, 8, 5, Heard(3, 3), earliest=12)
    assert numbers(line.window(10, 14, 0)[0]) == [10, 11, 108, 109]
    assert line.changes(8, 14) == [(8, Heard()), (12, Heard(3, 3))]
    line.add(frames(200, 40), 4, 14, 13, Heard(4, 4), earliest=99)  # there is no other music up to there
    assert numbers(line.window(23, 25, 0)[0]) == [119, 214]


def test_a_tail_begins_on_a_beat() -> None:
    line = Endless(50, 1)
    line.begin(7)
    line.add(torch.arange(200.0)[:, None] + 7, 0, 7, 0, Heard())
    first = [line.tail(at, beat=11.4)[0, 0].item() for at in (90, 110, 150)]
    assert first == [round(7 + 11.4 * beats) for beats in (3, 5, 9)]
    assert numbers(line.tail(150))[0] == 100
    assert line.tail(150, beat=26.0).shape[0] == 50  # half of the tail would be lost
