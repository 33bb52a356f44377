"""What only a GPU can show: order between streams, no host join in a tick, and company independence there."""

import copy

import pytest
import torch
from ostinato.engine_runtime.audio.decode import decode
from ostinato.engine_runtime.config import NO_GUIDANCE, Guidance, Sampling, StreamConfig
from ostinato.engine_runtime.engines.contract import LIMITS
from ostinato.engine_runtime.engines.eager import EagerEngine
from ostinato.engine_runtime.models.conditioning import encode_prompt
from ostinato.engine_runtime.models.engines import eager_engine
from ostinato.engine_runtime.models.loading import load
from ostinato.engine_runtime.models.prompt import Prompt
from ostinato.engine_runtime.stream.request import Condition, Request
from ostinato.engine_runtime.stream.sessions import runtime

from ..helpers import SPIN, spin

pytestmark = pytest.mark.gpu
FRAMES = 125


@pytest.fixture(scope="module")
def models():
    cpu = load("random-base", torch.device("cpu"), torch.float32)
    gpu = load("random-base", torch.device("cuda", 0), torch.float32)
    return cpu, gpu


@pytest.fixture(scope="module")
def condition(models):
    return encode_prompt(models[1], Prompt("warm piano", "la la", seconds=FRAMES / 25))


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def engine(request, models):
    transformer = copy.deepcopy(models[1].pipe.transformer).to(request.param)
    return EagerEngine(transformer, "gpu-test", LIMITS)


def requests_of(condition, count, guided=True):
    return [
        Request(
            condition,
            Sampling(steps=2 + i % 5, shift=1.0 + i % 3, seed=i),
            Guidance(1.0 + 2 * (i % 4)) if guided else NO_GUIDANCE,
        )
        for i in range(count)
    ]


def play(engine, requests, **config):
    with runtime().playing("gpu test", engine, StreamConfig(queue=64, **config)) as session:
        return {id(f.request): f.take() for f in session.play(requests)}


def test_cpu_and_gpu_agree(models, condition):
    cpu, gpu = models
    on_cpu = Condition(condition.tokens.cpu(), condition.context.cpu(), condition.null_tokens.cpu())
    request = Request(condition, Sampling(8, seed=5), Guidance(5.0))
    twin = Request(on_cpu, Sampling(8, seed=5), Guidance(5.0))
    got = play(eager_engine(gpu), [request], guidance="full")[id(request)]
    want = play(eager_engine(cpu), [twin], guidance="full")[id(twin)]
    torch.testing.assert_close(got.cpu(), want, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("rows", [16, 4], ids=["one pass", "two passes"])
def test_company_does_not_matter(models, condition, engine, rows):
    engine = EagerEngine(engine.decoder.model, "gpu-test", LIMITS.__class__(rows, LIMITS.frames, LIMITS.tokens))
    mine = Request(condition, Sampling(8, seed=99), Guidance(6.0))
    alone = play(engine, [mine], depth=4, guidance="full", spread=False)[id(mine)]
    for place in range(4):
        others = requests_of(condition, 7)
        together = play(engine, [*others[:place], mine, *others[place:]], depth=4, guidance="full", spread=False)
        assert torch.equal(together[id(mine)], alone), f"slot {place}"


def test_steady_ticks_do_not_join_the_host(condition, engine):
    """PyTorch raises at every synchronising call it knows of while the debug mode is set."""
    config = StreamConfig(depth=4, guidance="full", queue=64, spread=False)
    with runtime().playing("gpu test", engine, config) as session:
        for _ in range(4):
            session.submit(Request(condition, Sampling(64), Guidance(4.0)))
        for _ in range(4):
            session.step()
        torch.cuda.synchronize()
        allocated = torch.cuda.memory_stats()["num_device_alloc"]
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(40):
                session.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert torch.cuda.memory_stats()["num_device_alloc"] == allocated


def test_admission_and_finish_do_not_join_the_host(condition, engine):
    """The lane is kept busy: one step that admits, ticks and hands out must return long before it can have run.

    One step only: the driver holds about a thousand launches, and blocks the host when they are full.
    """
    config = StreamConfig(depth=4, guidance="full", queue=64, spread=False)
    with runtime().playing("gpu test", engine, config) as session:
        list(session.play(requests_of(condition, 8)))
        for seed in range(4):
            session.submit(Request(condition, Sampling(1, seed=seed), Guidance(4.0)))
        torch.cuda.synchronize()
        marker = torch.cuda.Event()
        with session.lane.use():
            spin(20 * SPIN)
            marker.record()
        finished = session.step()
        assert not marker.query(), "the host waited for the lane"
        assert len(finished) == 4
        assert all(bool(torch.isfinite(f.take()).all()) for f in finished)


def test_late_inputs_are_waited_for(condition, engine):
    """The source is still being written on the caller's stream when the request is submitted."""
    request = Request(condition, Sampling(4, denoise=0.5, seed=1), NO_GUIDANCE, torch.full((FRAMES, 64), 0.5).cuda())
    want = play(engine, [request])[id(request)]
    late = torch.zeros(FRAMES, 64, device="cuda")
    slow = Request(condition, Sampling(4, denoise=0.5, seed=1), NO_GUIDANCE, late)
    stream = torch.cuda.Stream()
    with runtime().playing("gpu test", engine, StreamConfig()) as session:
        with torch.cuda.stream(stream):
            spin(SPIN)
            late.fill_(0.5)
            session.submit(slow)
        got = [f.take() for f in session.play([])][0]
    assert torch.equal(got, want)


def test_a_latent_is_whole_when_it_is_taken(condition, engine):
    """The lane is delayed before the last tick; the consumer's stream must wait for it by itself."""
    request = Request(condition, Sampling(1, seed=3))
    want = play(engine, [request])[id(request)].cpu()
    with runtime().playing("gpu test", engine, StreamConfig()) as session:
        session.submit(request)
        with session.lane.use():
            spin(SPIN)
        finished = session.step()
        with torch.cuda.stream(torch.cuda.Stream()):
            got = finished[0].take().clone()
            torch.cuda.current_stream().synchronize()
    assert torch.equal(got.cpu(), want)


def test_memory_is_flat(condition, engine):
    play(engine, requests_of(condition, 8), depth=4, guidance="full")
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        play(engine, requests_of(condition, 8), depth=4, guidance="full")
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before


def test_decode_on_the_gpu_equals_the_cpu(models):
    cpu, gpu = models
    latents = torch.randn(1, 60, 64)
    got = decode(gpu.pipe.vae, latents.cuda(), 20).cpu()
    torch.testing.assert_close(got, decode(cpu.pipe.vae, latents), atol=1e-4, rtol=1e-4)
