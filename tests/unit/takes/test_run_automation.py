"""Automation over a run: it begins with the first tick and ends with the last, however many there are."""

from __future__ import annotations

import pytest
from ostinato.engine_runtime.config import Sampling
from ostinato.engine_runtime.controls.automation import DEPTH, Track
from ostinato.engine_runtime.controls.knobs import Knobs
from ostinato.engine_runtime.errors import InputError
from ostinato.engine_runtime.stream.request import Request
from ostinato.engine_runtime.takes.render import record
from ostinato.engine_runtime.takes.replay import replay
from ostinato.engine_runtime.takes.take import CONFIGURED, TURNED
from ostinato.nodes import Automation, CurvePoints, CurveRamp
from ostinato.nodes.shared.run import run_node

from ...helpers import StandIn, made_up

RAMP = [i / 100 for i in range(101)]


def played(tracks: list[Track], count: int = 8, depth: int = 4, steps: int = 8, log=True):
    requests = [Request(made_up(6, 3), Sampling(steps=steps, seed=i)) for i in range(count)]
    _, stats, take = record("run", StandIn(), requests, depth, lambda done, total: None, Knobs(), tracks)
    return stats, take


def turned(take, knob: str, kind: str = TURNED) -> list[tuple[int, float]]:
    return [(event.tick, event.what[knob]) for event in take.events if event.kind == kind and knob in event.what]


@pytest.mark.parametrize(("count", "depth", "steps"), [(8, 4, 8), (7, 3, 5), (1, 1, 4), (2, 4, 8), (5, 1, 3)])
def test_it_reaches_its_end_at_the_last_tick(count: int, depth: int, steps: int) -> None:
    _, take = played([Track("velocity_scale", RAMP, span=(0.0, 1.0))], count, depth, steps)
    turns = turned(take, "velocity_scale")
    assert turns[0] == (0, 0.0) and turns[-1] == (take.ticks - 1, 1.0)
    values = [value for _, value in turns]
    assert values == sorted(values) and len(values) > take.ticks // 2


def test_a_span_of_the_run() -> None:
    _, take = played([Track("velocity_scale", RAMP, span=(0.25, 0.75))])
    turns = dict(turned(take, "velocity_scale"))
    first, last = min(turns), max(turns)
    assert abs(first / take.ticks - 0.25) < 0.1 and abs(last / take.ticks - 0.75) < 0.1 and turns[last] == 1.0


def test_the_depth_reaches_what_the_curve_says() -> None:
    """From 4 to 8 in the middle of the run, and down to 2."""
    points = {"points": [[0, 0.333], [0.5, 1], [1, 0]], "interpolation": "linear"}
    curve = run_node(CurvePoints, {"points": points, "low": 2.0, "high": 8.0}, {})[0]
    asked = {"knob": DEPTH, "curve": curve, "ticks": 24, "start": 0, "loop": False, "over": "run"}
    tracks = run_node(Automation, asked, {})[0]
    _, take = played(list(tracks), 24)
    depths = [depth for _, depth in turned(take, DEPTH, CONFIGURED)]
    assert depths[0] == 4 and max(depths) == 8 and depths[-1] == 2


def test_the_take_plays_again() -> None:
    _, take = played([Track("velocity_scale", RAMP, span=(0.0, 1.0)), Track(DEPTH, [2, 4, 3], span=(0.1, 0.9))])
    again = replay(take, StandIn())
    assert again.expected and not again.differing


def test_the_node_makes_either() -> None:
    ramp = run_node(CurveRamp, {"start": 0.0, "end": 1.0}, {})[0]
    asked = {"knob": "blend", "curve": ramp, "ticks": 24, "start": 3, "loop": True}
    (ticks,) = run_node(Automation, asked, {})[0]
    assert ticks.span is None and (len(ticks.values), ticks.start, ticks.loop) == (24, 3, True)
    (run,) = run_node(Automation, asked | {"over": "run", "run_start": 0.1, "run_end": 0.9}, {})[0]
    assert run.span == (0.1, 0.9) and run.in_run(0.9) == run.in_run(1.0) == 1.0 and run.in_run(0.05) is None
    live = run.endless()
    assert (len(live.values), live.start, live.loop, live.span) == (24, 3, True, None)
    assert live.values == pytest.approx(ticks.values, abs=1e-3) and ticks.endless() is ticks
    with pytest.raises(InputError, match="runs from 0.9 to 0.1"):
        run_node(Automation, asked | {"over": "run", "run_start": 0.9, "run_end": 0.1}, {})
