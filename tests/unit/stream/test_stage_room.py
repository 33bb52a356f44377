"""Who has a place in a shared ring: shares, rows and depths, and what has no room."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from ostinato.engine_runtime.config import Guidance, Sampling, StreamConfig
from ostinato.engine_runtime.controls.automation import Track
from ostinato.engine_runtime.engines.contract import Limits
from ostinato.engine_runtime.errors import EngineLimitError, InputError, MemoryShortage, SessionError
from ostinato.engine_runtime.lora.stack import stack
from ostinato.engine_runtime.models.engines import eager_engine
from ostinato.engine_runtime.stream.request import Part, Request
from ostinato.engine_runtime.stream.sessions import runtime

from ...helpers import Fragile, StandIn, made_up
from .stages import CONFIG, FRAMES, joined, play, requests_of, same


def test_every_session_has_its_share() -> None:
    """Slots are a session's own: however much one asks, each advances one step of each of its slots a tick."""
    stage = runtime().share(StandIn(), CONFIG, FRAMES)
    greedy, modest = joined(stage, 3), joined(stage, 1)
    for i in range(32):
        greedy.submit(Request(made_up(i, FRAMES), Sampling(4, seed=i)))
    for i in range(8):
        modest.submit(Request(made_up(i, FRAMES), Sampling(4, seed=i)))
    for _ in range(20):
        stage.step()
    assert (greedy.stats().finished, modest.stats().finished) == (15, 5)
    assert (greedy.steps_done, modest.steps_done) == (60, 20)
    for session in (greedy, modest):
        runtime().close(session.name)


def test_what_the_shared_ring_has_no_room_for_is_refused() -> None:
    stage = runtime().share(StandIn(), StreamConfig(guidance="initialize", tokens=8), FRAMES)
    session = joined(stage, 2)
    refused = [
        Request(made_up(1, FRAMES + 1), Sampling(2)),
        Request(made_up(1, FRAMES, 9), Sampling(2)),
        Request((Part(made_up(1, FRAMES)), Part(made_up(2, FRAMES))), Sampling(2)),
        Request(made_up(1, FRAMES), Sampling(2), Guidance(3.0)),
    ]
    for request in refused:
        with pytest.raises(InputError, match="that sessions share"):
            session.submit(request)
    with pytest.raises(InputError):
        session.set(velocity_scale=torch.ones(FRAMES + 1))
    with pytest.raises(SessionError, match="step its stage"):
        session.step()
    with pytest.raises(EngineLimitError):
        joined(stage, 8), joined(stage, 7)
    with pytest.raises(EngineLimitError):  # beside 8 of another
        session.configure(depth=8), joined(stage, 1)
    assert session.idle and session.stats().dropped == 0
    for one in stage.members:
        runtime().close(one.name)


def test_a_stage_of_its_own_takes_no_second_session() -> None:
    with runtime().playing("one", StandIn(), CONFIG) as session, pytest.raises(SessionError, match="belongs to one"):
        joined(session.stage)


def test_adapters_are_refused_where_rows_are_shared(base, tmp_path) -> None:
    engine = eager_engine(base)
    stage = runtime().share(engine, CONFIG, FRAMES)
    session = joined(stage)
    factors = stack([], engine.targets, engine.dtype, engine.device, stage.lane)
    with pytest.raises(InputError, match="session of its own"):
        session.adapt(factors)
    runtime().close(session.name)


def test_more_slots_than_one_session_may_have() -> None:
    stage = runtime().share(StandIn(Limits(64, 100, 100)), CONFIG, FRAMES)
    sessions = [joined(stage, 2) for _ in range(8)]
    given = [[Request(made_up(i, FRAMES), Sampling(3, seed=i))] for i in range(8)]
    latents = play(stage, sessions, given)
    assert len(stage.ring.slots) == 16 and all(row[0].isfinite().all() for row in latents)
    for session in sessions:
        runtime().close(session.name)


def test_a_knob_that_needs_more_rows_than_are_shared(engine) -> None:
    """It is refused while a request waits that it would act on; what waits without rows plays without, and alone."""
    stage = runtime().share(engine, replace(CONFIG, guidance="off"), FRAMES)
    first, second = (joined(stage, 2) for _ in range(2))
    mine = [Request(made_up(i, FRAMES, width=engine.width), Sampling(4, seed=i)) for i in range(4)]
    (alone,) = play(stage, [first], [mine])
    again = [replace(request) for request in mine]
    for request in again:
        first.submit(request)
    done = {}
    for tick in itertools.count():
        if tick == 1:
            second.submit(Request(made_up(9, FRAMES, width=engine.width), Sampling(3), Guidance(1.0, mode="full")))
            with pytest.raises(InputError, match="negative rows"):
                second.set(guidance_scale=3.0)
        done |= {id(f.request): f.take() for f in stage.step()}
        if first.idle and second.idle:
            break
    assert same([done[id(request)] for request in again], alone)
    for session in (first, second):
        runtime().close(session.name)


def test_a_newcomer_that_does_not_fit_is_turned_away_alone() -> None:
    """Its join fails one step, and what plays goes on."""
    engine, mine = Fragile(most=6), requests_of(0, 4)
    stage = runtime().share(engine, CONFIG, FRAMES)
    first = joined(stage, 2)
    (want,) = play(stage, [first], [mine])
    again, done = [replace(request) for request in mine], {}
    for request in again:
        first.submit(request)
    done |= {id(f.request): f.take() for f in stage.step()}
    second = joined(stage, 1)
    with pytest.raises(MemoryShortage):
        stage.step()
    assert second.closed and [member.name for member in stage.members] == [first.name]
    while not first.idle:
        done |= {id(f.request): f.take() for f in stage.step()}
    assert same([done[id(request)] for request in again], want) and first.stats().dropped == 0
    for session in (first, second):
        runtime().close(session.name)


def test_a_depth_that_found_no_room_is_left_to_others() -> None:
    engine = Fragile(Limits(8, 100, 100), most=6)
    stage = runtime().share(engine, CONFIG, FRAMES)
    first = joined(stage, 2)
    first.submit(requests_of(0, 1)[0])
    stage.step()
    first.configure(depth=8)
    with pytest.raises(MemoryShortage):
        stage.step()
    engine.most = 24
    second = joined(stage, 6)
    stage.step()
    assert (first.config.depth, second.config.depth, len(stage.ring.slots)) == (2, 6, 8)
    for session in (first, second):
        runtime().close(session.name)


def test_a_shared_ring_that_cannot_be_built_drops_its_request() -> None:
    stage = runtime().share(Fragile(most=0), CONFIG, FRAMES)
    session = joined(stage, 2)
    session.submit(requests_of(0, 1)[0])
    with pytest.raises(MemoryShortage):
        stage.step()
    assert session.stats().dropped == 1 and session.idle and stage.step() == []
    runtime().close(session.name)


def test_a_track_gets_the_depth_that_others_leave(caplog) -> None:
    stage = runtime().share(StandIn(Limits(8, 100, 100)), replace(CONFIG, guidance="off"), FRAMES)
    first = joined(stage, 2)
    first.automate([Track("depth", (2.0, 4.0, 4.0), start=2)])
    second = joined(stage, 5)
    for session in (first, second):
        session.submit(Request(made_up(1, FRAMES), Sampling(6)))
    done = [f.session for _ in range(8) for f in stage.step()]
    assert sorted(done) == sorted([first.name, second.name]) and first.config.depth == 3
    assert "other sessions leave 3" in caplog.text
    for session in (first, second):
        runtime().close(session.name)
