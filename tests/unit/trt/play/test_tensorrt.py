"""The one TensorRT of a process: loading, sharing, memory shortage, swapping, and what is refused."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from ostinato.engine_runtime.config import Sampling, StreamConfig
from ostinato.engine_runtime.engines.eager import EagerEngine
from ostinato.engine_runtime.engines.profiles import Profile, Span
from ostinato.engine_runtime.errors import EngineError, MemoryShortage
from ostinato.engine_runtime.registry import registry
from ostinato.engine_runtime.stream.request import Request
from ostinato.engine_runtime.stream.sessions import runtime
from ostinato.engine_runtime.trt.library.flavor import Flavor
from ostinato.engine_runtime.trt.library.messages import MOST, Errors
from ostinato.engine_runtime.trt.play import room
from ostinato.engine_runtime.trt.play import tensorrt as module

from .... import trt_stand_in as stand_in

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def eager(base):
    return EagerEngine(base.pipe.transformer, "test")


@pytest.fixture
def plan(eager):
    return stand_in.make(eager)


@pytest.fixture
def other(eager):
    return stand_in.make(eager, label="another")


def load(library, plan, **more):
    return library.load(plan.data, plan.sidecar, CPU, **more)


def plays(engine):
    rows = engine.rows(2, 6, 64)
    return bool(engine(rows).isfinite().all())


@pytest.fixture
def real():
    """TensorRT-RTX itself, which runs without a GPU as far as opening plans."""
    rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: pip install 'ostinato[rtx]'")
    return module.TensorRT(Flavor.of("tensorrt_rtx", rtx))


def test_a_plan_loaded_twice_is_one_engine(plan, other):
    library = stand_in.library()
    one, two, third = load(library, plan), load(library, plan), load(library, other)
    assert one is two and third is not one
    library.release(one)
    assert plays(two)
    library.release(two)
    library.release(two)
    with pytest.raises(EngineError, match="closed"):
        plays(one)
    assert plays(load(library, plan)) and plays(third)


def test_one_library_a_process(monkeypatch):
    monkeypatch.setattr(module, "probe", lambda name: Flavor.of(name, stand_in))
    with registry.fresh(module.Loaded):
        assert module.tensorrt("tensorrt") is module.tensorrt("tensorrt")
        with pytest.raises(EngineError, match=r"runs TensorRT 10\.13.*tensorrt_rtx would be the second"):
            module.tensorrt("tensorrt_rtx")


def test_host_code_stays_off_and_the_log_arrives(plan, caplog):
    library = stand_in.library()
    assert library.runtime.engine_host_code_allowed is False  # the stand-in opens no plan where it is on
    with caplog.at_level(logging.DEBUG, "ostinato.tensorrt"):
        load(library, plan)
    assert [(r.levelname, r.name) for r in caplog.records] == [("INFO", "ostinato.tensorrt")]


def test_a_plan_that_does_not_open(plan):
    library = stand_in.library()
    with pytest.raises(EngineError, match="magicTag"):
        library.load(b"something else", plan.sidecar, CPU)
    plan.faults["deserialize_cuda_engine"] = 1
    with pytest.raises(EngineError, match=r"deserialize_cuda_engine.*was told to fail"):
        load(library, plan)
    assert plays(load(library, plan))


@pytest.mark.parametrize("fault", ["context_no_room", "deserialize_no_room"])
def test_room_is_asked_for_once(plan, fault):
    library, asked = stand_in.library(), []
    plan.faults[fault] = 1
    engine = load(library, plan, make_room=asked.append)
    assert plays(engine)
    assert asked == [plan.workspace if fault == "context_no_room" else len(plan.data)]


@pytest.mark.parametrize("fault", ["context_no_room", "deserialize_no_room"])
def test_no_room_says_how_much_is_missing(plan, fault, monkeypatch):
    monkeypatch.setattr(room, "free_bytes", lambda device: 1 << 20)
    library, asked = stand_in.library(), []
    plan.faults[fault] = 2
    engine = None
    with pytest.raises(MemoryShortage, match="OutOfMemory") as error:
        engine = load(library, plan, make_room=asked.append)
        engine.ready()
    assert len(asked) == 1
    if fault == "context_no_room":
        assert "workspace needs 3 MB on cpu and 1 MB are free, 2 MB are missing" in str(error.value)
    assert plays(engine or load(library, plan))


def test_another_failure_asks_for_no_room(plan):
    library, asked = stand_in.library(), []
    plan.faults["create_execution_context"] = 1
    engine = load(library, plan, make_room=asked.append)
    with pytest.raises(EngineError, match="create_execution_context"):
        engine.ready()
    assert asked == [] and plays(engine)


def changed_io(sidecar, which, **to):
    return replace(sidecar, io=tuple({**one, **to} if one["name"] == which else one for one in sidecar.io))


MISFITS = {
    "another dtype": (lambda s: changed_io(s, "velocity", dtype="bfloat16"), "velocity"),
    "another name": (lambda s: changed_io(s, "timestep", name="time"), "time"),
    "another mode": (lambda s: changed_io(s, "timestep", mode="output"), "timestep"),
    "fewer tensors": (lambda s: replace(s, io=s.io[1:]), "hidden_states"),
    "more profiles": (lambda s: replace(s, profiles=s.profiles * 2), "1 profiles"),
    "another profile": (
        lambda s: replace(s, profiles=(Profile(Span(1, 4, 8), Span(2, 20, 40), Span(1, 64, 512)),)),
        "profile 0 takes hidden_states",
    ),
    "another flavor": (lambda s: replace(s, flavor="tensorrt_rtx"), "tensorrt_rtx"),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_an_engine_that_is_not_what_its_sidecar_says(plan, kind):
    library = stand_in.library()
    change, named = MISFITS[kind]
    with pytest.raises(EngineError, match=named):
        library.load(plan.data, change(plan.sidecar), CPU)
    assert plays(load(library, plan))


def test_swap_frees_the_old_after_the_switch(base, conditions, plan, other):
    """At the next step of the session that plays, no sooner."""
    library = stand_in.library()
    old = load(library, plan)
    with runtime().playing("swapped", old, StreamConfig(depth=1)) as session:
        session.submit(Request(conditions(base, 6, 1)[0], Sampling(4, seed=1)))
        session.step()
        new = library.swap(old, lambda: load(library, other), session.stage.swap)
        assert plays(old) and plays(new) and session.engine is old
        session.step()
        assert session.engine is new and plays(new)
        with pytest.raises(EngineError, match="closed"):
            plays(old)
        assert [f.take().isfinite().all() for f in session.play([])] == [True]


def test_a_swap_that_never_comes_to_pass_frees_the_new(base, plan, other):
    library = stand_in.library()
    old = load(library, plan)
    with runtime().playing("left", old, StreamConfig(depth=1)) as session:
        new = library.swap(old, lambda: load(library, other), session.stage.swap)
    with pytest.raises(EngineError, match="closed"):
        plays(new)
    assert plays(old)


@pytest.mark.parametrize("where", ["load", "context", "switch"])
def test_a_failed_swap_leaves_the_old_playing(base, conditions, plan, other, where):
    """In the middle of a session, whose music does not change by it."""
    library = stand_in.library()
    old, fail = load(library, plan), EngineError("the switch failed", "x", "y")
    other.faults["deserialize_cuda_engine"] = where == "load"
    other.faults["create_execution_context"] = where == "context"

    switched = []

    def switch(new, over):
        switched.append(new)
        raise fail

    request = Request(conditions(base, 6, 1)[0], Sampling(4, seed=1))
    with runtime().playing("swap", old, StreamConfig(depth=1)) as session:
        want = [f.take().clone() for f in session.play([request])]
        again = replace(request)
        session.submit(again)
        session.step()
        with pytest.raises(EngineError):
            library.swap(old, lambda: load(library, other), switch)
        got = [f.take() for f in session.play([])]
    assert torch.equal(got[0], want[0])
    assert len(switched) == (where == "switch")
    assert len(library.open_engines) == 1


def test_what_rtx_is_told(eager):
    """Kernels are compiled when a shape comes, kept while the process lives, and graphs are left to the library."""
    plan = stand_in.make(eager, rtx=True)
    engine = stand_in.load(plan)
    assert plays(engine)
    engine.shed()
    assert plays(engine)
    first, second = plan.configs
    assert first.cuda_graph_strategy.name == "WHOLE_GRAPH_CAPTURE"
    assert first.dynamic_shapes_kernel_specialization_strategy.name == "EAGER"
    assert first.cache is second.cache is not None
    engine = stand_in.load(plan, graphs=False)
    assert plays(engine) and plan.configs[-1].cuda_graph_strategy.name == "DISABLED"


def test_the_recorder_is_bounded_and_readable():
    errors = Errors()
    for i in range(MOST + 5):
        errors.add(stand_in.ErrorCodeTRT.INVALID_ARGUMENT, f"line\n {i % 3}")
    assert errors.count == MOST and errors.overflowed and not errors.shortage
    assert errors.text() == "line 0; line 1; line 2; ..."
    errors.clear()
    assert errors.count == 0 and not errors.overflowed and errors.text() == ""
    errors.add(stand_in.ErrorCodeTRT.FAILED_ALLOCATION, "x")
    assert errors.shortage


def test_the_real_library_refuses_and_stays_usable(real, plan):
    """Its own words come through the recorder; on a machine without a driver this is as far as it goes."""
    sidecar = replace(plan.sidecar, flavor="tensorrt_rtx")
    for _ in range(2):
        with pytest.raises(EngineError, match=r"deserialize_cuda_engine failed \(.*magicTag"):
            real.load(b"x" * 1000, sidecar, CPU)
    assert real.errors.count == 0
    assert real.runtime.engine_host_code_allowed is False


def test_the_real_library_reads_a_header(real):
    assert "malformed engine" in real.header_problem(b"x" * 64)
    assert stand_in.library().header_problem(b"x" * 64) is None  # the full one has no such check
