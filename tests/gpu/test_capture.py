"""Ticks that are replayed as CUDA graphs: the same bits, whatever is turned, and no work for the host."""

import copy
import gc
import logging
import random
import threading
import weakref

import pytest
import torch
from ostinato.engine_runtime.config import Guidance, Sampling, StreamConfig
from ostinato.engine_runtime.device.capture import MOST, TRIES, Capture
from ostinato.engine_runtime.device.lane import Lane
from ostinato.engine_runtime.engines.contract import LIMITS
from ostinato.engine_runtime.engines.eager import EagerEngine
from ostinato.engine_runtime.engines.kinds import KINDS, make_engine
from ostinato.engine_runtime.errors import EngineError
from ostinato.engine_runtime.lora.stack import stack
from ostinato.engine_runtime.models.loading import load
from ostinato.engine_runtime.stream.request import Part, Request, Target
from ostinato.engine_runtime.stream.sessions import runtime

from ..adapters import made_adapter
from ..helpers import made_up

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda", 0)
FRAMES = 125


class Outside(EagerEngine):
    """One whose execute is not captured, and whose output is overwritten by the next."""

    capturable = False
    output = None

    def __call__(self, rows):
        velocity = super().__call__(rows)
        if self.output is None:
            self.output = torch.empty(LIMITS.batch, *velocity.shape[1:], dtype=self.dtype, device=self.device)
        self.output.fill_(torch.nan)
        self.output[: len(velocity)] = velocity
        return self.output[: len(velocity)]


@pytest.fixture(scope="module")
def transformer(cache):
    return load("random-base", CUDA, torch.float32).pipe.transformer


def engine_of(kind, transformer, rows=16):
    limits = LIMITS.__class__(rows, LIMITS.frames, LIMITS.tokens)
    return kind(copy.deepcopy(transformer).to(torch.bfloat16), "gpu-test", limits)


def condition(engine, seed):
    made = made_up(seed, FRAMES, 7 + seed % 9, width=engine.width)
    return type(made)(made.tokens.cuda(), made.context.cuda(), made.null_tokens.cuda())


def requests_of(engine, guidance, count=12):
    """Every kind of slot in turn: masked, pulled, fresh noise, two conditions, guided or not."""
    made, latent = [], torch.randn(FRAMES, 64, generator=torch.Generator().manual_seed(1))
    mask = (torch.rand(FRAMES, 64, generator=torch.Generator().manual_seed(2)) > 0.5).float()
    for i in range(count):
        what = condition(engine, i)
        extra = [
            {},
            {"source": latent, "mask": mask, "mask_strength": (1.0, 0.3)},
            {"target": Target(latent)},
            {"source": latent},
        ][i % 4]
        parts = (Part(what), Part(condition(engine, 50 + i), start=0.3)) if i % 3 == 2 else what
        guide = Guidance(1.0 + i % 4, mode=guidance) if i % 5 else Guidance(3.0, mode="self")
        walk = Sampling(4 + i % 5, seed=i, denoise=0.7 if "source" in extra else 1.0, solver=("ode", "sde")[i % 2])
        made.append(Request(parts, walk, guide, **extra))
    return made


def played(engine, guidance, captured, mix=None):
    """Latents of a stream whose knobs turn on and off, and turn again, while it plays."""
    config = StreamConfig(4, guidance, conditions=2, queue=64, spread=True, captured=captured)
    line, turns = torch.linspace(0.8, 1.2, FRAMES), random.Random(7)
    with runtime().playing(f"capture {captured}", engine, config) as session:
        lora = stack(mix, engine.targets, engine.dtype, engine.device, session.lane) if mix else None

        def turn():
            name, values = turns.choice(
                [
                    ("velocity_scale", [1.0, 0.9, line]),
                    ("ode_noise", [0.0, 0.1]),
                    ("sde", [1.0, 0.8]),
                    ("target_strength", [0.0, 0.4]),
                    ("channel_gain", [1.0, 1.1]),
                    ("dcw", [True, False]),
                    ("dcw_mode", ["low", "double", "pix"]),
                    ("dcw_wavelet", ["haar", "db4", "haar"]),
                    ("rescale", [0.0, 0.5]),
                ]
            )
            session.set(**{name: turns.choice(values)})
            if mix and turns.random() < 0.2:
                session.adapt(turns.choice([lora, None]))

        requests = requests_of(engine, guidance)
        done = {id(f.request): f.take().cpu() for f in session.play(requests, turn)}
        return [done[id(r)] for r in requests]


@pytest.mark.parametrize("rows", [16, 4], ids=["one pass", "several"])
@pytest.mark.parametrize("guidance", ["full", "initialize"])
@pytest.mark.parametrize("kind", [EagerEngine, Outside], ids=["captured whole", "in halves"])
def test_a_replayed_tick_has_the_bits_of_a_plain_one(transformer, kind, guidance, rows, tmp_path):
    engine = engine_of(kind, transformer, rows)
    mix = [(made_adapter(tmp_path, engine.targets, 8), 0.7)]
    for adapters in (None, mix):
        plain, again = played(engine, guidance, False, adapters), played(engine, guidance, True, adapters)
        for i, (a, b) in enumerate(zip(plain, again, strict=True)):
            assert torch.isfinite(a).all() and torch.equal(a, b), f"request {i}"


def test_a_steady_tick_is_one_launch_and_asks_no_device(transformer):
    engine = engine_of(EagerEngine, transformer)
    config = StreamConfig(4, "full", queue=64, spread=False)
    with runtime().playing("launches", engine, config) as session:
        for i in range(4):
            session.submit(Request(condition(engine, i), Sampling(400, seed=i), Guidance(3.0)))
        for _ in range(6):
            session.step()
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
            for _ in range(50):
                session.step()
            torch.cuda.synchronize()
    events = sorted(seen.events(), key=lambda event: event.time_range.start)
    calls = [event.name for event in events if event.name.startswith("cu")]
    assert calls.count("cudaGraphLaunch") == 50
    assert not [name for name in calls if "Launch" in name and name != "cudaGraphLaunch"]
    assert not [name for name in calls if "Malloc" in name or "Free" in name]
    # what follows the last is this test's own and the profiler's
    last = len(calls) - calls[::-1].index("cudaGraphLaunch")
    assert not [name for name in calls[:last] if "Synchronize" in name]


def test_scripts_are_bounded_and_the_tick_frees_its_memory(transformer):
    engine = engine_of(EagerEngine, transformer)
    capture, lane, x = Capture(CUDA), Lane(CUDA), torch.zeros(8, device=CUDA)
    torch.cuda.synchronize()
    with lane.use():
        for i in range(MOST + 9):
            for _ in range(3):
                capture.run(i, lambda: x.add_(1.0))
    torch.cuda.synchronize()
    assert x[0].item() == 3 * (MOST + 9) and len(capture.replayed) == MOST
    with lane.use():
        for i in range(MOST):  # seen once each, until no graph is left
            capture.run(f"once {i}", lambda: x.add_(1.0))
        for _ in range(3):
            capture.run("again", lambda: x.add_(1.0))
    torch.cuda.synchronize()
    assert x[0].item() == 3 * (MOST + 9) + MOST + 3 and capture.on and "again" in capture.replayed
    del capture
    played(engine, "full", True)
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    for _ in range(3):
        played(engine, "full", True)
    gc.collect()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= before


@pytest.mark.parametrize("fails", ["in the body", "at the end"])
def test_what_cannot_be_captured_is_played_plainly_and_said(fails, caplog):
    capture, lane, x = Capture(CUDA), Lane(CUDA), torch.zeros(8, device=CUDA)
    other, y = torch.cuda.Stream(), torch.zeros(8, device=CUDA)
    torch.cuda.synchronize()  # the lane does not wait for the zeros

    def asks():
        x.add_(1.0)
        if fails == "in the body":
            x.sum().item()
        else:  # a stream that is not joined again is reported when the capture ends
            other.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(other):
                y.add_(1.0)

    with lane.use(), caplog.at_level(logging.WARNING):
        for _ in range(1 + TRIES):
            capture.run("asks", asks)
        capture.run("other", lambda: x.add_(1.0))
    torch.cuda.synchronize()
    assert x[0].item() == 2.0 + TRIES
    torch.randn(4, device=CUDA)  # whose generator must not think that a capture goes on
    reserved = []
    for _ in range(20):  # the allocator must not think that a capture goes on
        used = torch.zeros(1 << 24, device=CUDA)
        lane.stream.wait_stream(torch.cuda.current_stream())
        lane.keep(used)
        with lane.use():
            x.add_(used[:8])
        torch.cuda.synchronize()
        del used
        reserved.append(torch.cuda.memory_reserved())
    assert reserved[-1] == reserved[2]
    assert len([r for r in caplog.records if "not captured" in r.message]) == 1


def test_a_ring_made_anew_uses_the_memory_of_the_old_one(transformer):
    """Every depth has graphs of its own, in one pool while the session plays."""
    engine, reserved = engine_of(EagerEngine, transformer), []
    what = condition(engine, 0)
    with runtime().playing("capture depths", engine, StreamConfig(4, queue=64, spread=False)) as session:
        for _ in range(6):
            for depth in (2, 4):
                session.configure(depth=depth)
                for _ in session.play([Request(what, Sampling(4, seed=i)) for i in range(3 * depth)]):
                    pass
            torch.cuda.synchronize()
            reserved.append(torch.cuda.memory_reserved())
    assert reserved[-1] == reserved[1]


def test_a_graph_that_is_garbage_does_not_break_a_capture():
    capture, lane, x = Capture(CUDA), Lane(CUDA), torch.zeros(8, device=CUDA)
    torch.cuda.synchronize()

    def body():
        x.add_(1.0)
        assert [[] for _ in range(100_000)]  # a collection of every generation would come in here

    with lane.use():
        for _i in range(3):
            old = Capture(CUDA)
            for _ in range(2):
                old.run("old", lambda: x.mul_(1.0))
            loop = [old]
            loop.append(loop)
            del old, loop
            capture.run("body", body)
    torch.cuda.synchronize()
    assert capture.on and "body" in capture.replayed and x[0].item() == 3.0


def test_a_shortage_in_a_capture_makes_room_once():
    """The plain tick has just run, so what is short is what it left in the cache."""
    capture, lane, x = Capture(CUDA), Lane(CUDA), torch.zeros(8, device=CUDA)
    torch.cuda.synchronize()
    short = []

    def body():
        if torch.cuda.is_current_stream_capturing() and len(short) < 1:
            short.append(True)
            raise torch.OutOfMemoryError("no room")
        x.add_(1.0)

    with lane.use():
        for _ in range(4):
            capture.run("body", body)
    torch.cuda.synchronize()
    assert short and capture.on and "body" in capture.replayed and x[0].item() == 4.0


def in_another_thread(call):
    """Call it there, and wait; returns what it raised."""
    raised = []

    def run():
        try:
            call()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return raised


def test_another_thread_that_waits_for_the_device_costs_one_plain_run(caplog):
    """As ComfyUI's does after a job; PyTorch refuses it the wait, and ends the capture."""
    capture, lane, x = Capture(CUDA), Lane(CUDA), torch.zeros(8, device=CUDA)
    torch.cuda.synchronize()
    refused = []

    def body():
        x.add_(1.0)
        if torch.cuda.is_current_stream_capturing() and not refused:
            refused.extend(in_another_thread(torch.cuda.synchronize))

    with lane.use(), caplog.at_level(logging.WARNING):
        for _ in range(5):
            capture.run("body", body)
    torch.cuda.synchronize()
    assert refused and capture.on and capture.replays("body") and x[0].item() == 5.0 and not caplog.records
    torch.randn(4, device=CUDA)


@pytest.mark.parametrize("kind", KINDS)
def test_an_engine_that_is_opened_meanwhile_ends_no_capture(transformer, kind):
    """It lays out its weights, compiles, tries its kernels and measures its products, and waits for that."""
    capture, lane, x = Capture(CUDA), Lane(CUDA), torch.zeros(8, device=CUDA)
    torch.cuda.synchronize()
    opened = []

    def open_one():
        engine = make_engine(kind, copy.deepcopy(transformer).to(torch.bfloat16), "opened meanwhile")
        engine.ready()
        opened.append(engine)

    def body():
        x.add_(1.0)
        if torch.cuda.is_current_stream_capturing():
            raised = in_another_thread(open_one)
            assert not raised or isinstance(raised[0], EngineError), raised

    with lane.use():
        for _ in range(3):
            capture.run("body", body)
    torch.cuda.synchronize()
    assert capture.replays("body") and x[0].item() == 3.0
    if not opened:
        pytest.skip(f"no {kind} engine here")


def test_an_adapter_that_is_turned_away_is_let_go(transformer, tmp_path):
    """A slider makes new factors at every tick; only those that play may stay."""
    engine = engine_of(EagerEngine, transformer)
    adapter, held = made_adapter(tmp_path, engine.targets, 8), []
    with runtime().playing("slider", engine, StreamConfig(2, spread=False)) as session:
        session.submit(Request(condition(engine, 1), Sampling(40)))
        for i in range(20):
            factors = stack([(adapter, 0.1 * i)], engine.targets, engine.dtype, engine.device, session.lane)
            held.append(weakref.ref(factors))
            session.adapt(factors)
            session.step()
        del factors
        gc.collect()
        assert sum(one() is not None for one in held) <= 1
