"""A soak: its first work is its last, and it says what is not flat."""

from __future__ import annotations

import json
import random
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

from ostinato.cli.main import app
from ostinato.engine_runtime.bench import soak as soak_module
from ostinato.engine_runtime.bench.soak import GROWTH, USED, Soak, soak
from ostinato.engine_runtime.controls.knobs import KNOBS
from ostinato.engine_runtime.stream.sessions import runtime
from typer.testing import CliRunner

from ...helpers import StandIn


def test_a_soak_ends_with_the_work_it_began_with():
    """By the seeds of the requests and the knobs that were turned; what lies between is other work."""
    ticks = []

    def on_tick(done, total):
        assert (done, total) == (len(ticks) + 1, 190)
        (name,) = runtime().names
        session = runtime().session(name)
        seeds = [request.sampling.seed for request in session.queued]
        ticks.append((session.config.depth, str(session.knobs.dcw_mode), seeds))

    made = soak(StandIn(), 190, 1.0, seed=3, on_tick=on_tick, block=30)
    assert len(ticks) == made.ticks == 190
    warm, first, second, between, _, again, last = (
        ticks[a:b] for a, b in pairwise((0, 30, 60, 90, 120, 130, 160, 190))
    )
    assert warm == first == again != second == last != between
    assert made.finished > 30 and made.dropped == 0
    assert [len(made.first_ms), len(made.between_ms), len(made.last_ms)] == [2, 2, 2] and min(made.first_ms) > 0
    assert made.device_bytes is made.device_used is None and not runtime().names
    json.dumps(made.as_json())


def test_every_knob_can_be_turned_in_a_soak():
    player = SimpleNamespace(_random=random.Random(0), frames=25)
    player.generator = partial(soak_module.Player.generator, player)
    for knob in KNOBS.values():
        for _ in range(20):
            knob.check(soak_module.Player.value(player, knob))


def test_a_soak_says_what_is_not_flat():
    flat = {"engine": "x", "ticks": 1, "finished": 1, "dropped": 0, "first_ms": (1.0, 2.0, 3.0), "between_ms": (9.0,)}
    well = {**flat, "last_ms": (2.0, 2.1, 3.1)}  # one of three was slow
    assert Soak(**well, device_bytes=(5, 5 + GROWTH), device_used=(0, USED), host_bytes=None).wrong == []
    grown = Soak(
        **{**flat, "last_ms": (1.2, 2.3, 3.0)},
        device_bytes=(0, 2 * GROWTH),
        device_used=(0, 2 * USED),
        host_bytes=(0, 9 * USED),
    )
    assert len(grown.wrong) == 4 and grown.text().count("NOT FLAT") == 4
    assert "15 % more at the end" in grown.wrong[-1] and "9.00 between" in grown.text()


def test_the_soak_command_exits_with_1_where_it_is_not_flat(cache, monkeypatch):
    made = {
        "engine": "x",
        "ticks": 1,
        "finished": 1,
        "dropped": 0,
        "device_bytes": None,
        "device_used": None,
    }
    for last, code in ((1.0, 0), (2.0, 1)):
        told = Soak(**made, first_ms=(1.0,), between_ms=(), last_ms=(last,), host_bytes=None)
        monkeypatch.setattr(soak_module, "soak", lambda *a, told=told: told)
        done = CliRunner().invoke(app, ["bench", "soak", "--json"])
        assert done.exit_code == code and json.loads(done.stdout)["drift"] == last - 1.0
