"""Sessions: nothing is lost, nothing is played twice, and company changes nothing."""

from __future__ import annotations

import gc
import threading
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ostinato.engine_runtime.config import NO_GUIDANCE, Guidance, Sampling, StreamConfig
from ostinato.engine_runtime.controls.automation import Track
from ostinato.engine_runtime.engines.contract import Limits, Rows
from ostinato.engine_runtime.errors import InputError, MemoryShortage, SessionError
from ostinato.engine_runtime.models.engines import eager_engine
from ostinato.engine_runtime.spec import ACE_STEP
from ostinato.engine_runtime.stream.request import Condition, Request
from ostinato.engine_runtime.stream.session import Session
from ostinato.engine_runtime.stream.sessions import runtime
from ostinato.engine_runtime.takes.render import render, take_batch

from ...fuzz import examples
from ...helpers import Fragile, StandIn, apart, made_up, play

WIDTH = 8


class ToyEngine:
    """A decoder in one line, with the contract's shapes: what matters here is who sits where, and when."""

    limits, width, dtype, device = Limits(16, 4_000, 4_096), WIDTH, torch.float32, torch.device("cpu")
    identity = name = "toy"
    spec = ACE_STEP
    capturable = False

    def ready(self) -> None:
        pass

    def rest(self) -> None:
        pass

    def rows(self, batch: int, frames: int, tokens: int) -> Rows:
        self.limits.check(batch, frames, tokens)
        return Rows.allocate(self.spec, batch, frames, tokens, WIDTH, self.dtype, self.device)

    def __call__(self, rows: Rows) -> torch.Tensor:
        mask = rows.encoder_attention_mask[..., None]
        heard = (rows.encoder_hidden_states * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
        mixed = rows.hidden_states + rows.context_latents[..., :64] * heard.repeat(1, 1, 64 // WIDTH)
        return torch.tanh(mixed) * (1.0 + rows.timestep[:, None, None])


ENGINE = ToyEngine()


def condition(frames: int = 6, tokens: int = 3, seed: int = 0) -> Condition:
    g = torch.Generator().manual_seed(seed)
    return Condition(
        torch.randn(tokens, WIDTH, generator=g),
        torch.randn(frames, 128, generator=g),
        torch.randn(1, WIDTH, generator=g),
    )


def request(frames: int = 6, steps: int = 8, guided: bool = False, tokens: int = 3, seed: int = 0) -> Request:
    guidance = Guidance(scale=4.0) if guided else NO_GUIDANCE
    return Request(condition(frames, tokens, seed), Sampling(steps=steps, seed=seed), guidance)


def alone(one: Request, engine=ENGINE) -> torch.Tensor:
    return play(engine, [one], depth=1)[0]


@cache
def latent(frames: int, steps: int, guided: bool, tokens: int, seed: int) -> torch.Tensor:
    """What such a request plays by itself."""
    return alone(request(frames, steps, guided, tokens, seed))


def session_of(**config) -> Session:
    return apart("apart", ENGINE, StreamConfig(**config), runtime().lane(ENGINE.device))


def test_a_full_queue_drops_its_oldest() -> None:
    session, asked = session_of(queue=2, depth=1), [request(seed=i) for i in range(5)]
    for one in asked:
        session.submit(one)
    assert session.stats().dropped == 3
    assert [finished.request for finished in session.play([])] == asked[3:]
    assert session.stats().dropped == 3


def test_a_curve_must_fit_what_waits() -> None:
    session = session_of(depth=1)
    for frames in (6, 9):
        session.submit(request(frames))
    session.step()
    with pytest.raises(InputError, match="9"):
        session.set(velocity_scale=torch.ones(6))
    assert session.knobs.velocity_scale == 1.0


def test_play_drops_nothing() -> None:
    session, asked = session_of(queue=1, depth=2), [request(steps=2, seed=i) for i in range(7)]
    assert [finished.request for finished in session.play(asked)] == asked
    assert session.stats().dropped == 0


def test_close_counts_what_it_drops() -> None:
    session = session_of(depth=2, spread=False)
    for i in range(5):
        session.submit(request(seed=i))
    session.step()
    session.close()
    assert session.stats().dropped == 5
    session.close()
    assert session.stats().dropped == 5


@pytest.mark.parametrize(
    "use",
    [
        Session.step,
        lambda s: s.submit(request()),
        lambda s: s.submit_unchecked(request()),
        lambda s: list(s.play([request()])),
        lambda s: s.set(velocity_scale=0.5),
        lambda s: s.set_unchecked({"velocity_scale": 0.5}),
        lambda s: s.adapt(None),
        lambda s: s.configure(depth=2),
        lambda s: s.automate([Track("velocity_scale", (0.5,))]),
    ],
)
def test_a_closed_session_refuses(use) -> None:
    use(session_of())
    session = session_of()
    session.close()
    with pytest.raises(SessionError, match="closed"):
        use(session)


ACTIONS = st.one_of(
    st.tuples(
        st.sampled_from([4, 5, 9]),  # frames
        st.sampled_from([1, 2, 5, 8]),  # steps
        st.booleans(),  # guided
        st.sampled_from([1, 64, 65, 130]),  # tokens
        st.integers(0, 2),  # seed
    ),
    st.integers(1, 12),  # ticks
)


ONE = (4, 1, False, 1, 0)


@settings(max_examples=examples(80), deadline=None)
@given(st.lists(ACTIONS, max_size=30), st.integers(1, 8), st.integers(1, 9), st.booleans(), st.booleans())
@example([ONE, ONE, 1, ONE, ONE], 1, 2, False, True)  # one that waits already makes room at the next step
def test_every_request_ends_once(actions: list, depth: int, queue: int, spread: bool, drain: bool) -> None:
    session = session_of(depth=depth, queue=queue, spread=spread)
    asked: list[Request] = []
    wanted, out = {}, []
    for action in actions:
        if isinstance(action, int):
            for _ in range(action):
                out += session.step()
        else:
            asked.append(request(*action))
            wanted[id(asked[-1])] = action
            session.submit(asked[-1])
    if drain:
        beyond = max(0, len(session.queued) - queue)
        dropped = session.stats().dropped + beyond
        out += session.play([])
        assert session.idle and session.stats().dropped == dropped
    session.close()
    stats = session.stats()
    assert max(Counter(id(f.request) for f in out).values(), default=1) == 1
    assert {id(f.request) for f in out} <= {id(r) for r in asked}
    assert (stats.finished, stats.finished + stats.dropped) == (len(out), len(asked))
    for finished in out:
        torch.testing.assert_close(finished.take(), latent(*wanted[id(finished.request)]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("spread", [True, False])
def test_a_change_of_length_loses_nothing(turbo, conditions, spread: bool) -> None:
    engine = eager_engine(turbo)
    asked = [
        Request(conditions(turbo, frames, 4)[i], Sampling(steps=4, seed=i))
        for i, frames in enumerate((10, 10, 25, 13))  # each condition is also longer than the one before
    ]
    for got, one in zip(play(engine, asked, depth=3, spread=spread), asked, strict=True):
        torch.testing.assert_close(got, alone(one, engine), rtol=0, atol=1e-5)


def test_guidance_comes_to_an_unguided_ring() -> None:
    session = session_of(depth=3)
    plain = [request(seed=i, steps=6) for i in range(3)]
    guided = [request(seed=i, steps=6, guided=True) for i in range(3)]
    out = {id(f.request): f.take() for f in session.play([*plain, *guided])}
    assert session.stats().fused is True
    for one in (*plain, *guided):
        torch.testing.assert_close(out[id(one)], alone(one), rtol=0, atol=1e-5)
    assert not torch.allclose(out[id(plain[0])], out[id(guided[0])], atol=1e-2)


EVENLY = [(4, 8, 2), (4, 7, 2), (4, 5, 2), (3, 10, 4), (4, 4, 1), (8, 3, 1)]


@pytest.mark.parametrize(("depth", "steps", "between"), EVENLY)
def test_latents_finish_evenly(depth: int, steps: int, between: int) -> None:
    """Also where the steps do not divide by the depth: then a slot may be free for a while."""
    session, ticks = session_of(depth=depth), []
    for _ in session.play(request(steps=steps, seed=i) for i in range(16)):
        ticks.append(session.stats().ticks)
    assert ticks == list(range(steps, steps + between * 16, between))


def test_an_empty_ring_lets_nobody_wait() -> None:
    session = session_of(depth=2)
    session.submit(request(steps=1))
    session.submit(request(steps=8))
    assert [len(session.step()) for _ in range(9)] == [1, 0, 0, 0, 0, 0, 0, 0, 1]


def test_the_queue_is_listed_oldest_first() -> None:
    """What a step has taken in, and what has come since."""
    session, asked = session_of(depth=1, queue=4), [request(steps=4, seed=i) for i in range(4)]
    for one in asked[:3]:
        session.submit(one)
    session.step()
    session.submit(asked[3])
    assert session.queued == asked[1:] and session.room
    session.submit(last := request())
    assert session.queued == [*asked[1:], last] and not session.room


def test_an_id_is_required_and_unique() -> None:
    with pytest.raises(InputError, match="no id"):
        runtime().open("", ENGINE, StreamConfig())
    with runtime().playing("one", ENGINE, StreamConfig()) as session:
        assert runtime().session("one") is session
        with pytest.raises(SessionError, match="is open"):
            runtime().open("one", ENGINE, StreamConfig())
        with pytest.raises(SessionError, match="open are: one"):
            runtime().session("two")
    with pytest.raises(SessionError, match="no session 'one'"):
        runtime().session("one")
    runtime().close("one")
    runtime().close("one")
    assert session.closed


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_an_error_inside_closes_the_session(error: type[BaseException]) -> None:
    with pytest.raises(error), runtime().playing("broken", ENGINE, StreamConfig()) as session:
        session.submit(request())
        session.step()
        raise error
    assert session.closed and session.stats().dropped == 1
    with runtime().playing("broken", ENGINE, StreamConfig()) as again:
        assert again is not session


def test_threads_share_an_engine(turbo, conditions) -> None:
    engine, start = eager_engine(turbo), threading.Barrier(4)
    asked = [
        [Request(conditions(turbo, 10, 3)[i], Sampling(steps=4, seed=10 * t + i)) for i in range(3)] for t in range(4)
    ]
    expected = [play(engine, group, depth=2) for group in asked]

    def run(group: list[Request]) -> list[torch.Tensor]:
        start.wait(30)
        return play(engine, group, depth=2)

    with ThreadPoolExecutor(4) as pool:
        for got, wanted in zip(pool.map(run, asked), expected, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_another_thread_submits_while_this_one_steps() -> None:
    session, asked = session_of(depth=3, queue=64, spread=False), [request(steps=3, seed=i) for i in range(40)]
    feeder = threading.Thread(target=lambda: [session.submit(one) for one in asked])
    feeder.start()
    out = []
    while feeder.is_alive() or not session.idle:
        out += session.step()
    feeder.join()
    assert [f.request for f in out] == asked
    assert all(torch.equal(f.take(), play(ENGINE, [f.request], depth=3)[0]) for f in out[::13])


class Interrupted(BaseException):
    """What a host may raise to stop a node."""


@pytest.mark.parametrize("error", [KeyboardInterrupt, Interrupted])
@pytest.mark.parametrize("at", [0, 5, 8])  # before the first tick, in the middle, after the last
def test_an_interrupt_leaves_the_id_free(error: type[BaseException], at: int) -> None:
    asked = take_batch(condition(), Sampling(steps=4), 4, 1)
    calls = iter(range(100))

    def stop(done: int, total: int) -> None:
        if next(calls) == at:
            raise error

    with pytest.raises(error):
        render("node 1", ENGINE, asked, depth=2, on_tick=stop)
    again, _ = render("node 1", ENGINE, asked, depth=2)
    assert all(torch.equal(a, b) for a, b in zip(again, play(ENGINE, asked, depth=2), strict=True))


@settings(max_examples=examples(30), deadline=None)
@given(st.lists(st.tuples(st.sampled_from([4, 7]), st.integers(1, 5)), min_size=1, max_size=8), st.integers(1, 6))
def test_progress_reaches_its_total(shapes: list, depth: int) -> None:
    asked, told = [request(frames, steps, seed=i) for i, (frames, steps) in enumerate(shapes)], []
    latents, stats = render("progress", ENGINE, asked, depth, lambda done, total: told.append((done, total)))
    done = [d for d, _ in told]
    assert done == sorted(done)
    assert {t for _, t in told} == {sum(steps for _, steps in shapes)}
    assert told[-1][0] == told[-1][1] and done.count(told[-1][1]) == 1
    assert [x.shape for x in latents] == [(frames, 64) for frames, _ in shapes]
    assert (stats.finished, stats.dropped) == (len(shapes), 0)


@given(st.integers(0, 2**64 - 1), st.integers(1, 20), st.integers(0, 2**64 - 1))
def test_seeds_of_a_batch(first: int, count: int, step: int) -> None:
    batch = take_batch(condition(), Sampling(seed=first), count, step)
    assert [r.sampling.seed for r in batch] == [(first + i * step) % 2**64 for i in range(count)]


def test_sources_of_a_batch() -> None:
    sources = [torch.full((6, 64), float(i)) for i in range(3)]
    one = take_batch(condition(), Sampling(denoise=0.5), 3, 1, None, sources[:1])
    each = take_batch(condition(), Sampling(denoise=0.5), 3, 1, None, sources)
    assert [r.source for r in one] == [sources[0]] * 3
    assert all(r.source is s for r, s in zip(each, sources, strict=True))


def test_threads_share_an_engine_with_one_output_buffer() -> None:
    """What an engine returned is copied before another session's tick may overwrite it."""
    engine = StandIn(reuse=True)
    asked = [[Request(made_up(7 * k + i, 6), Sampling(6, seed=i)) for i in range(3)] for k in range(4)]
    want = [render(f"alone {k}", engine, batch, depth=2)[0] for k, batch in enumerate(asked)]
    for _ in range(5):
        with ThreadPoolExecutor(4) as pool:
            got = list(pool.map(lambda k: render(f"together {k}", engine, asked[k], depth=2)[0], range(4)))
        for a, b in zip(want, got, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_failing_request_does_not_stay() -> None:
    """Any error ends what is in flight, counted; what waits behind it plays."""
    engine = Fragile(error=ValueError("broken"))
    with runtime().playing("broken", engine, StreamConfig(depth=1, spread=False)) as session:
        session.submit(Request(made_up(0, 6), Sampling(2)))
        session.submit(Request(made_up(1, 6), Sampling(2)))
        with pytest.raises(ValueError, match="broken"):
            session.step()
        finished = list(session.play([]))
        assert len(finished) == 1 and session.stats().dropped == 1


def test_a_ring_that_found_no_room_does_not_widen_the_next() -> None:
    with runtime().playing("narrow", Fragile(most=3), StreamConfig(depth=2)) as session:
        session.submit(Request(made_up(0, 6), Sampling(2), Guidance(3.0)))
        with pytest.raises(MemoryShortage):
            session.step()
        assert len(list(session.play([Request(made_up(1, 6), Sampling(2))]))) == 1
        assert session.stats().fused is None and session.stats().dropped == 1


def test_a_session_may_be_stepped_with_and_without_inference_mode() -> None:
    with runtime().playing("modes", StandIn(), StreamConfig(depth=2)) as session:
        for seed in range(2):
            session.submit(Request(made_up(seed, 6), Sampling(4)))
        with torch.inference_mode():
            session.step()
        assert len(list(session.play([]))) == 2


@pytest.mark.parametrize(("tokens", "made"), [(3, 64), (64, 64), (65, 100)])
def test_a_ring_has_room_for_a_round_number_of_tokens(tokens: int, made: int) -> None:
    """So that prompts of near lengths share a ring; never more than the engine takes."""
    with runtime().playing("tokens", StandIn(Limits(16, 4096, 100)), StreamConfig(depth=1)) as session:
        session.submit(Request(made_up(0, 6, tokens), Sampling(2)))
        session.step()
        assert session.stage.tick is not None and session.stage.tick.tokens == made


def test_what_has_finished_is_let_go() -> None:
    one = Request(made_up(0, 6), Sampling(2))
    held = weakref.ref(one)
    with runtime().playing("let go", StandIn(), StreamConfig(depth=2)) as session:
        session.submit(one)
        del one
        assert len(list(session.play([]))) == 1
        gc.collect()
        assert held() is None
