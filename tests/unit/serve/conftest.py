"""Shared by the tests of serving: a server that leaves no thread behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from ostinato.engine_runtime.config import Sampling
from ostinato.engine_runtime.live.score import Score
from ostinato.engine_runtime.models.loading import Model

from ...helpers import StandIn, made_up
from .served import Served


@pytest.fixture
def served(turbo: Model, tmp_path: Path) -> Iterator[Served]:
    before = set(threading.enumerate())
    score = Score(StandIn(), turbo.pipe.vae, made_up(0, 50, guided=False), Sampling(4), depth=2)
    made = Served(score, tmp_path)
    yield made
    made.keep.close()
    made.control.close()
    made.session.close()
    assert {t for t in set(threading.enumerate()) - before if t.name.startswith("ostinato")} == set()
