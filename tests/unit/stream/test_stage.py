"""Sessions that share a ring: each plays as if the others were not there."""

from __future__ import annotations

import gc
import itertools
import threading
import weakref
from collections import Counter
from dataclasses import replace
from random import Random

import pytest
import torch
from ostinato.engine_runtime.config import Guidance, Sampling, StreamConfig
from ostinato.engine_runtime.controls.automation import Track
from ostinato.engine_runtime.controls.knobs import Knobs
from ostinato.engine_runtime.engines.contract import Limits
from ostinato.engine_runtime.errors import EngineLimitError, InputError, MemoryShortage, OstinatoError, SessionError
from ostinato.engine_runtime.lora.stack import stack
from ostinato.engine_runtime.models.engines import eager_engine
from ostinato.engine_runtime.stream.request import Part, Request, Target
from ostinato.engine_runtime.stream.sessions import runtime
from ostinato.engine_runtime.takes.take import Log

from ...helpers import Fragile, StandIn, drawn, made_up

FRAMES = 12
CONFIG = StreamConfig(guidance="full", conditions=2, tokens=64, queue=32, spread=False)
LINE = torch.linspace(0.7, 1.3, FRAMES)
KNOBS = (
    {},
    {"dcw": True, "dcw_wavelet": "db4", "velocity_scale": LINE, "channel_gain": 1.1},
    {"dcw": True, "dcw_mode": "pix", "ode_noise": 0.2, "guidance_scale": 2.0},
    {"dcw": True, "dcw_mode": "low", "dcw_wavelet": "sym4", "dcw_low": LINE - 0.5, "target_strength": 0.3},
)
_names = itertools.count()


def requests_of(who: int, count: int = 6, width: int = 64) -> list[Request]:
    made = []
    for i in range(count):
        seed = 100 * who + i
        one = made_up(seed, FRAMES, 3 + i, width=width)
        what = (Part(one), Part(made_up(seed + 50, FRAMES, width=width))) if i % 3 == 2 else one
        extra = {"source": drawn(seed, FRAMES, 64)} if i % 2 else {"target": Target(drawn(seed, FRAMES, 64))}
        walk = Sampling(2 + (who + i) % 4, seed=seed, solver=("ode", "sde")[i % 2])
        made.append(Request(what, walk, Guidance(1.0 + i), **extra))
    return made


def joined(stage, depth=1, knobs=None, **live):
    return runtime().join(f"stage {next(_names)}", stage, depth, knobs, **live)


def play(stage, sessions, given, before=lambda tick: None):
    """Latents of every session, in the order of its requests."""
    for session, requests in zip(sessions, given, strict=True):
        for request in requests:
            session.submit(request)
    done = {}
    for tick in itertools.count():
        before(tick)
        for f in stage.step():
            done[id(f.request)] = f.session, f.take()
        if all(session.idle for session in sessions):
            break
    names = [[done[id(request)][0] for request in requests] for requests in given]
    assert all(set(row) == {session.name} for row, session in zip(names, sessions, strict=True))
    return [[done[id(request)][1] for request in requests] for requests in given]


def same(one, other):
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(params=["stand-in", "random"])
def engine(request, base):
    return StandIn() if request.param == "stand-in" else eager_engine(base)


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


def test_an_engine_is_swapped_between_two_ticks(base) -> None:
    """What is in flight plays on, to the same latents, also through a failed swap and at another depth after it."""
    engines = [eager_engine(base) for _ in range(2)]
    given = requests_of(2, 8, engines[0].width)
    config = StreamConfig(4, "full", 2, tokens=64, queue=32)

    def run(name, swaps):
        count, done = itertools.count(), {}
        with runtime().playing(name, engines[0], config, Knobs(**KNOBS[1])) as session:

            def before():
                swaps.get(next(count), lambda _: None)(session)

            for f in session.play(given, before):
                done[id(f.request)] = f.take()
            assert session.stats().dropped == 0
            return [done[id(request)] for request in given], session.engine

    def fails(session):
        session.stage.swap(Fragile(width=engines[0].width, most=0), told.append)
        with pytest.raises(MemoryShortage):
            session.step()

    plain, _ = run("plain", {})
    told = []
    swaps = {3: lambda s: s.stage.swap(engines[1], told.append), 5: fails, 6: lambda s: s.configure(depth=6)}
    swapped, engine = run("swapped", swaps)
    assert engine is engines[1] and same(swapped, plain) and told == [True, False]


def test_a_swap_that_cannot_be_is_refused(base) -> None:
    engine = eager_engine(base)
    with runtime().playing("refused", engine, StreamConfig(depth=4)) as session:
        session.submit(requests_of(0, 1, engine.width)[0])
        session.step()
        for other in (StandIn(width=engine.width + 1), StandIn(Limits(3, 100, 100), width=engine.width)):
            with pytest.raises(OstinatoError):
                session.stage.swap(other)
        assert session.engine is engine
    config = StreamConfig(depth=4)
    with runtime().playing("take", engine, config, log=Log.of(engine, config)) as session:
        with pytest.raises(InputError, match="a take is of one engine"):
            session.stage.swap(eager_engine(base))


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


def test_a_swap_looks_at_what_is_still_to_come(base, tmp_path) -> None:
    """Depths and adapters that were asked for, and nothing is left of the old engine."""
    engine = eager_engine(base)
    small = StandIn(Limits(3, 100, 100), width=engine.width)
    with runtime().playing("coming", engine, StreamConfig(depth=4)) as session:
        with pytest.raises(EngineLimitError):  # before its first step
            session.stage.swap(small)
        factors = stack([], engine.targets, engine.dtype, engine.device, session.lane)
        session.adapt(factors)
        with pytest.raises(InputError, match="takes none"):
            session.stage.swap(StandIn(width=engine.width))
        session.step()
        assert session.engine is engine
    old = StandIn()
    held = weakref.ref(old)
    session = runtime().open("freed", old, StreamConfig(depth=2))
    session.submit(requests_of(0, 1)[0])
    session.step()
    session.stage.swap(StandIn())
    session.step()
    del old
    gc.collect()
    assert held() is None
    runtime().close(session.name)


def test_one_ring_goes_before_the_next_comes() -> None:
    """A length that changes needs no room for two."""
    made, alive = [], []

    class Watched(StandIn):
        def rows(self, *sizes):
            gc.collect()
            alive.append([ref() is not None for ref in made])
            rows = super().rows(*sizes)
            made.append(weakref.ref(rows))
            return rows

    with runtime().playing("lengths", Watched(), StreamConfig(depth=2)) as session:
        for frames in (6, 12):
            session.submit(Request(made_up(1, frames), Sampling(1)))
            session.step()
    assert alive == [[], [False]]


def test_a_swap_that_never_comes_is_told() -> None:
    """Because another is asked for first, or the session closes before its next step."""
    ends = []
    session = runtime().open("two swaps", StandIn(), StreamConfig(depth=2))
    for name in ("first", "second"):
        session.stage.swap(StandIn(), lambda plays, name=name: ends.append((name, plays)))
    assert ends == [("first", False)]
    session.step()
    session.stage.swap(StandIn(), lambda plays: ends.append(("third", plays)))
    for _ in range(2):
        runtime().close(session.name)
        session.close()
    assert ends == [("first", False), ("second", True), ("third", False)]


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


class Longer(StandIn):
    """Pads its rows, as an engine of fixed shapes does."""

    def rows(self, batch, frames, tokens):
        return super().rows(batch, frames + 3, tokens)


def test_an_engine_with_longer_rows_takes_over() -> None:
    given = requests_of(2, 4)
    latents = []
    for swaps in (False, True):
        tick, done = itertools.count(), {}
        with runtime().playing("longer", StandIn(), StreamConfig(2, "full", 2, tokens=64, queue=32)) as session:

            def before(tick=tick, session=session, swaps=swaps):
                if next(tick) == 3 and swaps:
                    session.stage.swap(Longer())

            for f in session.play(given, before):
                done[id(f.request)] = f.take()
        latents.append([done[id(request)] for request in given])
    assert same(*latents)


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
