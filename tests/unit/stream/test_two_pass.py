"""What a tick executes, writes and keeps: fused and two-pass guidance, resident rows."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from ostinato.engine_runtime.config import NO_GUIDANCE, Guidance, Sampling, StreamConfig
from ostinato.engine_runtime.device.lane import Lane
from ostinato.engine_runtime.engines.contract import Limits, Rows
from ostinato.engine_runtime.models.engines import eager_engine
from ostinato.engine_runtime.stream.request import Part, Request
from ostinato.engine_runtime.stream.tick import Tick

from ...helpers import StandIn, apart, drawn, made_up, play

GUIDED = Guidance(7.0)
INITIALIZE, SELF = Guidance(7.0, mode="initialize"), Guidance(7.0, mode="self")
EVERY = Guidance(7.0, every=2)
LATE = Guidance(7.0, start=0.4)  # of 4 even steps the third and fourth, at 1 - t = 0.5 and 0.75
FRAMES = [6, 7]  # odd ones run on a padded buffer


def two_pass(depth, **more):
    """An engine that takes the positive rows of `depth` slots and no more."""
    return StandIn(limits=Limits(depth, 4096, 1024), **more)


def batch(frames, guidances, steps=4, shift=1.0):
    return [Request(made_up(9 * i, frames), Sampling(steps, shift, seed=i), g) for i, g in enumerate(guidances)]


def session_of(engine, **config):
    return apart("test", engine, StreamConfig(**config), Lane(engine.device))


@pytest.mark.parametrize("frames", FRAMES)
def test_fused_and_two_passes_agree(base, conditions, frames):
    made = [Request(c, Sampling(4, seed=i), GUIDED) for i, c in enumerate(conditions(base, frames, 3))]
    one = play(eager_engine(base, max_rows=8), made, depth=4, guidance="full", spread=False)
    two = play(eager_engine(base, max_rows=4), made, depth=4, guidance="full", spread=False)
    for a, b in zip(one, two, strict=True):
        assert (a - b).abs().max() <= 1e-6 * max(1.0, a.abs().max())


@pytest.mark.parametrize("frames", FRAMES)
@pytest.mark.parametrize("engine", [StandIn, lambda **kw: two_pass(4, **kw)], ids=["fused", "two-pass"])
def test_guidance_through_one_output_buffer(engine, frames):
    made = batch(frames, [GUIDED, LATE, NO_GUIDANCE, EVERY])
    clean = play(engine(), made, depth=4, guidance="full", spread=False)
    reused = play(engine(reuse=True), made, depth=4, guidance="full", spread=False)
    plain = play(engine(), batch(frames, [NO_GUIDANCE] * 4), depth=4, spread=False)
    for a, b in zip(clean, reused, strict=True):
        assert a.isfinite().all() and torch.equal(a, b)
    differs = [not torch.allclose(a, b, atol=1e-2) for a, b in zip(clean, plain, strict=True)]
    assert differs == [True, True, False, True]


@pytest.mark.parametrize("ring", ["initialize", "full"])
def test_guidance_that_is_held_reads_no_negative(ring):
    """A stand-in poisons its one buffer and every row that is not active."""
    made = batch(7, [EVERY, INITIALIZE, Guidance(7.0, every=3, start=0.4)])
    clean = play(StandIn(), made, depth=3, guidance=ring, spread=False)
    reused = play(StandIn(reuse=True), made, depth=3, guidance=ring, spread=False)
    full = play(StandIn(), batch(7, [GUIDED] * 3), depth=3, guidance="full", spread=False)
    for a, b, c in zip(clean, reused, full, strict=True):
        assert a.isfinite().all() and torch.equal(a, b)
        assert not torch.allclose(a, c, atol=1e-2)


def keeps_the_engines_output(tick, x, features):
    """`Tick._decode` by someone who takes `.float()` for a copy: of a float32 output it is a view."""
    positive, negative = (tick.rows.part(i * tick.depth, (i + 1) * tick.depth) for i in range(2))
    for rows in (positive, negative):
        rows.hidden_states[:, : tick.frames].copy_(x)
        rows.timestep.copy_(tick.scalars.t.flatten())
    plus = tick.engine(positive)[:, : tick.frames].float()
    tick.velocity[1].copy_(tick.engine(negative)[:, : tick.frames])
    return plus


@pytest.mark.parametrize("frames", FRAMES)
def test_a_naive_tick_is_found_out(monkeypatch, frames):
    made = batch(frames, [GUIDED] * 3)
    clean = play(two_pass(3), made, depth=3, guidance="full", spread=False)
    monkeypatch.setattr(Tick, "_decode", keeps_the_engines_output)
    harmless = play(two_pass(3), made, depth=3, guidance="full", spread=False)
    naive = play(two_pass(3, reuse=True), made, depth=3, guidance="full", spread=False)
    for a, b, c in zip(clean, harmless, naive, strict=True):
        assert torch.equal(a, b), "the naive tick is right where nothing is overwritten"
        assert not torch.allclose(a, c, atol=1e-2)


@pytest.mark.parametrize(
    ("engine", "ring", "guidances", "calls"),
    [
        (StandIn(), "full", [GUIDED, NO_GUIDANCE], [[4]] * 4),
        (StandIn(), "full", [NO_GUIDANCE, NO_GUIDANCE], [[4]] * 4),  # the batch stays, whoever sits in it
        (StandIn(), "full", [INITIALIZE, SELF], [[4]] * 4),
        (two_pass(2), "full", [GUIDED, NO_GUIDANCE], [[2, 2]] * 4),
        (two_pass(2), "full", [LATE, NO_GUIDANCE], [[2], [2], [2, 2], [2, 2]]),
        (two_pass(2), "full", [INITIALIZE, SELF], [[2, 2], [2], [2], [2]]),
        (two_pass(2), "full", [NO_GUIDANCE, NO_GUIDANCE], [[2]] * 4),
        (StandIn(), "initialize", [INITIALIZE, INITIALIZE], [[2, 1, 1], [2], [2], [2]]),
        (StandIn(), "initialize", [EVERY, EVERY], [[2, 1, 1], [2], [2, 1, 1], [2]]),
        (StandIn(), "full", [EVERY, EVERY], [[4]] * 4),
        (two_pass(2), "full", [EVERY, NO_GUIDANCE], [[2, 2], [2], [2, 2], [2]]),
        (StandIn(), "initialize", [SELF, NO_GUIDANCE], [[2]] * 4),
        (StandIn(), "off", [SELF, NO_GUIDANCE], [[2]] * 4),
    ],
)
def test_executes_per_tick(engine, ring, guidances, calls):
    session, seen = session_of(engine, depth=2, guidance=ring, spread=False), []
    for request in batch(6, guidances):
        session.submit(request)
    while not session.idle:
        engine.calls.clear()
        session.step()
        seen.append(list(engine.calls))
    assert seen == calls


def test_conditions_that_hold_are_executed():
    """Two blocks of one ring, which are one pass where they fit and two, of which the second may rest, where not."""
    parts = (Part(made_up(1, 6)), Part(made_up(2, 6), start=0.5))
    for engine, calls in ((StandIn(), [4] * 4), (two_pass(2), [2, 2, 2, 2, 2, 2])):
        play(engine, [Request(parts, Sampling(4))], depth=2, conditions=2, spread=False)
        assert engine.calls == calls


def test_an_unguided_ring_has_no_negative_rows():
    engine = StandIn()
    play(engine, batch(6, [NO_GUIDANCE] * 2), depth=2, spread=False)
    assert engine.calls == [2] * 4


def buffers(tick):
    rows = {f"rows.{k}": v for k, v in vars(tick.rows).items() if isinstance(v, torch.Tensor)}
    return {**rows, **tick.buffers.tensors, "x": tick.x, "velocity": tick.velocity, "table": tick.table}


CONDITION = ["rows.encoder_hidden_states", "rows.encoder_attention_mask", "rows.context_latents"]


@pytest.mark.parametrize("guided", ["off", "full"])
@pytest.mark.parametrize("rows", [16, 2], ids=["wide", "narrow"])
def test_conditions_are_written_once_and_nothing_moves(monkeypatch, guided, rows):
    """The buffers keep their place over every tick, and the conditions' versions stand still but at admissions."""
    written = Counter()
    real = Rows.write
    monkeypatch.setattr(Rows, "write", lambda *a: (written.update(writes=1), real(*a))[1])
    session = session_of(StandIn(limits=Limits(rows, 99, 99)), depth=2, guidance=guided, tokens=5)
    made = batch(7, [GUIDED if guided == "full" else NO_GUIDANCE] * 5)
    for request in made:
        session.submit(request)
    places, states, admissions, ticks = [], [], [], 0
    while not session.idle:
        before = written["writes"]
        session.step()
        ticks += 1
        admissions.append(written["writes"] > before)
        now = buffers(session.stage.tick)
        places.append({k: v.data_ptr() for k, v in now.items()})
        states.append([now[k]._version for k in CONDITION])
    assert all(place == places[0] for place in places)
    moved = [True, *(a != b for a, b in zip(states, states[1:], strict=False))]
    assert moved == admissions and 5 <= ticks - sum(admissions)
    assert written["writes"] == len(made) * (2 if guided == "full" else 1)


def test_the_state_is_float32_and_copied_out():
    """A finished latent does not change while its slot plays on."""
    session = session_of(StandIn(), depth=1, spread=False)
    for request in batch(6, [NO_GUIDANCE] * 2, steps=2):
        session.submit(request)
    first = [f for _ in range(2) for f in session.step()][0].take()
    kept = first.clone()
    session.step()
    assert first.dtype == torch.float32 and torch.equal(first, kept)
    assert torch.equal(first, play(StandIn(), batch(6, [NO_GUIDANCE], steps=2), depth=1)[0])
    assert not torch.equal(first, drawn(0, 6, 64))
