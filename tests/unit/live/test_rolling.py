"""The last moments of a session that plays on: less is kept, and what is kept plays again bit for bit."""

from __future__ import annotations

import random

import pytest
import torch
from ostinato.engine_runtime.config import Sampling, StreamConfig
from ostinato.engine_runtime.controls.knobs import Knobs
from ostinato.engine_runtime.live.rolling import RollingLog
from ostinato.engine_runtime.stream.request import Request
from ostinato.engine_runtime.stream.sessions import runtime
from ostinato.engine_runtime.takes.replay import replay

from ...helpers import StandIn, made_up


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def played(seed: int, steps: int, seconds: float) -> tuple[StandIn, RollingLog, list[torch.Tensor]]:
    """A session of random requests, knobs and depths, one second a step; a request comes where a slot is free."""
    rng, engine, clock = random.Random(seed), StandIn(), Clock()
    config = StreamConfig(depth=3, spread=False, tokens=8)
    record = RollingLog(engine, config, Knobs(), seconds, clock)
    latents, flying, depth, ends = [], 0, 3, set()
    with runtime().playing(f"rolling {seed}", engine, config, log=record) as session:
        for step in range(steps):
            if rng.random() < 0.3:
                session.set(velocity_scale=rng.uniform(0.8, 1.2))
            if rng.random() < 0.1:
                depth = rng.randint(2, 4)
                session.configure(depth=depth)
            if flying < depth and rng.random() < 0.7:
                steps_of = next(n for n in rng.sample(range(1, 7), 6) if step + n not in ends)
                ends.add(step + steps_of)
                session.submit(Request(made_up(step % 5, 12, guided=False), Sampling(steps_of, seed=step)))
                flying += 1
            for finished in session.step():
                record.finished(finished.request, finished.take())
                latents.append(finished.take())
                flying -= 1
            clock.now += 1.0
    return engine, record, latents


@pytest.mark.parametrize("seed", range(6))
def test_the_last_seconds_play_again(seed: int) -> None:
    engine, record, latents = played(seed, 60, 15.0)
    take = record.log()
    again = replay(take, engine)
    assert 3 <= len(take.latents) < len(latents)
    assert again.differing == []
    assert torch.equal(again.latents[len(take.latents) - 1], latents[-1])


def test_what_is_kept_does_not_grow() -> None:
    sizes = []
    for steps in (60, 240):
        _, record, _ = played(1, steps, 15.0)
        sizes.append((len(record._events), len(record._made), len(record._flying)))
    assert sizes[1][0] < 2 * sizes[0][0] + 10 and sizes[1][1] < 2 * sizes[0][1] + 10 and sizes[1][2] <= 4


def test_a_failed_step_is_where_a_replay_begins() -> None:
    engine = StandIn()
    config = StreamConfig(depth=2, spread=False, tokens=8)
    record = RollingLog(engine, config, Knobs(), 100.0)
    with runtime().playing("rolling failed", engine, config, log=record) as session:
        session.submit(Request(made_up(0, 12, guided=False), Sampling(3)))
        session.step()
        session.set(velocity_scale=1.1)
        session.clear()
        session.submit(Request(made_up(1, 12, guided=False), Sampling(2)))
        for _ in range(2):
            for finished in session.step():
                record.finished(finished.request, finished.take())
    take = record.log()
    assert len(take.latents) == 1 and replay(take, engine).differing == []
