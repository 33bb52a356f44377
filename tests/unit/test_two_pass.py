"""What a tick executes, writes and keeps: fused and two-pass guidance, resident rows, no readback."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from ostinato.engine_runtime.config import NO_GUIDANCE, Guidance, Sampling, StreamConfig
from ostinato.engine_runtime.engines import Limits, Rows
from ostinato.engine_runtime.lane import Lane
from ostinato.engine_runtime.models.loading import eager_engine
from ostinato.engine_runtime.request import Request
from ostinato.engine_runtime.session import Session
from ostinato.engine_runtime.tick import Tick
from torch.utils._python_dispatch import TorchDispatchMode

from ..helpers import StandIn, drawn, made_up, play

GUIDED = Guidance(7.0)
LATE = Guidance(7.0, start=0.4)  # of 4 even steps the third and fourth, at 1 - t = 0.5 and 0.75
FRAMES = [6, 7]  # odd ones run on a padded buffer


def two_pass(depth, **more):
    """An engine that takes the positive rows of `depth` slots and no more."""
    return StandIn(limits=Limits(depth, 4096, 1024), **more)


def batch(frames, guidances, steps=4, shift=1.0):
    return [Request(made_up(9 * i, frames), Sampling(steps, shift, seed=i), g) for i, g in enumerate(guidances)]


def session_of(engine, **config):
    return Session("test", engine, StreamConfig(**config), Lane(engine.device))


@pytest.mark.parametrize("frames", FRAMES)
def test_fused_and_two_passes_agree(base, conditions, frames):
    made = [Request(c, Sampling(4, seed=i), GUIDED) for i, c in enumerate(conditions(base, frames, 3))]
    one = play(eager_engine(base, max_rows=8), made, depth=4, guided=True, spread=False)
    two = play(eager_engine(base, max_rows=4), made, depth=4, guided=True, spread=False)
    for a, b in zip(one, two, strict=True):
        assert (a - b).abs().max() <= 1e-6 * max(1.0, a.abs().max())


@pytest.mark.parametrize("frames", FRAMES)
@pytest.mark.parametrize("engine", [StandIn, lambda **kw: two_pass(3, **kw)], ids=["fused", "two-pass"])
def test_guidance_through_one_output_buffer(engine, frames):
    made = batch(frames, [GUIDED, LATE, NO_GUIDANCE])
    clean = play(engine(), made, depth=3, guided=True, spread=False)
    reused = play(engine(reuse=True), made, depth=3, guided=True, spread=False)
    plain = play(engine(), batch(frames, [NO_GUIDANCE] * 3), depth=3, spread=False)
    for a, b in zip(clean, reused, strict=True):
        assert a.isfinite().all() and torch.equal(a, b)
    assert [not torch.allclose(a, b, atol=1e-2) for a, b in zip(clean, plain, strict=True)] == [True, True, False]


def keeps_the_engines_output(tick, x, t, guided):
    """`Tick._decode` by someone who takes `.float()` for a copy: of a float32 output it is a view."""
    tick._gather(tick.positive, x, t)
    plus = tick.engine(tick.positive)[:, : tick.frames].float()
    tick._gather(tick.negative, x, t)
    tick.velocity[tick.depth :].copy_(tick.engine(tick.negative)[:, : tick.frames])
    return plus


@pytest.mark.parametrize("frames", FRAMES)
def test_a_naive_tick_is_found_out(monkeypatch, frames):
    made = batch(frames, [GUIDED] * 3)
    clean = play(two_pass(3), made, depth=3, guided=True, spread=False)
    monkeypatch.setattr(Tick, "_decode", keeps_the_engines_output)
    harmless = play(two_pass(3), made, depth=3, guided=True, spread=False)
    naive = play(two_pass(3, reuse=True), made, depth=3, guided=True, spread=False)
    for a, b, c in zip(clean, harmless, naive, strict=True):
        assert torch.equal(a, b), "the naive tick is right where nothing is overwritten"
        assert not torch.allclose(a, c, atol=1e-2)


@pytest.mark.parametrize(
    ("engine", "guidances", "calls"),
    [
        (StandIn(), [GUIDED, NO_GUIDANCE], [[4]] * 4),
        (StandIn(), [NO_GUIDANCE, NO_GUIDANCE], [[4]] * 4),  # the batch stays, whoever sits in it
        (two_pass(2), [GUIDED, NO_GUIDANCE], [[2, 2]] * 4),
        (two_pass(2), [LATE, NO_GUIDANCE], [[2], [2], [2, 2], [2, 2]]),
        (two_pass(2), [NO_GUIDANCE, NO_GUIDANCE], [[2]] * 4),
    ],
)
def test_executes_per_tick(engine, guidances, calls):
    session, seen = session_of(engine, depth=2, guided=True, spread=False), []
    for request in batch(6, guidances):
        session.submit(request)
    while not session.idle:
        engine.calls.clear()
        session.step()
        seen.append(list(engine.calls))
    assert seen == calls


def test_an_unguided_ring_has_no_negative_rows():
    engine = StandIn()
    play(engine, batch(6, [NO_GUIDANCE] * 2), depth=2, spread=False)
    assert engine.calls == [2] * 4


def buffers(tick):
    rows = {f"rows.{k}": v for k, v in vars(tick.rows).items() if isinstance(v, torch.Tensor)}
    return {**rows, **{k: getattr(tick, k) for k in ("x", "average", "velocity", "table")}}


CONDITION = ["rows.encoder_hidden_states", "rows.encoder_attention_mask", "rows.context_latents"]


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("rows", [16, 2], ids=["wide", "narrow"])
def test_conditions_are_written_once_and_nothing_moves(monkeypatch, guided, rows):
    """The buffers keep their place over every tick, and the conditions' versions stand still but at admissions."""
    written = Counter()
    real = Rows.write
    monkeypatch.setattr(Rows, "write", lambda *a: (written.update(writes=1), real(*a))[1])
    session = session_of(StandIn(limits=Limits(rows, 99, 99)), depth=2, guided=guided, tokens=5)
    made = batch(7, [GUIDED if guided else NO_GUIDANCE] * 5)
    for request in made:
        session.submit(request)
    places, states, admissions, ticks = [], [], [], 0
    while not session.idle:
        before = written["writes"]
        session.step()
        ticks += 1
        admissions.append(written["writes"] > before)
        now = buffers(session._tick)
        places.append({k: v.data_ptr() for k, v in now.items()})
        states.append([now[k]._version for k in CONDITION])
    assert all(place == places[0] for place in places)
    moved = [True, *(a != b for a, b in zip(states, states[1:], strict=False))]
    assert moved == admissions and 5 <= ticks - sum(admissions)
    assert written["writes"] == len(made) * (2 if guided else 1)


READBACKS = ["item", "tolist", "cpu", "numpy", "nonzero", "is_nonzero", "__bool__", "__float__", "__int__", "__index__"]
JOINS = {"_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero"}


class NoJoin(TorchDispatchMode):
    """Refuses what brings a value to the host, also where Python's names for it are not used."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket.__name__ not in JOINS, f"the tick waits for {func}"
        return func(*args, **(kwargs or {}))


@pytest.fixture
def guarded(monkeypatch):
    """Ticks that fail where they read a tensor."""
    real = Tick.run

    def refuse(name):
        def read(*_, **__):
            raise AssertionError(f"the tick calls {name}")

        return read

    def run(tick, plan):
        with monkeypatch.context() as patch, NoJoin():
            for name in READBACKS:
                patch.setattr(torch.Tensor, name, refuse(name))
            patch.setattr(torch.cuda, "synchronize", refuse("synchronize"))
            real(tick, plan)

    monkeypatch.setattr(Tick, "run", run)


@pytest.mark.parametrize("engine", [StandIn, lambda: two_pass(3)], ids=["fused", "two-pass"])
def test_a_tick_reads_nothing_back(guarded, engine):
    made = batch(7, [GUIDED, LATE, NO_GUIDANCE, GUIDED])
    assert all(latent.isfinite().all() for latent in play(engine(), made, depth=3, guided=True))


@pytest.mark.parametrize("read", [lambda t: t.item(), bool, float, lambda t: t.tolist(), lambda t: t.view(1)[t > -1]])
def test_the_guard_sees_a_readback(guarded, monkeypatch, read):
    real = Tick._decode
    monkeypatch.setattr(Tick, "_decode", lambda tick, x, t, guided: (read(t.sum()), real(tick, x, t, guided))[1])
    with pytest.raises(AssertionError, match="the tick"):
        play(StandIn(), batch(7, [NO_GUIDANCE]), depth=3)


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
