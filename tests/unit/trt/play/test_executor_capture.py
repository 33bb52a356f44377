"""When executes are captured as CUDA graphs, and how long those are kept: the stand-in context, and no GPU."""

from __future__ import annotations

import pytest
import torch
from ostinato.engine_runtime.device.capture import TRIES, Capture, OwnPools
from ostinato.engine_runtime.engines.eager import EagerEngine
from ostinato.engine_runtime.engines.prove import fill
from ostinato.engine_runtime.trt.play.keeper import Keeper

from .... import trt_stand_in as stand_in
from ....graph_stand_in import CUDA, Graph, noting


@pytest.fixture
def plan(turbo):
    return stand_in.make(EagerEngine(turbo.pipe.transformer, "test"))


class Released(Keeper):
    """Keeps what is to be released, for good."""

    def __init__(self, device):
        super().__init__(device)
        self.things = []

    def later(self, *things):
        self.things += things


@pytest.fixture
def engine(plan, monkeypatch):
    """An engine whose executes are noted by number; `engine.noted.done` has those that ran."""
    engine = stand_in.load(plan)
    keeper = engine.executor.keeper = Released(engine.device)
    engine.noted, engine.released = noting(monkeypatch), keeper.things
    engine.executor.capture = Capture(CUDA, pool=OwnPools(), name="executes", release=keeper.later)

    def noted(out):
        engine.noted(len(plan.executes) - 1)
        return out

    plan.bend = noted
    return engine


def filled(engine, batch=2, frames=6):
    rows = engine.rows(batch, frames, 64)
    fill((rows,), batch, frames, 64, engine.width, engine.dtype, 1)
    return rows


def test_the_second_execute_of_the_same_addresses_is_captured(engine, plan):
    rows = filled(engine)
    for _ in range(4):
        engine(rows)
    assert engine.noted.done == [0, 1, 1, 1] and len(plan.executes) == 2
    assert len(engine.executor.capture.replayed) == 1 and not engine.released


def test_a_graph_has_a_pool_of_its_own(engine):
    first, second = filled(engine), filled(engine)
    for rows in (first, second, first, second):
        engine(rows)
    one, two = Graph.made
    assert one.pool is not two.pool


def test_inside_a_capture_of_its_caller_nothing_else_is_captured(engine, monkeypatch):
    rows, outer = filled(engine), Graph()
    monkeypatch.setattr("gc.isenabled", lambda: False)  # as the caller's capture sees to
    outer.capture_begin(None, "thread_local")
    for _ in range(3):
        engine(rows)
    outer.capture_end()
    assert len(outer.noted) == 3 and Graph.made == [outer] and not engine.executor.capture.replayed
    for _ in range(2):
        engine(rows)
    assert len(Graph.made) == 2, "captured at the second execute of its own"


@pytest.mark.parametrize("change", ["shape", "settled", "paused", "shed"])
def test_graphs_are_released_when_what_they_were_captured_with_goes(engine, change):
    """The keeper has them until the last execute is over."""
    rows = filled(engine)
    engine(rows), engine(rows)
    (graph,) = Graph.made
    match change:
        case "shape":
            engine(rows.part(0, 1))
        case "settled":
            engine.rest()
        case "paused":
            with engine.paused():
                pass
        case "shed":
            engine.shed()
    assert graph.replay in engine.released and not engine.executor.capture.replayed


@pytest.mark.parametrize("error", ["refused", "raised"])
def test_captures_that_fail_again_and_again_are_the_last_ones(engine, plan, error, caplog):
    rows = filled(engine)
    want = engine(rows).clone()

    def raises(out):
        if Graph.now is not None:
            raise RuntimeError("capture is not permitted")
        return out

    for _ in range(TRIES):
        assert engine.executor.capture.on
        if error == "refused":
            plan.faults["execute_async_v3"] = 1
        else:
            plan.bend = raises
        assert torch.equal(engine(rows), want)
    assert torch.equal(engine(rows), want)
    assert not engine.executor.capture.on and Graph.now is None and not engine.executor.capture.replayed
    assert len([r for r in caplog.records if "not captured as CUDA graphs" in r.message]) == 1


def test_without_permission_nothing_is_captured(plan, monkeypatch):
    noting(monkeypatch)
    for engine in (stand_in.load(plan, graphs=False), stand_in.load(plan)):  # on the CPU no one is permitted
        rows = filled(engine)
        for _ in range(3):
            engine(rows)
        assert not engine.executor.capture.on and not Graph.made
