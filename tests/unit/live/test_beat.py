"""Where the next beat or bar line lies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ostinato.engine_runtime.errors import InputError
from ostinato.engine_runtime.live.beat import Grid, check_tempo

BEAT = 24_000.0  # samples, at 120 bpm
GRIDS = st.builds(
    Grid,
    st.integers(0, 10**6),
    st.floats(2880.0, 3e6),
    st.integers(1, 16),
    st.one_of(st.just(0), st.integers(48_000, 10**7)),
)


def test_beats_and_bars_by_hand() -> None:
    grid = Grid(256, BEAT, 4)
    assert [grid.next(at, "beat") for at in (0, 256, 257, 24_256, 30_000)] == [256, 256, 24_256, 24_256, 48_256]
    assert [grid.next(at, "bar") for at in (256, 257, 96_256)] == [256, 96_256, 96_256]


def test_a_loop_begins_with_a_beat_whatever_its_length() -> None:
    grid = Grid(0, BEAT, 4, round=60_000)  # two beats and a half
    assert [grid.next(at, "beat") for at in (1, 24_001, 48_001, 60_001, 108_001)] == [
        24_000,
        48_000,
        60_000,
        84_000,
        120_000,
    ]
    assert [grid.next(at, "bar") for at in (1, 60_001)] == [60_000, 120_000]


@given(GRIDS, st.integers(0, 10**9), st.sampled_from(["beat", "bar"]))
def test_the_next_is_soon_and_stays_the_next(grid: Grid, position: int, unit: str) -> None:
    found = grid.next(position, unit)
    size = grid.beat * (grid.beats if unit == "bar" else 1)
    assert -1 <= found - position <= size + 1 or position < grid.first
    assert position < grid.first or abs(grid.next(found - 1, unit) - found) <= 1
    if grid.round and grid.first <= position:
        inside = (found - grid.first) % grid.round / size
        assert min(abs(inside - round(inside)) * size, grid.round - inside * size) <= 2


def test_an_open_tempo_is_told() -> None:
    with pytest.raises(InputError, match="bpm"):
        check_tempo(0.0)
