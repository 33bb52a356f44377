"""Shared by the tests of the stream: an engine that is quick, and one that is real."""

from __future__ import annotations

import pytest
from ostinato.engine_runtime.models.engines import eager_engine

from ...helpers import StandIn


@pytest.fixture(params=["stand-in", "random"])
def engine(request, base):
    return StandIn() if request.param == "stand-in" else eager_engine(base)
