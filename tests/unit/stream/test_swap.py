"""An engine takes another's place in a stage, between two ticks."""

from __future__ import annotations

import gc
import itertools
import weakref

import pytest
from ostinato.engine_runtime.config import Sampling, StreamConfig
from ostinato.engine_runtime.controls.knobs import Knobs
from ostinato.engine_runtime.engines.contract import Limits
from ostinato.engine_runtime.errors import EngineLimitError, InputError, MemoryShortage, OstinatoError
from ostinato.engine_runtime.lora.stack import stack
from ostinato.engine_runtime.models.engines import eager_engine
from ostinato.engine_runtime.stream.request import Request
from ostinato.engine_runtime.stream.sessions import runtime
from ostinato.engine_runtime.takes.take import Log

from ...helpers import Fragile, StandIn, made_up
from .stages import KNOBS, requests_of, same


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
