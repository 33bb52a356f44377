"""Depth and length change while music plays: every request finishes once, with the same bits, or is counted."""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ostinato.engine_runtime.config import Guidance, Sampling, StreamConfig
from ostinato.engine_runtime.controls.knobs import Knobs
from ostinato.engine_runtime.device.lane import Lane
from ostinato.engine_runtime.engines.contract import Limits
from ostinato.engine_runtime.errors import InputError
from ostinato.engine_runtime.stream.request import Request

from ...fuzz import examples
from ...helpers import StandIn, apart, made_up, play
from ...live import everything, rows

KNOBS = Knobs(ode_noise=0.3, sde=0.6, target_strength=0.2, dcw=True, momentum=-0.5)


def session_of(**config):
    engine = StandIn(Limits(16, 4096, 1024))
    return apart("resize", engine, StreamConfig(queue=64, **config), Lane(engine.device), KNOBS)


@cache
def with_everything(i):
    return everything(i, 7, ("full", "self", "initialize")[i % 3], steps=4 + i % 3, solver=("ode", "sde")[i % 2])


@cache
def guided(i, frames=7, steps=None):
    return Request(made_up(i, frames), Sampling(steps or 4 + i % 3, seed=i), Guidance(3.0))


def asked(count):
    """All controls on every other one; the steps differ."""
    return [with_everything(i) if i % 2 else guided(i) for i in range(count)]


@cache
def undisturbed(request):
    return play(StandIn(), [request], KNOBS, depth=1)[0]


def run(session, requests, depths):
    """Submit all, set depths before the ticks of those numbers; latents by request, and the rows of each tick."""
    out, ticks, active = [], 0, []
    for one in requests:
        session.submit(one)
    while not session.idle:
        if ticks in depths:
            session.configure(depth=depths[ticks])
        before = session.steps_done
        out += session.step()
        active.append(session.steps_done - before)
        ticks += 1
    return out, active


def complete(session, requests, out):
    """Each finished once, unharmed, or is in the drop count."""
    stats = session.stats()
    assert max(Counter(id(f.request) for f in out).values(), default=1) == 1
    assert (stats.finished, stats.finished + stats.dropped) == (len(out), len(requests))
    for f in out:
        assert torch.equal(f.take(), undisturbed(f.request))


@pytest.mark.parametrize("spread", [True, False])
def test_four_to_eight_to_two(spread):
    requests = asked(24)
    session = session_of(depth=4, spread=spread, **rows(requests))
    out, active = run(session, requests, {5: 8, 11: 2})
    complete(session, requests, out)
    assert session.stats().dropped == 0 and session.stats().depth == 2
    assert max(active[:5]) <= 4 < max(active) <= 8 and max(active[20:]) == 2


def test_growth_admits_at_once_and_a_smaller_ring_waits():
    requests = [Request(made_up(i, 7), Sampling(6, seed=i)) for i in range(20)]
    session = session_of(depth=4, spread=False)
    out, active = run(session, requests, {2: 8, 4: 2})
    # Four of six steps, then eight; the first four are out behind the sixth tick, the other four behind the eighth,
    # and only then do two by two follow.
    assert active == [4, 4, 8, 8, 8, 8, 4, 4, *[2] * 36]
    complete(session, requests, out)


CHANGES = st.dictionaries(st.integers(0, 30), st.integers(1, 8), max_size=6)


@settings(max_examples=examples(40))
@given(CHANGES, st.integers(1, 8), st.integers(1, 12), st.booleans(), st.integers(0, 9))
def test_any_changes(depths, depth, count, spread, close_at):
    requests = asked(count)
    session = session_of(depth=depth, spread=spread, **rows(requests))
    if close_at:
        out, _ = run(session, requests, depths)
        assert session.stats().dropped == 0
    else:  # closed in the middle
        out = []
        for one in requests:
            session.submit(one)
        for tick in range(5):
            if tick in depths:
                session.configure(depth=depths[tick])
            out += session.step()
        session.close()
    complete(session, requests, out)


@settings(max_examples=examples(40))
@given(
    st.lists(st.tuples(st.sampled_from([4, 7, 8]), st.integers(1, 5), st.integers(0, 3)), min_size=1, max_size=10),
    st.integers(1, 8),
    st.sampled_from(["finish", "drop"]),
    CHANGES,
)
def test_lengths_change(shapes, depth, change, depths):
    """Of (frames, steps, ticks until the next is submitted)."""
    session, requests, out = session_of(depth=depth, length_change=change, guidance="full"), [], []
    for frames, steps, wait in shapes:
        requests.append(guided(len(requests), frames, steps))
        session.submit(requests[-1])
        if len(requests) in depths:
            session.configure(depth=depths[len(requests)])
        for _ in range(wait):
            out += session.step()
    out += session.play([])
    complete(session, requests, out)
    assert change == "drop" or session.stats().dropped == 0


def lengths(change):
    """Three of 6 steps, two ticks, and one of another length: what finished, in order, and the drops."""
    session = session_of(depth=4, length_change=change, spread=False)
    old, new = ([Request(made_up(i, frames), Sampling(6, seed=i)) for i in range(n)] for frames, n in ((7, 3), (9, 1)))
    for one in old:
        session.submit(one)
    out = [*session.step(), *session.step()]
    session.submit(new[0])
    out += session.play([])
    complete(session, [*old, *new], out)
    names = {id(one): name for one, name in zip([*old, *new], "abcx", strict=True)}
    return "".join(names[id(f.request)] for f in out), session.stats().dropped, session.stats().ticks


def test_another_length_waits():
    assert lengths("finish") == ("abcx", 0, 12)


def test_another_length_drops_what_is_in_flight():
    assert lengths("drop") == ("x", 3, 8)


def test_a_new_depth_stays_when_the_length_changes():
    session = session_of(depth=2)
    session.submit(Request(made_up(0, 7), Sampling(2)))
    session.step()
    session.configure(depth=4)
    session.submit(Request(made_up(1, 9), Sampling(2)))
    assert len(list(session.play([]))) == 2
    assert (session.stats().depth, session.stats().frames, len(session.stage.ring.slots)) == (4, 9, 4)


@pytest.mark.parametrize(("depth", "width"), [(0, 16), (9, 16), (2.5, 16), (4, 3)])
def test_a_refused_depth_changes_nothing(depth, width):
    """Neither a wrong one nor one that the engine has no rows for."""
    requests = asked(5)
    session = session_of(depth=3, **rows(requests))
    session.engine.limits = Limits(width, 4096, 1024)
    for one in requests:
        session.submit(one)
    out = session.step()
    with pytest.raises(InputError):
        session.configure(depth=depth)
    out += session.play([])
    complete(session, requests, out)
    assert session.stats().depth == 3 and session.stats().dropped == 0
