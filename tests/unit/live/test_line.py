"""Which latent frame sounds when."""

import pytest
import torch
from ostinato.engine_runtime.live.line import Endless, Heard, Loop


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
    assert line.frames.shape[0] <= 4 + 1 + 6
    assert numbers(line.tail(line.end)) == [4906, 4907, 4908, 4909]
    assert len(line._joints) <= 3 and line.changes_at(line.end - 1) == Heard(49, 49)


def test_margins_end_where_the_music_does() -> None:
    line = Endless(2, 64)
    line.add(frames(0, 5), 0, 0, 0, Heard())
    latents, before, behind = line.window(0, 5, 3)
    assert (numbers(latents), before, behind) == ([0, 1, 2, 3, 4], 0, 0)
    assert line.window(2, 3, 1)[1:] == (1, 1)
