"""The execute path of a TensorRT engine on a GPU, over the stand-in context: order between streams, and graphs.

The stand-in poisons its output and sleeps before it reads and before it writes, so that whoever does not wait gets
wrong numbers every time. Each rule of the order is shown twice: it holds, and without it the numbers are wrong.
"""

import gc

import pytest
import torch
from ostinato.engine_runtime.config import NO_GUIDANCE, Guidance, Sampling, StreamConfig
from ostinato.engine_runtime.device.lane import Lane
from ostinato.engine_runtime.engines.eager import EagerEngine
from ostinato.engine_runtime.engines.profiles import Profile, Span
from ostinato.engine_runtime.engines.prove import fill, prove
from ostinato.engine_runtime.errors import EngineError, MemoryShortage
from ostinato.engine_runtime.models.conditioning import encode_prompt
from ostinato.engine_runtime.models.loading import load
from ostinato.engine_runtime.models.prompt import Prompt
from ostinato.engine_runtime.stream.request import Request
from ostinato.engine_runtime.stream.sessions import runtime
from ostinato.engine_runtime.stream.tick import Tick
from ostinato.engine_runtime.trt.play.executor import Executor
from ostinato.engine_runtime.trt.play.keeper import Keeper

from .. import trt_stand_in as stand_in
from ..helpers import SPIN, keeps_outputs, spin

pytestmark = pytest.mark.gpu
FRAMES, TOKENS = 26, 64
WIDE = Profile(Span(1, 8, 16), Span(2, 26, 40), Span(1, 64, 512))
NARROW = Profile(Span(1, 2, 4), Span(2, 26, 40), Span(1, 64, 512))  # a guided ring of 4 runs in two passes
HELD = pytest.mark.parametrize("held", [True, False], ids=["the rule holds", "without the rule"])


@pytest.fixture(scope="module")
def model():
    return load("random-base", torch.device("cuda", 0), torch.float32)


@pytest.fixture(scope="module")
def condition(model):
    return encode_prompt(model, Prompt("warm piano", "la la", seconds=FRAMES / 25))


@pytest.fixture
def eager(model):
    return EagerEngine(model.pipe.transformer, "gpu-test")


@pytest.fixture
def plan(model):
    """Its decoder is not the eager engine that it is compared with: what one keeps, the other must not see."""
    return stand_in.make(EagerEngine(model.pipe.transformer, "stand-in"), WIDE)


@pytest.fixture
def narrow(model):
    return stand_in.make(EagerEngine(model.pipe.transformer, "stand-in"), NARROW)


@pytest.fixture
def lane():
    return runtime().lane(torch.device("cuda", 0))


def filled(engine, batch=4, seed=1):
    """Rows on the current stream, whole when this returns."""
    rows = engine.rows(batch, FRAMES, TOKENS)
    fill((rows,), batch, FRAMES, TOKENS, engine.width, engine.dtype, seed)
    torch.cuda.synchronize()
    return rows


def answer(eager, rows):
    """The velocity of these rows by the eager engine, on the host."""
    torch.cuda.synchronize()
    return eager(rows).float().cpu()


def close(got, want):
    return torch.allclose(got.float().cpu(), want, atol=1e-4, rtol=1e-4)


def warm(engine, lane, rows):
    """Libraries are loaded and kernels compiled before anything is timed by a sleep."""
    with lane.use():
        engine(rows)
        engine(rows)
    torch.cuda.synchronize()


def requests_of(condition, count, steps=3, guided=True):
    return [
        Request(condition, Sampling(steps, seed=i), Guidance(2.0 + i % 3) if guided else NO_GUIDANCE)
        for i in range(count)
    ]


def play(engine, requests, **config):
    with runtime().playing("gpu trt test", engine, StreamConfig(queue=64, **config)) as session:
        return {id(f.request): f.take() for f in session.play(requests)}


@pytest.mark.parametrize("graphs", [True, False], ids=["graphs", "no graphs"])
@pytest.mark.parametrize("profile", [WIDE, NARROW], ids=["one pass", "two passes"])
@pytest.mark.parametrize("guidance", ["off", "full", "initialize"])
def test_the_production_path_equals_eager(model, condition, guidance, profile, graphs):
    plan = stand_in.make(EagerEngine(model.pipe.transformer, "stand-in"), profile)
    plan.before = plan.after = 2_000_000
    engine = stand_in.load(plan, graphs=graphs)
    eager = EagerEngine(model.pipe.transformer, "gpu-test", engine.limits)
    mode = {"off": NO_GUIDANCE, "full": Guidance(4.0), "initialize": Guidance(4.0, mode="initialize")}[guidance]
    requests = [Request(condition, Sampling(5, seed=i), mode) for i in range(6)]
    config = {"depth": 4, "guidance": guidance, "spread": False}
    want, got = play(eager, requests, **config), play(engine, requests, **config)
    for request in requests:
        torch.testing.assert_close(got[id(request)], want[id(request)], atol=1e-4, rtol=1e-4)


def test_the_default_stream_is_refused(plan):
    engine = stand_in.load(plan)
    with pytest.raises(EngineError, match="default stream"):
        engine(filled(engine))


@HELD
def test_inputs_are_copied_before_the_execute(eager, plan, lane, monkeypatch, held):
    """A part of the rows whose times are not aligned is copied; behind the execute that would be too late."""
    engine = stand_in.load(plan, graphs=False)
    part = filled(engine).part(1, 3)
    warm(engine, lane, part)
    part.timestep.mul_(0.5)
    want = answer(eager, part)
    if not held:
        bind, launch, later = Executor._bind, Executor._launch, []
        monkeypatch.setattr(Executor, "_bind", lambda *given: later.append(given))
        monkeypatch.setattr(Executor, "_launch", lambda *given: (launch(*given), bind(*later.pop())))
    with lane.use():
        got = engine(part).clone()
    torch.cuda.synchronize()
    assert close(got, want) == held


@HELD
def test_the_execute_runs_behind_what_wrote_its_rows(eager, plan, lane, monkeypatch, held):
    """On the stream that is current, not on one of its own: the lane still sleeps before it writes the rows."""
    engine = stand_in.load(plan, graphs=False)
    rows = filled(engine)
    other = torch.cuda.Stream()
    warm(engine, lane, rows)
    if not held:
        monkeypatch.setattr(Executor, "_stream", lambda self: other.cuda_stream)
        warm(engine, lane, rows)
    fresh = torch.randn_like(rows.hidden_states)
    torch.cuda.synchronize()
    with lane.use():
        spin(SPIN)
        rows.hidden_states.copy_(fresh)
        engine(rows)
    torch.cuda.synchronize()
    got = engine.executor.buffers["velocity"][: fresh.numel()].view_as(fresh).clone()
    assert close(got, answer(eager, rows)) == held


@HELD
def test_the_output_is_read_behind_the_event(eager, plan, lane, monkeypatch, held):
    """The consumer has a stream of its own, and asks for a velocity that is still being made."""
    engine = stand_in.load(plan, graphs=False)
    rows, before = filled(engine), filled(engine, seed=9)
    want = answer(eager, rows)
    consumer = torch.cuda.Stream()
    warm(engine, lane, before)  # what lies in the output buffer is another velocity
    with torch.cuda.stream(consumer):
        torch.zeros(8, device="cuda").clone()
    plan.after = SPIN
    if not held:
        monkeypatch.setattr(Lane, "take", lambda self, tensor, event: tensor)
    torch.cuda.synchronize()
    with lane.use():
        made, event = engine(rows), lane.mark()
    with torch.cuda.stream(consumer):
        got = lane.take(made, event).clone()
    torch.cuda.synchronize()
    assert close(got, want) == held


@HELD
def test_a_latent_is_whole_when_it_is_taken(condition, eager, plan, lane, monkeypatch, held):
    """The same, through a session: its last tick still runs when the latent is asked for."""
    engine = stand_in.load(plan, graphs=False)
    request, other = (Request(condition, Sampling(1, seed=seed)) for seed in (3, 4))
    want = play(eager, [request])[id(request)].cpu()
    play(engine, [other])
    with lane.use():  # what the lane's allocator gives out next holds no latent of before
        junk = [torch.full((FRAMES, 64), torch.nan, device="cuda") for _ in range(64)]
        del junk
    torch.cuda.synchronize()
    plan.after = SPIN
    if not held:
        monkeypatch.setattr(Lane, "take", lambda self, tensor, event: tensor)
    with runtime().playing("gpu trt test", engine, StreamConfig()) as session:
        session.submit(request)
        finished = session.step()
        with torch.cuda.stream(torch.cuda.Stream()):
            got = finished[0].take().clone()
        torch.cuda.synchronize()
    assert close(got, want) == held


@HELD
def test_a_buffer_that_is_freed_in_flight_is_not_reused(eager, plan, lane, monkeypatch, held):
    """The rows were made on the caller's stream, whose allocator gives their memory to the next who asks."""
    engine = stand_in.load(plan, graphs=False)
    warm(engine, lane, filled(engine, seed=9))
    rows = filled(engine)
    want = answer(eager, rows)
    torch.cuda.empty_cache()
    names = ("hidden_states", "encoder_hidden_states", "context_latents")
    places = {getattr(rows, name).data_ptr(): getattr(rows, name).shape for name in names}
    if not held:
        monkeypatch.setattr(Keeper, "hold", lambda self, name, tensor: None)
        engine.executor.settle()
    plan.before = SPIN
    torch.cuda.synchronize()
    with lane.use():
        engine(rows)
    del rows
    junk = [torch.full(shape, torch.nan, device="cuda") for _ in range(200) for shape in places.values()]
    reused = {tensor.data_ptr() for tensor in junk} & places.keys()
    torch.cuda.synchronize()
    got = engine.executor.buffers["velocity"][: want.numel()].view(want.shape)
    assert bool(reused) != held, "the allocator did not do what this test is about"
    assert close(got, want) == held


@HELD
def test_a_context_is_drained_before_it_goes(plan, lane, monkeypatch, held):
    engine = stand_in.load(plan, graphs=False)
    rows = filled(engine)
    warm(engine, lane, rows)
    plan.after = SPIN
    if not held:
        monkeypatch.setattr(Keeper, "drain", lambda self: None)
    with lane.use():
        engine(rows)
    engine.close()
    assert plan.torn == (0 if held else 1)
    torch.cuda.synchronize()


@HELD
def test_the_next_execute_waits_for_whoever_reads_the_last_output(eager, plan, lane, monkeypatch, held):
    """The check of an engine, say, on a stream of its own, while the lane still has to copy a velocity out."""
    engine = stand_in.load(plan, graphs=False)
    first, second = filled(engine), filled(engine, seed=9)
    want = answer(eager, first)
    other = Lane(torch.device("cuda", 0))
    warm(engine, other, second)
    warm(engine, lane, first)
    if not held:
        monkeypatch.setattr(Keeper, "enter", lambda self: None)
    with lane.use():
        made = engine(first)
        spin(SPIN)
        got = made.clone()
    with other.use():
        engine(second)
    torch.cuda.synchronize()
    assert close(got, want) == held


@HELD
def test_a_tick_copies_each_pass_before_the_next(condition, eager, narrow, monkeypatch, held):
    requests = requests_of(condition, 4)
    want = play(eager, requests, depth=4, guidance="full", spread=False)
    if not held:
        monkeypatch.setattr(Tick, "_decode", keeps_outputs)
    got = play(stand_in.load(narrow), requests, depth=4, guidance="full", spread=False, captured=False)
    assert all(close(got[id(r)], want[id(r)].cpu()) == held for r in requests[:3])


def test_a_graph_is_replayed_and_reads_what_is_new(eager, plan, lane):
    """Captured at the second call of the same rows; afterwards the context is not asked any more."""
    engine = stand_in.load(plan)
    rows = filled(engine, batch=6)
    for part in (rows, rows.part(1, 3)):  # the second one's times and mask are copied in front of the graph
        asked = len(plan.executes)
        for _ in range(5):
            fresh = torch.randn_like(part.hidden_states)
            torch.cuda.synchronize()
            with lane.use():
                part.hidden_states.copy_(fresh)
                part.timestep.mul_(0.9)
                got = engine(part).clone()
            assert close(got, answer(eager, part))
        assert len(plan.executes) == asked + 2


def test_each_pass_has_its_graph_and_a_new_ring_drops_them(eager, plan, lane):
    engine = stand_in.load(plan)
    for _ in range(2):
        rows, asked = filled(engine, batch=8), len(plan.executes)
        for i in range(6):
            part = rows.part(4 * (i % 2), 4 * (i % 2) + 4)
            with lane.use():
                got = engine(part).clone()
            assert close(got, answer(eager, part))
        assert len(plan.executes) == asked + 4
    assert len(engine.executor.capture.replayed) == 2
    engine.rest()
    assert not engine.executor.capture.replayed


def test_shapes_and_refits_drop_the_graphs(eager, plan, lane):
    engine = stand_in.load(plan)
    rows = filled(engine, batch=6)
    warm(engine, lane, rows)
    assert len(engine.executor.capture.replayed) == 1
    single = rows.part(0, 1)
    for part in (single, rows, single, rows):  # never twice the same, so nothing is captured
        with lane.use():
            got = engine(part).clone()
        assert close(got, answer(eager, part))
        assert not engine.executor.capture.replayed
    warm(engine, lane, rows)
    assert engine.executor.capture.replayed
    with engine.paused():
        assert not engine.executor.capture.replayed
    plan.bend = lambda v: 2 * v  # the new weights
    with lane.use():
        got = engine(rows).clone()
    assert close(got, 2 * answer(eager, rows))


def test_a_capture_that_fails_is_made_in_the_next_run(eager, plan, lane):
    engine = stand_in.load(plan)
    rows = filled(engine)
    with lane.use():
        engine(rows)
        plan.faults["execute_async_v3"] = 1
        got = [engine(rows).clone()]
        assert not engine.executor.capture.replayed
        got += [engine(rows).clone() for _ in range(2)]
    assert all(close(one, answer(eager, rows)) for one in got)
    assert engine.executor.capture.replayed


def test_a_steady_tick_does_not_join_the_host(condition, plan):
    """PyTorch raises at every synchronising call it knows of, and the lane's sleep would show any other."""
    engine = stand_in.load(plan)
    with runtime().playing("gpu trt test", engine, StreamConfig(depth=4, guidance="full", spread=False)) as session:
        for i in range(4):
            session.submit(Request(condition, Sampling(80, seed=i), Guidance(4.0)))
        for _ in range(6):
            session.step()
        torch.cuda.synchronize()
        allocated, asked = torch.cuda.memory_stats()["num_device_alloc"], len(plan.executes)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(40):
                session.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert torch.cuda.memory_stats()["num_device_alloc"] == allocated
        assert len(plan.executes) == asked
        torch.cuda.synchronize()
        marker = torch.cuda.Event()
        with session.lane.use():
            spin(10 * SPIN)
            marker.record()
        session.step()
        assert not marker.query(), "the host waited for the lane"


def test_memory_is_flat(condition, plan):
    engine = stand_in.load(plan)
    gc.collect()  # what earlier tests left in circles would be freed in between
    held = []
    for _ in range(4):
        play(engine, requests_of(condition, 6), depth=4, guidance="full")
        torch.cuda.synchronize()
        engine.rest()
        torch.cuda.synchronize()
        engine.rest()
        held.append(torch.cuda.memory_allocated())
    assert held[1] == held[2] == held[3]


def test_the_check_at_every_corner(model, plan, lane):
    eager = EagerEngine(model.pipe.transformer, "gpu-test")
    plan.before = plan.after = 2_000_000
    engine = stand_in.load(plan)
    proof = prove(engine, eager, WIDE, seed=1, lane=lane)
    assert proof.gpu == torch.cuda.get_device_name(0) and proof.driver != "none"
    assert len(proof.corners) == 3 and all(corner.relative < 1e-4 for corner in proof.corners)
    engine.proof = proof
    assert engine.verified


def test_a_shortage_names_what_is_missing(plan):
    plan.workspace = 1 << 50
    plan.faults["context_no_room"] = 2
    engine = stand_in.load(plan)
    with pytest.raises(MemoryShortage, match=r"needs \d+ MB on cuda:0 and \d+ MB are free, \d+ MB are missing"):
        engine.ready()
    engine.ready()
