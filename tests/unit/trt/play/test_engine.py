"""A TensorRT engine behind the decoder contract, over the stand-in context: what is bound, when, and what fails."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from ostinato.engine_runtime.config import NO_GUIDANCE, Guidance, Sampling
from ostinato.engine_runtime.engines.eager import EagerEngine
from ostinato.engine_runtime.engines.factors import Factors
from ostinato.engine_runtime.engines.profiles import Profile, Span
from ostinato.engine_runtime.engines.prove import fill
from ostinato.engine_runtime.errors import EngineError, EngineLimitError, InputError
from ostinato.engine_runtime.stream.request import Part, Request
from ostinato.engine_runtime.stream.tick import Tick
from ostinato.engine_runtime.trt.play.executor import Executor

from .... import trt_stand_in as stand_in
from ....helpers import drawn, keeps_outputs, play

GUIDED, INITIALIZE = Guidance(5.0), Guidance(5.0, mode="initialize")
NARROW = Profile(Span(1, 2, 4), Span(2, 20, 40), Span(1, 64, 512))  # 4 rows, so a guided ring of 4 runs in two passes


@pytest.fixture(scope="module")
def eager(base):
    return EagerEngine(base.pipe.transformer, "test")


@pytest.fixture
def plan(eager):
    return stand_in.make(eager)


def filled(engine, batch=4, frames=6, tokens=64, seed=1):
    rows = engine.rows(batch, frames, tokens)
    fill((rows,), batch, frames, tokens, engine.width, engine.dtype, seed)
    rows.lengths[:] = rows.encoder_attention_mask.sum(dim=1).numpy()
    return rows


RINGS = {
    "plain": ([NO_GUIDANCE] * 3, {}),
    "guided": ([GUIDED, NO_GUIDANCE, GUIDED], {"guidance": "full"}),
    "initialize": ([INITIALIZE, NO_GUIDANCE, INITIALIZE], {"guidance": "initialize"}),
}


@pytest.mark.parametrize("frames", [6, 7], ids=["even", "odd"])
@pytest.mark.parametrize("profile", [stand_in.PROFILE, NARROW], ids=["one pass", "two passes"])
@pytest.mark.parametrize("ring", RINGS)
def test_the_production_path_equals_eager(base, eager, conditions, ring, profile, frames):
    """Session, ring, tick and engine as they play, against the eager engine: bit by bit on the CPU."""
    guidances, config = RINGS[ring]
    made = conditions(base, frames, 3)
    requests = [Request(made[i], Sampling(3, seed=i), g) for i, g in enumerate(guidances)]
    narrow = EagerEngine(base.pipe.transformer, "test", stand_in.load(stand_in.make(eager, profile)).limits)
    want = play(narrow, requests, depth=4, spread=False, **config)
    plan = stand_in.make(eager, profile)
    got = play(stand_in.load(plan), requests, depth=4, spread=False, **config)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert plan.executes and all(torch.isfinite(latent).all() for latent in got)


def test_several_conditions_and_a_change_of_depth(base, eager, conditions):
    made = conditions(base, 6, 3)
    requests = [Request((Part(made[i]), Part(made[2], 0.4)), Sampling(3, seed=i), GUIDED) for i in range(2)]
    for depth in (2, 3):
        want = play(eager, requests, depth=depth, guidance="full", conditions=2)
        got = play(stand_in.load(stand_in.make(eager)), requests, depth=depth, guidance="full", conditions=2)
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_a_tick_that_keeps_the_output_is_found_out(base, eager, conditions, monkeypatch):
    """The second execute of a tick overwrites the first one's velocity, which therefore must be copied."""

    requests = [Request(c, Sampling(2, seed=i), GUIDED) for i, c in enumerate(conditions(base, 6, 4))]
    want = play(eager, requests, depth=4, guidance="full", spread=False)
    monkeypatch.setattr(Tick, "_decode", keeps_outputs)
    got = play(stand_in.load(stand_in.make(eager, NARROW)), requests, depth=4, guidance="full", spread=False)
    assert not any(torch.allclose(a, b, atol=1e-2) for a, b in zip(got, want, strict=True))


def test_a_steady_tick_sets_nothing(eager, plan):
    """Shapes and addresses are set when they change, and then no more: not in the second tick, nor in the tenth."""
    engine = stand_in.load(plan)
    rows = filled(engine)
    engine(rows)
    before = plan.calls.copy()
    for i in range(3):
        rows.hidden_states.add_(0.1 * i)
        assert torch.equal(engine(rows), eager(rows))
    assert plan.calls - before == {"execute_async_v3": 3}
    assert plan.executes[0]["shapes"]["hidden_states"] == (4, 6, 64)


def test_parts_are_bound_where_they_lie(eager, plan):
    """Blocks of one shape cost new addresses and no new shape; what is not aligned is copied, afresh each time."""
    engine = stand_in.load(plan)
    rows = filled(engine, batch=6)
    blocks = [rows.part(i, i + 3) for i in (0, 3)]
    for _ in range(2):
        rows.timestep.mul_(0.9)  # its parts are copied
        for part in blocks:
            assert torch.equal(engine(part), eager(part))
    assert plan.calls["set_input_shape"] == 5 and plan.calls["set_optimization_profile_async"] == 1
    for i in range(6):
        assert torch.equal(engine(rows.part(i, i + 1)), eager(rows.part(i, i + 1)))


def test_inputs_lie_where_they_were_allocated_when_they_are_aligned(eager, plan):
    """On a GPU every allocation is aligned; here they are made to be."""
    engine = stand_in.load(plan)
    rows = filled(engine)
    for name in ("hidden_states", "encoder_hidden_states", "context_latents"):
        old = getattr(rows, name)
        flat = torch.empty(old.numel() + 64, dtype=old.dtype)
        start = -flat.data_ptr() % 256 // old.element_size()
        object.__setattr__(rows, name, flat[start : start + old.numel()].view(old.shape).copy_(old))
    engine(rows.part(1, 3))
    for name in ("hidden_states", "encoder_hidden_states", "context_latents"):
        assert plan.executes[0]["addresses"][name] == getattr(rows, name)[1].data_ptr(), name


def test_the_copy_is_made_before_the_execute(eager, plan, monkeypatch):
    """The rule can be broken: with the copy behind the execute, the part reads what was there before."""
    engine = stand_in.load(plan)
    rows = filled(engine).part(1, 3)
    engine(rows)
    rows.timestep.mul_(0.5)
    want = eager(rows)
    bind, launch = Executor._bind, Executor._launch
    later = []
    monkeypatch.setattr(Executor, "_bind", lambda *given: later.append(given))
    monkeypatch.setattr(Executor, "_launch", lambda *given: (launch(*given), bind(*later.pop())))
    assert not torch.allclose(engine(rows), want, atol=1e-4)
    assert torch.equal(engine(rows), want)


def test_the_next_call_overwrites_the_output(plan):
    engine = stand_in.load(plan)
    rows = filled(engine)
    first = engine(rows)
    kept = first.clone()
    rows.hidden_states.neg_()
    assert engine(rows).data_ptr() == first.data_ptr()
    assert not torch.equal(first, kept)


def test_a_caller_in_inference_mode_leaves_usable_buffers(eager, plan):
    """As ComfyUI runs its nodes; a session that plays later does not."""
    engine = stand_in.load(plan)
    rows = filled(engine, batch=6).part(1, 3)
    with torch.inference_mode():
        engine(rows)
    assert torch.equal(engine(rows), eager(rows))


def test_the_smallest_profile_by_the_sizes_alone(eager):
    """Whatever was played before, so that the same music runs on the same kernels."""
    small, long = (
        Profile(Span(1, 1, 2), Span(2, 4, 8), Span(1, 16, 64)),
        Profile(Span(1, 1, 4), Span(2, 20, 40), Span(1, 64, 512)),
    )
    plan = stand_in.make(eager, long, small)
    engine = stand_in.load(plan)
    sizes = [(2, 6, 64), (2, 10, 64), (2, 6, 64), (3, 6, 64), (1, 6, 100), (1, 8, 10)]
    for batch, frames, tokens in sizes:
        rows = filled(engine, batch, frames, tokens)
        assert torch.equal(engine(rows), eager(rows))
    assert [e["profile"] for e in plan.executes] == [1, 0, 1, 0, 0, 1]
    assert (engine.limits.batch, engine.limits.frames, engine.limits.tokens) == (4, 40, 512)


def test_sizes_that_no_profile_takes_are_named(eager):
    wide, long = (
        Profile(Span(2, 4, 8), Span(4, 8, 8), Span(32, 64, 64)),
        Profile(Span(1, 1, 2), Span(2, 20, 40), Span(32, 64, 64)),
    )
    engine = stand_in.load(stand_in.make(eager, wide, long))
    with pytest.raises(EngineLimitError, match="9 rows|takes 1 to 8") as error:
        engine.limits.check(9, 8, 64)
    with pytest.raises(EngineLimitError) as error:
        engine.rows(4, 40, 64)
    assert all(part in str(error.value) for part in ("4 rows of 40 frames", "batch 2:4:8", "frames 2:20:40"))
    assert engine.rows(2, 3, 5).encoder_hidden_states.shape == (2, 32, engine.width)  # as many tokens as it needs
    assert engine.rows(16, 8, 64).timestep.shape == (16,)  # executed in parts


CALLS = ["set_optimization_profile_async", "set_input_shape", "set_tensor_address", "infer_shapes", "execute_async_v3"]


@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_fails_is_named_and_the_next_one_plays(eager, call):
    """Whatever of the failed call's shapes, profile and addresses was already set."""
    small = [Profile(Span(1, 2, 3), Span(2, 6, 8), Span(1, 64, 64))] if "profile" in call else []
    plan = stand_in.make(eager, *small, stand_in.PROFILE)
    engine = stand_in.load(plan)
    before, rows = filled(engine, batch=2), filled(engine, batch=4)
    engine(before)
    plan.faults[call] = 1
    with pytest.raises(EngineError, match=f"TensorRT's {call}") as error:
        engine(rows)
    assert f"the stand-in's {call} was told to fail" in error.value.text
    assert torch.equal(engine(before), eager(before))
    assert torch.equal(engine(rows), eager(rows))


def test_a_failure_in_a_session_leaves_it_usable(base, eager, conditions, plan):
    engine = stand_in.load(plan)
    requests = [Request(c, Sampling(2, seed=i)) for i, c in enumerate(conditions(base, 6, 2))]
    plan.faults["execute_async_v3"] = 1
    with pytest.raises(EngineError, match="execute_async_v3"):
        play(engine, requests, depth=2)
    want = play(eager, requests, depth=2)
    assert all(torch.equal(a, b) for a, b in zip(play(engine, requests, depth=2), want, strict=True))


def test_rows_of_another_engine_are_refused(eager, plan):
    engine = stand_in.load(plan)
    rows = eager.rows(2, 6, 64)
    object.__setattr__(rows, "hidden_states", rows.hidden_states.bfloat16())
    with pytest.raises(EngineError, match=r"hidden_states is torch.bfloat16 .* must be torch.float32"):
        engine(rows)
    object.__setattr__(rows, "hidden_states", torch.zeros(2, 64, 6).transpose(1, 2))
    with pytest.raises(EngineError, match="contiguous"):
        engine(rows)
    assert not plan.executes


def test_bfloat16_rows(base):
    twin = EagerEngine(copy.deepcopy(base.pipe.transformer).to(torch.bfloat16), "test")
    engine = stand_in.load(stand_in.make(twin))
    rows = filled(engine)
    assert engine(rows).dtype == torch.bfloat16 and torch.equal(engine(rows), twin(rows))


def adapters(engine, rank, seed=3):
    targets = engine.targets
    a = {k: drawn(seed, targets.layers, rank, n) for k, (n, _) in targets.kinds.items()}
    b = {k: 0.1 * drawn(seed + 1, targets.layers, n, rank) for k, (_, n) in targets.kinds.items()}
    return Factors(targets, rank, a, b, frozenset(targets.kinds), False, (), (), ("test",), None)


ADAPTED = Profile(Span(1, 2, 4), Span(2, 6, 8), Span(1, 16, 64), Span(1, 8, 32))


def test_adapters_are_inputs(eager):
    """Factors come with the rows and go with them; none is none at the smallest rank."""
    plan = stand_in.make(eager, ADAPTED, lora=True)
    engine = stand_in.load(plan)
    rows = filled(engine, batch=2)
    for factors in (None, adapters(engine, 8), adapters(engine, 32, 9), None):
        given = rows.adapted(factors)
        assert torch.allclose(engine(given), eager(given), atol=1e-6)
    assert [e["shapes"]["lora_up_a"][1] for e in plan.executes] == [1, 8, 32, 1]
    with pytest.raises(EngineLimitError, match="adapters of rank 64"):
        engine(rows.adapted(adapters(engine, 64)))


def test_an_engine_without_those_inputs_refuses_adapters(eager, plan):
    engine = stand_in.load(plan)
    assert engine.targets is None
    with pytest.raises(InputError, match="adapters were given to an engine that takes none"):
        engine(filled(engine).adapted(adapters(eager, 8)))


def test_memory_is_given_back_and_taken_again(eager, plan):
    engine = stand_in.load(plan)
    rows = filled(engine)
    engine(rows)
    engine.shed()
    assert torch.equal(engine(rows), eager(rows))
    assert plan.calls["create_execution_context"] == 2
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine(rows)


def test_a_closed_session_leaves_none_of_its_rows(eager, plan):
    engine = stand_in.load(plan)
    rows = filled(engine)
    engine(rows)
    held = weakref.ref(rows.encoder_hidden_states)
    engine.rest()
    del rows
    gc.collect()
    assert held() is None


def test_a_refit_starts_from_a_quiet_engine(eager, plan):
    """Whoever changes weights finds nothing set afterwards that the old ones left."""
    engine = stand_in.load(plan)
    rows = filled(engine)
    engine(rows)
    with engine.paused() as inner:
        assert inner is engine.executor.engine
    assert torch.equal(engine(rows), eager(rows))
    assert plan.calls["set_input_shape"] == 10  # anew


def test_what_an_engine_says_of_itself(plan):
    engine = stand_in.load(plan)
    assert "TensorRT 10.13.3.9, float32 on cpu" in engine.summary() and "unverified on this GPU" in engine.summary()
    assert plan.sidecar.plan_sha256 in engine.identity and "depth up to 8" in engine.summary()
