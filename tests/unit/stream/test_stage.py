"""Sessions that share a ring: each plays as if the others were not there."""

from __future__ import annotations

import threading
from collections import Counter
from random import Random

import pytest
from ostinato.engine_runtime.config import Sampling
from ostinato.engine_runtime.controls.knobs import Knobs
from ostinato.engine_runtime.stream.request import Request
from ostinato.engine_runtime.stream.sessions import runtime

from ...helpers import Fragile, StandIn, made_up
from .stages import CONFIG, FRAMES, KNOBS, joined, play, requests_of, same


def test_each_plays_as_if_it_were_alone(engine) -> None:
    """With knobs of its own, every kind of correction among them, turned while all play."""
    given = [requests_of(who, 4, engine.width) for who in range(4)]
    turns = {2: ("velocity_scale", 0.8), 3: ("dcw", True), 5: ("dcw_wavelet", "coif1"), 7: ("guidance_scale", 3.0)}

    def run(members):
        stage = runtime().share(engine, CONFIG, FRAMES)
        sessions = [joined(stage, 2, Knobs(**KNOBS[who])) for who in members]

        def before(tick):
            if tick in turns and 1 in members:
                name, value = turns[tick]
                sessions[members.index(1)].set(**{name: value})

        try:
            return play(stage, sessions, [given[who] for who in members], before)
        finally:
            for session in sessions:
                runtime().close(session.name)

    together = run([0, 1, 2, 3])
    for who in range(4):
        assert same(run([who])[0], together[who]), f"session {who}"
    assert all(same(*pair) for pair in zip(run([3, 1]), (together[3], together[1]), strict=True))


def test_a_shared_ring_gives_what_a_ring_of_its_own_gives(engine) -> None:
    given, knobs = requests_of(1, width=engine.width), Knobs(**KNOBS[3])
    stage = runtime().share(engine, CONFIG, FRAMES)
    session = joined(stage, 2, knobs)
    (shared,) = play(stage, [session], [given])
    runtime().close(session.name)
    with runtime().playing("own", engine, CONFIG, knobs) as own:
        done = {id(f.request): f.take() for f in own.play(given)}
    assert same(shared, [done[id(request)] for request in given])


def test_coming_and_going_disturbs_nobody() -> None:
    """Sessions join, leave and change their depth while another plays; what they had is counted."""
    engine, mine = StandIn(), requests_of(0, 20)
    stage = runtime().share(engine, CONFIG, FRAMES)
    (alone,) = play(stage, [first := joined(stage, 2)], [mine])
    runtime().close(first.name)
    stage, others, random = runtime().share(engine, CONFIG, FRAMES), [], Random(3)
    session, submitted = joined(stage, 2), Counter()
    others.append(joined(stage, 1, Knobs(**KNOBS[2])))

    def before(tick):
        what = random.choice(["join", "leave", "depth", "submit", "submit", "turn"])
        if what == "join" and len(others) < 4:
            others.append(joined(stage, random.randint(1, 2), Knobs(**random.choice(KNOBS)), spread=True))
        elif what == "leave" and others:
            gone = others.pop(random.randrange(len(others)))
            runtime().close(gone.name)
            assert gone.stats().finished + gone.stats().dropped == submitted[gone]
        elif what == "depth" and others:
            random.choice(others).configure(depth=random.randint(1, 3))
        elif what == "submit" and others:
            other = random.choice(others)
            for request in requests_of(random.randint(1, 9), 3):
                other.submit(request)
                submitted[other] += 1
        elif what == "turn" and others:
            random.choice(others).set(velocity_scale=random.random(), dcw=random.random() < 0.5)

    (got,) = play(stage, [session], [mine], before)
    assert same(got, alone)
    for other in (*others, session):
        runtime().close(other.name)
    assert stage.tick is None and stage.members == ()


def test_a_step_that_fails_drops_everybodys_and_is_counted() -> None:
    engine = Fragile()
    stage = runtime().share(engine, CONFIG, FRAMES)
    sessions = [joined(stage, 2) for _ in range(2)]
    for who, session in enumerate(sessions):
        for request in requests_of(who, 3):
            session.submit(request)
    stage.step()
    engine.error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        stage.step()
    assert [session.stats().dropped for session in sessions] == [2, 2]
    done = [f for _ in range(8) for f in stage.step()]
    assert sorted(f.session for f in done) == sorted(session.name for session in sessions)
    for session in sessions:
        runtime().close(session.name)


def test_threads_feed_their_own_sessions_while_one_steps() -> None:
    stage = runtime().share(StandIn(), CONFIG, FRAMES)
    sessions = [joined(stage, 2) for _ in range(3)]
    given = [requests_of(who, 12) for who in range(3)]

    def feed(session, requests):
        for i, request in enumerate(requests):
            session.set(velocity_scale=0.9 + 0.01 * i)
            session.submit(request)

    threads = [threading.Thread(target=feed, args=pair) for pair in zip(sessions, given, strict=True)]
    for thread in threads:
        thread.start()
    done = []
    while any(t.is_alive() for t in threads) or not all(s.idle for s in sessions):
        done += stage.step()
    assert sorted(id(f.request) for f in done) == sorted(id(r) for requests in given for r in requests)
    assert all(f.latent.isfinite().all() for f in done)
    for session in sessions:
        runtime().close(session.name)


def test_clearing_drops_only_its_own() -> None:
    stage = runtime().share(StandIn(), CONFIG, FRAMES)
    first, second = (joined(stage, 1) for _ in range(2))
    for session in (first, second):
        session.submit(Request(made_up(1, FRAMES), Sampling(3)))
    stage.step()
    first.clear()
    assert (first.stats().dropped, second.stats().dropped, first.idle, second.idle) == (1, 0, True, False)
    assert [f.session for _ in range(2) for f in stage.step()] == [second.name]
    for session in (first, second):
        runtime().close(session.name)


def test_a_knob_that_is_neutral_again_is_so_beside_one_that_is_not() -> None:
    """Where another's knob has the formula run for all slots."""
    mine, others = requests_of(1, 3), requests_of(2, 3)

    def run(*given):
        stage = runtime().share(StandIn(), CONFIG, FRAMES)
        sessions = [joined(stage, 2), joined(stage, 2, Knobs(velocity_scale=0.8, ode_noise=0.2))]
        turns = {1: 0.5, 2: 1.0}

        def before(tick):
            if tick in turns:
                sessions[0].set(velocity_scale=turns[tick])

        latents = play(stage, sessions[: len(given)], given, before)
        for session in sessions:
            runtime().close(session.name)
        return latents[0]

    assert same(run(mine, others), run(mine))
