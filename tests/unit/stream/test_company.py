"""A slot's result does not depend on what else is in the ring: bit for bit, on the real decoder."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ostinato.engine_runtime.config import NO_GUIDANCE, Guidance, Sampling
from ostinato.engine_runtime.device.workers import Workers, workers
from ostinato.engine_runtime.models.engines import eager_engine
from ostinato.engine_runtime.registry import registry
from ostinato.engine_runtime.stream.request import Request

from ...fuzz import examples
from ...helpers import StandIn, drawn, helping, made_up, play

TOKENS = 128  # one buffer length for all: the longest condition here has fewer
FRAMES = [1, 7, 25, 26, 63, 125]
FUSED, TWO_PASS = 16, 4

SAMPLINGS = st.builds(
    Sampling,
    steps=st.integers(1, 6),
    shift=st.sampled_from([1.0, 3.0]),
    denoise=st.just(1.0) | st.floats(0.1, 1.0),
    seed=st.integers(0, 2**64 - 1),
)
GUIDANCES = st.just(NO_GUIDANCE) | st.builds(
    Guidance,
    scale=st.floats(0.0, 15.0),
    start=st.sampled_from([0.0, 0.4]),
    end=st.sampled_from([0.7, 1.0]),
    momentum=st.floats(-1, 1),
    eta=st.floats(0, 1),
    norm_limit=st.floats(0.1, 10.0),
    every=st.integers(1, 3),
)


@st.composite
def requests(draw, known):
    """A request on one of the known conditions, its source anything from faint to overdriven."""
    condition = draw(st.sampled_from(known))
    loud = draw(st.sampled_from([1e-3, 1.0, 30.0]))
    source = loud * drawn(draw(st.integers(0, 9)), condition.frames, 64)
    return Request(condition, draw(SAMPLINGS), draw(GUIDANCES), source)


def same(engine, one, others, at, **config):
    """Play `one` by itself, and as the `at`th among others; both latents."""
    config = {"guidance": "full", "tokens": TOKENS, **config}
    alone = play(engine, [one], **config)[0]
    return alone, play(engine, [*others[:at], one, *others[at:]], **config)[at]


SLOW = settings(max_examples=examples(10), suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("rows", [FUSED, TWO_PASS], ids=["fused", "two-pass"])
@pytest.mark.parametrize("spread", [True, False], ids=["spread", "at-once"])
@SLOW
@given(st.data())
def test_any_company_in_any_place(base, conditions, rows, spread, data):
    """Depth 4; with three others every slot is taken, with more the slots are taken again in between."""
    frames = data.draw(st.sampled_from([1, 6, 7, 25]))
    known, engine = conditions(base, frames, 4), eager_engine(base, max_rows=rows)
    one = data.draw(requests(known))
    others = data.draw(st.lists(requests(known), min_size=3, max_size=6))
    at = data.draw(st.integers(0, len(others)))
    alone, among = same(engine, one, others, at, depth=4, spread=spread)
    assert torch.equal(alone, among)


def crowd(known, count, source, guided=True):
    """Others that differ in every way, some longer and some shorter than four steps."""
    return [
        Request(
            known[i % len(known)],
            Sampling(1 + (3 * i) % 7, 1.0 + i % 3, 1.0 if i % 2 else 0.6, seed=50 + i),
            Guidance(2.0 + i) if guided and i % 3 else NO_GUIDANCE,
            source,
        )
        for i in range(count)
    ]


@pytest.mark.parametrize(("frames", "count"), [*((t, 1) for t in FRAMES), (1, 2), (26, 2)])
@pytest.mark.parametrize("rows", [FUSED, TWO_PASS], ids=["fused", "two-pass"])
def test_every_slot_at_every_length(base, conditions, threads, frames, count, rows):
    threads(count)
    known, engine = conditions(base, frames, 4), eager_engine(base, max_rows=rows)
    one = Request(known[1], Sampling(3, 3.0, 0.8, seed=7), Guidance(7.0), drawn(1, frames, 64))
    others = crowd(known, 4, drawn(2, frames, 64))
    config = {"depth": 4, "guidance": "full", "tokens": TOKENS, "spread": False}
    alone = play(engine, [one], **config)[0]
    for slot in range(4) if count == 1 else (2, 3):  # two threads spin for long where cores are shared
        among = play(engine, [*others[:slot], one, *others[slot:]], **config)[slot]
        assert torch.equal(alone, among), f"slot {slot}"


def rings():
    """Every depth, unguided and guided, in one pass and where they need them in two, on one and two threads."""
    for depth in range(1, 9):
        for guided, rows in ((False, FUSED), (True, FUSED), *([(True, 8)] if depth > 4 else [])):
            yield depth, guided, rows, 1
            yield pytest.param(depth, guided, rows, 2, marks=pytest.mark.slow)  # two spin where cores are shared


@pytest.mark.parametrize(("depth", "guided", "rows", "count"), list(rings()))
def test_every_depth(turbo, base, conditions, threads, depth, guided, rows, count):
    """In the last slot, with steps below the depth (2) and above it (6)."""
    threads(count)
    model, mode = (base, "full") if guided else (turbo, "off")
    known, engine = conditions(model, 7, 4), eager_engine(model, rows)
    others = crowd(known, depth + 1, drawn(2, 7, 64), guided)
    for steps in (2, 6):
        one = Request(known[2], Sampling(steps, seed=3), Guidance(5.0) if guided else NO_GUIDANCE)
        alone, among = same(engine, one, others, depth - 1, depth=depth, guidance=mode, spread=False)
        assert torch.equal(alone, among)


@pytest.mark.parametrize(("depth", "rows"), [(3, FUSED), (5, FUSED), (6, 8), (7, 8)])
@pytest.mark.parametrize("frames", [1, 7])
def test_other_company_in_the_same_slot(base, conditions, threads, frames, depth, rows):
    """Batch sizes at which a matrix product on two threads rounds a row by its place."""
    threads(2)
    known, engine = conditions(base, frames, 4), eager_engine(base, rows)
    one = Request(known[2], Sampling(3, seed=3), Guidance(5.0))
    alike = [Request(known[0], Sampling(3, seed=i)) for i in range(depth - 1)]
    config = {"depth": depth, "guidance": "full", "tokens": TOKENS, "spread": False}
    first = play(engine, [*alike, one], **config)[-1]
    second = play(engine, [*crowd(known, depth - 1, drawn(2, frames, 64)), one], **config)[-1]
    assert torch.equal(first, second)


@pytest.mark.parametrize("frames", [7, 250])
def test_rows_side_by_side_are_those_that_one_thread_makes_in_turn(base, conditions, threads, frames):
    """With as many workers as a larger machine has, and with none."""
    known, engine, latents = conditions(base, frames, 4), eager_engine(base, 16), []
    asked = [Request(known[i], Sampling(2, seed=i), Guidance(5.0)) for i in range(3)]
    for count in (1, 4):
        threads(count)
        before = helping()
        with registry.fresh(Workers):
            latents.append(play(engine, asked, depth=3, guidance="full", tokens=TOKENS, spread=False))
            assert len(helping() - before) == (0 if count == 1 else 4)
            workers().close()
    assert all(torch.equal(a, b) for a, b in zip(*latents, strict=True))


@pytest.mark.parametrize("spread", [True, False], ids=["spread", "at-once"])
@pytest.mark.parametrize("rows", [16, 8], ids=["fused", "two-pass"])
@settings(max_examples=examples(50))
@given(st.data())
def test_any_ring_on_the_stand_in(rows, spread, data):
    """The runtime's own arithmetic by itself, over many more rings than the decoder allows in the time."""
    frames, depth = data.draw(st.sampled_from([1, 7, 26])), data.draw(st.integers(1, 8))
    known, engine = [made_up(i, frames, 1 + i) for i in range(5)], StandIn(reuse=True)
    engine.limits = type(engine.limits)(rows, 4096, 1024)
    one = data.draw(requests(known))
    others = data.draw(st.lists(requests(known), min_size=3, max_size=12))
    at = data.draw(st.integers(0, len(others)))
    alone, among = same(engine, one, others, at, depth=depth, spread=spread)
    assert torch.equal(alone, among)


def test_a_slot_forgets_who_sat_there_before():
    """A long, loud, guided request leaves nothing behind: no token, no momentum, no frame."""
    before = Request(made_up(1, 7, 60), Sampling(4, seed=1), Guidance(15.0), noise=1e3 * drawn(1, 7, 64))
    after = Request(made_up(5, 7, 2), Sampling(4, seed=2), Guidance(3.0))
    alone, second = same(StandIn(), after, [before], 1, depth=1)
    assert torch.equal(alone, second)


def test_a_broken_neighbour_stays_alone():
    """A request whose state overflows to infinity and NaN does not touch the slot beside it."""
    huge = Request(made_up(1, 7), Sampling(4, seed=1), Guidance(100.0), noise=torch.full((7, 64), 3e38))
    one = Request(made_up(5, 7), Sampling(4, seed=2), Guidance(3.0))
    alone, among = same(StandIn(), one, [huge, huge_again(huge)], 1, depth=4, spread=False)
    assert torch.equal(alone, among) and among.isfinite().all()


def huge_again(request):
    return Request(request.condition, request.sampling, request.guidance, noise=-request.noise)
