"""A slot's result does not depend on what else is in the ring, whatever controls are turned: bit for bit."""

from __future__ import annotations

from random import Random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ostinato.engine_runtime.config import ROW_MODES
from ostinato.engine_runtime.controls.knobs import Knobs
from ostinato.engine_runtime.engines.contract import Limits
from ostinato.engine_runtime.models.engines import eager_engine
from ostinato.engine_runtime.stream.request import Part, Request

from ...helpers import StandIn, play
from ...live import FEATURES, draft, everything, rows

RANDOM = st.randoms(use_true_random=False)


def mixed(random: Random, frames: int, condition=None) -> Request:
    """A request with up to four features; in place of its conditions those that `condition()` picks."""
    made = draft(random, frames, random.sample(list(FEATURES), random.randint(0, 4)))
    if condition is not None and isinstance(made.request.get("condition"), tuple):
        parts = made.request["condition"]
        made.request["condition"] = tuple(Part(condition(), p.weight, p.start, p.end) for p in parts)
    elif condition is not None:
        made.request["condition"] = condition()
    return made.made()


def turned(random: Random, frames: int) -> Knobs:
    return Knobs(**draft(random, frames, random.sample(list(FEATURES), random.randint(0, 6))).knobs)


def among(engine, one, others, at, knobs, **config):
    """`one` by itself and as the `at`th of others, in a ring that has room for all of them."""
    config = {**rows([one, *others]), **config}
    alone = play(engine, [one], knobs, **config)[0]
    return alone, play(engine, [*others[:at], one, *others[at:]], knobs, **config)[at]


@pytest.mark.parametrize("least", ROW_MODES)
@pytest.mark.parametrize("width", [64, 8], ids=["fused", "narrow"])
@settings(max_examples=25)
@given(RANDOM, st.sampled_from([1, 7, 26]), st.integers(1, 8), st.booleans())
def test_any_ring_on_the_stand_in(width, least, random, frames, depth, spread):
    """A ring of the least rows that seats them, or of more."""
    one, knobs = mixed(random, frames), turned(random, frames)
    others = [mixed(random, frames) for _ in range(random.randint(1, 8))]
    config = rows([one, *others])
    config["guidance"] = max(config["guidance"], least, key=ROW_MODES.index)
    engine = StandIn(Limits(width, 4096, 1024), reuse=True)
    at = random.randint(0, len(others))
    alone, together = among(engine, one, others, at, knobs, depth=depth, spread=spread, **config)
    assert torch.equal(alone, together)


@pytest.mark.parametrize("solver", ["ode", "sde"])
def test_noise_replays_in_any_company(solver):
    """Everything on, every place of the ring, before and behind others of its own seed."""
    knobs = Knobs(ode_noise=0.5, sde=0.7, target_strength=0.3, blend=0.4, dcw=True)
    one = everything(3, 7, "full", steps=5, solver=solver)
    others = [everything(3, 7, "initialize", steps=2 + i, solver=("ode", "sde")[i % 2]) for i in range(5)]
    for at in range(6):
        for spread in (True, False):
            alone, together = among(StandIn(), one, others, at, knobs, depth=4, spread=spread)
            assert torch.equal(alone, together)


@pytest.mark.parametrize("width", [64, 5], ids=["fused", "narrow"])
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(RANDOM, st.sampled_from([1, 6, 7, 25]), st.booleans())
def test_any_company_on_the_decoder(base, conditions, width, random, frames, spread):
    known, engine = conditions(base, frames, 4), eager_engine(base, max_rows=width)
    one, *others = (mixed(random, frames, lambda: random.choice(known)) for _ in range(4))
    at, knobs = random.randint(0, 3), turned(random, frames)
    alone, together = among(engine, one, others, at, knobs, depth=random.randint(1, 5), spread=spread)
    assert torch.equal(alone, together)
