"""Knobs that turn by themselves: what a track says at a tick, what it refuses, and the node that makes one."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ostinato.engine_runtime.config import StreamConfig
from ostinato.engine_runtime.controls import curves
from ostinato.engine_runtime.controls.automation import AUTOMATABLE, DEPTH, Track
from ostinato.engine_runtime.controls.knobs import KNOBS, Knobs
from ostinato.engine_runtime.errors import InputError
from ostinato.engine_runtime.stream.sessions import runtime
from ostinato.nodes.automation import Automation

from ...helpers import StandIn


@given(st.lists(st.floats(0, 4), min_size=1, max_size=9), st.integers(0, 20), st.booleans(), st.integers(0, 60))
def test_a_tick_reads_its_value(values: list[float], start: int, loop: bool, tick: int) -> None:
    place = tick - start
    if place < 0:
        want = None
    else:
        want = (values * 61)[place] if loop else (values + [values[-1]] * 61)[place]
    assert Track("velocity_scale", values, start, loop).at(tick) == want


@pytest.mark.parametrize("given", [[0.5, 1.0], (0.5, 1.0), np.array([0.5, 1.0], np.float32), torch.tensor([0.5, 1.0])])
def test_values_come_as_anything_that_lists_numbers(given) -> None:
    assert Track("sde", given).values == (0.5, 1.0)


def test_values_are_what_the_knob_takes() -> None:
    depths = Track(DEPTH, [1, 2.0, 8]).values
    assert depths == (1, 2, 8) and all(type(depth) is int for depth in depths)
    assert Track("dcw", [0, 0.49, 0.5, 1]).values == (False, False, True, True)
    assert type(Track("sde", [1]).at(0)) is float
    for name in AUTOMATABLE:
        value = Track(name, [1.0]).at(0)
        StreamConfig(depth=value) if name == DEPTH else Knobs().changed(**{name: value})


@pytest.mark.parametrize(
    ("knob", "values", "start", "word"),
    [
        ("dcw_mode", [0.0], 0, "'dcw_mode'"),
        ("dcw_wavelet", [0.0], 0, "velocity_scale"),
        ("volume", [0.0], 0, "'volume'"),
        ("sde", [], 0, "no values"),
        ("sde", 0.5, 0, "no values"),
        ("sde", np.zeros((2, 2)), 0, "allowed are numbers"),
        ("sde", ["1"], 0, "'1'"),
        ("sde", [None], 0, "None"),
        ("sde", [0.5, 1.5], 0, "1.5"),
        ("sde", [math.nan], 0, "nan"),
        ("dcw", [2], 0, "0 to 1"),
        ("dcw", [math.nan], 0, "nan"),
        (DEPTH, [2.5], 0, "whole"),
        (DEPTH, [9], 0, "1 to 8"),
        (DEPTH, [math.inf], 0, "inf"),
        ("sde", [0.5], -1, "start is -1"),
        ("sde", [0.5], 1.5, "whole"),
    ],
)
def test_what_a_track_refuses(knob: str, values, start: int, word: str) -> None:
    with pytest.raises(InputError, match=word):
        Track(knob, values, start)


def test_every_knob_but_a_choice_can_be_automated() -> None:
    assert set(AUTOMATABLE) == {DEPTH, *KNOBS} - {"dcw_mode", "dcw_wavelet"}


def test_importing_it_loads_no_torch() -> None:
    code = "import sys, ostinato.engine_runtime.controls.automation; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_session_plays_tracks() -> None:
    tracks = [Track("velocity_scale", [0.5, 1.5], 1, loop=True), Track(DEPTH, [2, 3], 2)]
    with runtime().playing("tracks", StandIn(), StreamConfig(depth=1)) as session:
        session.automate(tracks)
        seen = []
        for _ in range(5):
            session.step()
            seen.append((session.knobs.velocity_scale, session.config.depth))
    assert seen == [(1.0, 1), (0.5, 1), (1.5, 2), (0.5, 3), (1.5, 3)]


def laid(**changes):
    given = {"knob": "sde", "curve": curves.ramp(0.0, 1.0), "ticks": 5, "start": 3, "loop": True} | changes
    return Automation.execute(**given)[0]


def test_the_node_lays_a_curve_over_ticks() -> None:
    first = laid()
    assert first == (Track("sde", (0.0, 0.25, 0.5, 0.75, 1.0), 3, True),)
    both = laid(knob=DEPTH, curve=curves.ramp(1.0, 3.0), loop=False, tracks=first)
    assert both == (*first, Track(DEPTH, (1, 2, 2, 2, 3), 3))
    with pytest.raises(InputError, match="sde is 2"):
        laid(curve=curves.constant(2.0))


def test_the_node_offers_what_can_be_automated() -> None:
    knob = Automation.define_schema().inputs[0]
    assert (tuple(knob.options), knob.default) == (AUTOMATABLE, "velocity_scale")


def test_a_track_begins_at_a_tick_of_a_session():
    for start in (0, 1 << 53):
        assert Track("sde", [0.5], start=start).start == start
    for start in (-1, (1 << 53) + 1, 0.5):
        with pytest.raises(InputError, match="the track's start is"):
            Track("sde", [0.5], start=start)
