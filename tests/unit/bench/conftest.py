"""Shared by the tests of benchmarks: an engine, tiny weights, and a run on the CPU."""

from __future__ import annotations

import pytest
import torch
from ostinato.engine_runtime.bench.case import grid
from ostinato.engine_runtime.bench.run import Plan, run
from ostinato.engine_runtime.bench.subject import Source
from ostinato.engine_runtime.models.engines import eager_engine

from .runs import CPU, MOMENT


@pytest.fixture(scope="module")
def engine(turbo):
    return eager_engine(turbo)


@pytest.fixture(scope="module")
def tiny(cache):
    return Source(None, "tiny", CPU, torch.float32)


@pytest.fixture(scope="module")
def found(tiny):
    """A run on the CPU: two cases, and a reference beside them."""
    cases = grid((1, 2), (1.0,), ("off",), steps=2, tokens=4)
    return run(Plan(("eager",), cases, 3, ("eager",), "ostinato bench", MOMENT), tiny)
