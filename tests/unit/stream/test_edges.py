"""Sessions and stages at their edges: before the first step, without work, and where one of several changes."""

from __future__ import annotations

import pytest
import torch
from ostinato.engine_runtime.config import Guidance, Sampling, StreamConfig
from ostinato.engine_runtime.device.lane import Lane
from ostinato.engine_runtime.engines.contract import Limits
from ostinato.engine_runtime.errors import EngineLimitError, InputError, SessionError
from ostinato.engine_runtime.registry import registry
from ostinato.engine_runtime.stream.fit import SharedSize, fits
from ostinato.engine_runtime.stream.prepared import Prepared
from ostinato.engine_runtime.stream.request import Request, check_span
from ostinato.engine_runtime.stream.sessions import Runtime, runtime
from ostinato.engine_runtime.stream.slot_plan import noise_seed
from ostinato.engine_runtime.stream.stage import Stage

from ...helpers import StandIn, apart, drawn, made_up

CPU, T = torch.device("cpu"), 6


def opened(engine=None, **config):
    return apart("edges", engine or StandIn(), StreamConfig(**config), Lane(CPU))


def asked(steps, frames=T, seed=0):
    return Request(made_up(seed, frames), Sampling(steps, seed=seed))


@pytest.fixture
def shared():
    """`shared(depth, ...)`: sessions of these depths that share a ring."""
    with registry.fresh(Runtime):
        stage = runtime().share(StandIn(), StreamConfig(tokens=8), T)
        yield lambda *depths: [runtime().join(f"of {depth}, {n}", stage, depth) for n, depth in enumerate(depths)]


def test_figures_say_what_each_slot_does_and_nothing_of_a_ring_that_is_not_there():
    session = opened(depth=2)
    assert session.stats().frames == 0 and session.stats().latents_per_s == 0.0
    session.submit(asked(5))
    session.step()
    assert (session.stats().frames, session.stats().slots) == (T, ((1, 5), (0, 0)))
    session.clear()
    assert session.stats().frames == 0, "a session alone gives the ring's memory back"


def test_a_session_without_work_decodes_nothing():
    session = opened(depth=1)
    session.submit(asked(2))
    for _ in range(5):
        session.step()
    assert session.stats().ticks == len(session.engine.calls) == session.steps_done == 2 and session.ticks == 5
    assert session.stats().finished == 1


def test_an_engine_of_one_row_plays():
    session = opened(StandIn(Limits(1, T, 64)), depth=1)
    session.submit(asked(2))
    assert len([*session.step(), *session.step()]) == 1


def test_what_the_engine_has_no_frames_for_is_refused_when_it_is_submitted():
    session = opened(StandIn(Limits(1, T, 64)), depth=1)
    with pytest.raises(EngineLimitError):
        session.submit(asked(2, T + 1))
    assert session.idle


def test_a_session_says_which_rows_its_requests_needed():
    session = opened(depth=1)
    session.submit(Request(made_up(0, T), Sampling(2), Guidance(3.0)))
    assert session.config.guidance == "off"
    session.step()
    assert session.config.guidance == "full"


def test_a_replay_with_a_curve_of_another_length_is_refused_by_the_step():
    session = opened(depth=1)
    session.set(sde=torch.ones(T + 2))
    session.submit_unchecked(asked(2))
    with pytest.raises(InputError, match=f"the curve of sde has {T + 2} frames"):
        session.step()


def test_initial_noise_is_the_share_of_noise_beside_the_source():
    source, session = drawn(3, T, 64), opened()
    for share in (0.25, torch.linspace(0, 1, T)):
        request = Request(made_up(0, T), Sampling(2), source=source, initial_noise=share)
        made = Prepared.prepare(request, session.engine, session.lane)
        part = share if isinstance(share, float) else share[:, None]
        torch.testing.assert_close(made.latent, part * made.noise + (1 - part) * source)


def test_the_oldest_request_goes_first_though_a_newer_one_would_not_fit():
    session = opened(depth=2, spread=False)
    session.submit(asked(8))
    session.step()
    for request in (asked(8, seed=1), asked(8, T + 2, seed=2)):
        session.submit(request)
    session.step()
    assert [request.frames for request in session.queued] == [T + 2]


def test_a_smaller_ring_spreads_from_the_next_request_on():
    session = opened(depth=3, spread=True)
    session.submit(asked(6))
    session.step()
    session.configure(depth=2)
    session.submit(asked(6, seed=1))
    waits = []
    for _ in range(4):
        session.step()
        waits.append(len(session.queued))
    assert waits == [1, 1, 0, 0], "two of six steps: one enters every three ticks"


def test_who_joins_a_ring_hurries_nobody(shared):
    (first,) = shared(3)
    for seed in range(2):
        first.submit(asked(6, seed=seed))
    first.stage.step()
    runtime().join("late", first.stage, 2)
    first.stage.step()
    assert len(first.queued) == 1, "one of its requests enters every two ticks"


def test_a_ring_shrinks_when_every_member_fits(shared):
    first, second = shared(2, 2)
    for seed in range(2):
        first.submit(asked(4, seed=seed))
    for _ in range(3):
        first.stage.step()
    first.configure(depth=1)
    second.submit(asked(4))
    finished = [one.session for _ in range(8) for one in first.stage.step()]
    assert sorted(finished) == [first.name] * 2 + [second.name]
    assert (first.stats().dropped, second.stats().dropped, first.config.depth) == (0, 0, 1)


def test_the_engine_of_an_empty_stage_is_changed():
    stage, other = Stage(StandIn(), Lane(CPU), StreamConfig(), T), StandIn()
    stage.swap(other)
    stage.step()
    assert stage.engine is other


def test_an_id_that_nobody_has_is_told():
    with registry.fresh(Runtime):
        with pytest.raises(SessionError, match="there is no session 'me'; open are: none;"):
            runtime().session("me")
        with runtime().playing("you", StandIn(), StreamConfig()) as session:
            assert runtime().session("you") is session
            with pytest.raises(SessionError, match="open are: you;"):
                runtime().session("me")


def test_a_request_of_just_the_rings_sizes_fits():
    request, ring = asked(2), SharedSize(T, 5, 1, "off")
    assert request.tokens == 5 and fits(request, "off", ring)
    for smaller in (SharedSize(T, 4, 1, "off"), SharedSize(T + 1, 5, 1, "off"), SharedSize(T, 5, 0, "off")):
        assert not fits(request, "off", smaller)


@pytest.mark.parametrize("start, end, words", [(1.5, 1.8, "start is 1.5"), (-0.5, 1.0, "start is -0.5")])
def test_a_span_lies_in_the_run(start, end, words):
    with pytest.raises(InputError, match=words):
        check_span("the target", start, end)


def test_the_seed_of_fresh_noise_has_63_bits():
    assert noise_seed(5 * 10**12, 0) == 5 * 10**12 * 1_000_003 + 1 > 2**62
    assert noise_seed(10**13, 0) == 10**13 * 1_000_003 + 1 - 2**63
