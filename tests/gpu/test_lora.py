"""Adapters on a GPU: merged weights' equal, whole at a tick, never waited for, and company does not matter."""

import copy

import pytest
import torch
from ostinato.engine_runtime.config import Guidance, Sampling, StreamConfig
from ostinato.engine_runtime.engines.contract import LIMITS
from ostinato.engine_runtime.engines.eager import EagerEngine
from ostinato.engine_runtime.lora.stack import merged, stack
from ostinato.engine_runtime.models.loading import load
from ostinato.engine_runtime.profile.layers import Workload
from ostinato.engine_runtime.profile.probe import TICK, profile_engine
from ostinato.engine_runtime.stream.request import Request
from ostinato.engine_runtime.stream.sessions import runtime

from ..adapters import made_adapter
from ..helpers import SPIN, made_up, spin

pytestmark = pytest.mark.gpu
FRAMES = 125


@pytest.fixture(scope="module")
def transformer(cache):
    return load("random-base", torch.device("cuda", 0), torch.float32).pipe.transformer


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def engine(request, transformer):
    return EagerEngine(copy.deepcopy(transformer).to(request.param), "gpu-test", LIMITS)


@pytest.fixture
def lane(engine):
    return runtime().lane(engine.device)


@pytest.fixture
def mix(engine, tmp_path):
    return [(made_adapter(tmp_path, engine.targets, rank, seed=rank), s) for rank, s in ((8, 1.0), (4, -0.6))]


def factors_of(engine, lane, mix):
    return stack(mix, engine.targets, engine.dtype, engine.device, lane)


def velocity(engine, lane, lora, batch=4):
    rows = engine.rows(batch, FRAMES, 64)
    for i in range(batch):
        condition = made_up(i, FRAMES, 9 + i, width=engine.width)
        rows.write(i, condition.tokens.cuda(), condition.context.cuda())
    rows.hidden_states.copy_(torch.randn(rows.hidden_states.shape, generator=torch.Generator().manual_seed(7)))
    rows.timestep.copy_(torch.linspace(0.2, 0.9, batch))
    torch.cuda.synchronize()
    with lane.use():
        if lora is not None:
            lane.wait(lora.ready)
        got = engine(rows.adapted(lora)).clone()
    torch.cuda.synchronize()
    return got


def test_factors_equal_merged_weights(engine, transformer, lane, mix):
    other = copy.deepcopy(transformer)
    other.load_state_dict(merged(other.state_dict(), mix, engine.targets), strict=False)
    want = velocity(EagerEngine(other, "merged", LIMITS), lane, None)
    got, plain = velocity(engine, lane, factors_of(engine, lane, mix)), velocity(engine, lane, None)
    most = 1e-4 if engine.dtype == torch.float32 else 0.06 * want.norm()
    distance = (got - want).abs().max() if engine.dtype == torch.float32 else (got.float() - want).norm()
    assert distance <= most and (plain.float() - want).norm() > 0.2 * want.norm()


def test_a_b_a_and_none_are_bit_equal(engine, lane, mix):
    a, b, none = (factors_of(engine, lane, m) for m in (mix, mix[:1], []))
    plain, first = velocity(engine, lane, None), velocity(engine, lane, a)
    assert not torch.equal(velocity(engine, lane, b), first)
    assert torch.equal(velocity(engine, lane, a), first)
    assert torch.equal(velocity(engine, lane, none), plain) and not torch.equal(first, plain)


def request_of(engine, seed, steps=8):
    made = made_up(seed, FRAMES, 9, width=engine.width)
    return Request(made, Sampling(steps, seed=seed), Guidance(4.0))


def config_of(depth=4):
    return StreamConfig(depth=depth, guidance="full", tokens=64, queue=64, spread=False)


def played(engine, requests, lora):
    with runtime().playing("gpu lora", engine, config_of()) as session:
        session.adapt(lora)
        return {id(f.request): f.take() for f in session.play(requests)}


def test_company_does_not_matter(engine, lane, mix):
    lora, mine = factors_of(engine, lane, mix), request_of(engine, 99)
    alone = played(engine, [mine], lora)[id(mine)]
    for place in range(4):
        others = [request_of(engine, seed, 2 + seed % 5) for seed in range(7)]
        among = played(engine, [*others[:place], mine, *others[place:]], lora)[id(mine)]
        assert torch.equal(among, alone), f"slot {place}"


def test_factors_that_are_still_being_copied_are_waited_for(engine, lane, mix):
    """The caller's stream is late; its memory is let go of at once."""
    mine = request_of(engine, 3)
    want = played(engine, [mine], factors_of(engine, lane, mix))[id(mine)]
    with runtime().playing("gpu lora", engine, config_of()) as session:
        with torch.cuda.stream(torch.cuda.Stream()):
            spin(SPIN)
            session.adapt(factors_of(engine, lane, mix))
        session.submit(mine)
        got = [f.take() for f in session.play([])][0]
    assert torch.equal(got, want)


def test_factors_in_use_outlive_their_swap(engine, lane, mix):
    """The lane is late: the old ones are dropped and their memory is asked for again before it has read them."""
    mine = request_of(engine, 3, steps=1)
    want = played(engine, [mine], factors_of(engine, lane, mix))[id(mine)]
    with runtime().playing("gpu lora", engine, config_of()) as session:
        session.adapt(factors_of(engine, lane, mix))
        session.submit(mine)
        with lane.use():
            spin(SPIN)
        done = session.step()
        session.adapt(None)
        session.step()
        litter = [torch.full((1 << 18,), float("nan"), device="cuda") for _ in range(64)]
        got = done[0].take()
        torch.cuda.synchronize()
    assert torch.equal(got, want) and len(litter) == 64


def test_a_swap_and_the_ticks_after_it_do_not_join_the_host(engine, lane, mix):
    a, b = factors_of(engine, lane, mix), factors_of(engine, lane, mix[:1])
    with runtime().playing("gpu lora", engine, config_of()) as session:
        session.adapt(a)
        for seed in range(4):
            session.submit(request_of(engine, seed, steps=64))
        for _ in range(4):
            session.step()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for i in range(30):
                session.adapt((a, b, None)[i % 3])
                session.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_the_layers_account_for_the_kernels(engine):
    """The table's total against the sum of all kernels that the profiler saw in the ticks; no more than the wall."""
    found = profile_engine(engine, Workload(4, 5.0, 8, "full", 64), ticks=5)
    assert found.clock == "kernels" and 0 < found.total_ms < 1.05 * found.profiled_ms
    calls = {x.name: x.calls for x in found.grouped()}
    assert calls["layers.*.mlp.up_proj: linear"] == pytest.approx(len(engine.decoder.model.layers))
    kinds = found.kinds()
    assert kinds["matrix product"] > 0 and kinds["attention"] > 0 and kinds["normalization"] > 0
    assert any(x.name.startswith(f"{TICK}: ") for x in found.layers), "guidance and integration"
