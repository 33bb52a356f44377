"""The benchmarks of live play and of a busy machine: what they report, and the listener that plays."""

from __future__ import annotations

import json
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ostinato.engine_runtime.bench import busy as busy_module
from ostinato.engine_runtime.bench import listener, live
from ostinato.engine_runtime.bench.case import Case
from ostinato.engine_runtime.bench.listener import FIRST_LEAD, QUANTUM, Player, Ring
from ostinato.engine_runtime.errors import EngineError, InputError
from ostinato.engine_runtime.live.block import Block
from ostinato.engine_runtime.live.line import Heard
from ostinato.engine_runtime.models.engines import eager_engine
from ostinato.engine_runtime.models.loading import Model

RATE = 48_000


class Session:
    """What a player needs of a session."""

    def __init__(self) -> None:
        self.made = Heard()
        self.reports: list[tuple[int, int, int, bool]] = []

    def attach(self, outlet: Any) -> None:
        pass

    def report(self, epoch: int, position: int, lead: int, moving: bool, by: Any) -> None:
        self.reports.append((epoch, position, lead, moving))


def block(position: int, samples: int, change: int = 0, at: int = 0, epoch: int = 1) -> Block:
    return Block(epoch, position, Heard(change, 0), at, bytes(4 * samples))


def test_a_player_begins_at_its_lead_and_hears_a_change_at_its_sample() -> None:
    """By a clock that the test moves; what was due is played when a block comes."""
    now, session = [100.0], Session()
    player = Player(session, lambda: now[0])  # type: ignore[arg-type]
    player.block(block(0, FIRST_LEAD - 1))
    now[0] = 101.0
    session.made = Heard(3, 0)
    player.changed()
    player.block(block(FIRST_LEAD - 1, RATE, 3, 4800))
    assert player.began is None
    now[0] = 101.2
    player.block(block(0, 1))  # has played by then, and is passed over
    assert player.began == pytest.approx(101.0, abs=QUANTUM / RATE)
    made, ready, heard = player.wait(3, True)
    assert (made, ready) == (101.0, player.began) and heard - player.began == pytest.approx(4800 / RATE, abs=1e-6)


def test_an_underrun_is_counted_and_the_lead_grows() -> None:
    ring = Ring()
    ring.take(1, 0, 2 * FIRST_LEAD, Heard(), 0)
    for _ in range(100):
        ring.play()
    assert (ring.underruns, ring.lead, ring.moving) == (1, round(FIRST_LEAD * listener.GROWTH), False)


@pytest.mark.parametrize(
    ("seconds", "spare", "lead"), [(4, 400, 3000), (6, 400, 2800), (11, 400, 2600), (6, 4000, 2400)]
)
def test_the_lead_falls_as_in_the_page(seconds: int, spare: int, lead: int) -> None:
    """These figures are those of `frontend/test/ring.test.ts`."""
    ring = Ring()
    ring.take(1, 0, 2500, Heard(), 0)
    for _ in range(40):
        ring.play()
    for _ in range(375 * seconds):
        wanted = max(1, ring.read + QUANTUM + spare - ring.end, 0 if ring.moving else ring.lead)
        ring.take(1, ring.end, wanted, Heard(), 0)
        ring.play()
    assert (ring.underruns, ring.lead) == (1, lead)


def test_a_block_takes_the_place_of_what_is_there_and_a_new_epoch_of_all() -> None:
    player = Player(Session(), lambda: 0.0)  # type: ignore[arg-type]
    player.block(block(0, 9600))
    player.block(block(4800, 4800 // 2))
    ring = player.ring
    assert (ring.fresh, ring.end) == (7200, 9600)
    player.block(block(96_000, 4800, epoch=2))
    assert (ring.read, ring.fresh, ring.end) == (96_000, 100_800, 100_800)
    player.block(block(0, 200_000, epoch=1))
    assert ring.end == 100_800


def test_a_session_that_failed_is_an_error() -> None:
    player = Player(Session())  # type: ignore[arg-type]
    player.failed(EngineError("it failed", "it works", "try again"))
    with pytest.raises(EngineError, match="it failed"):
        player.wait(1, True)


@pytest.mark.parametrize("mode", ["loop", "endless"])
def test_a_change_passes_its_stages_in_order(turbo: Model, mode: str) -> None:
    before = set(threading.enumerate())
    found = live.live(eager_engine(turbo), turbo, live.Case(2.0, 1, 2, mode, changes=1, settle=0.1), "command")
    assert json.loads(json.dumps(found))["command"] == "command"
    assert set(found["ms"]) == {"hot", "slot", "prompt"}
    for stages in found["ms"].values():
        times = {stage: ms["median"] for stage, ms in stages.items()}  # of the only change
        assert list(times) == ["evaluated", "made", "ready", "heard"]
        assert 0.0 < times["made"] < times["ready"] <= times["heard"] and times["evaluated"] < times["heard"]
    assert "hot, ms, median" in live.text(found)
    assert not [thread.name for thread in set(threading.enumerate()) - before if "bench" in thread.name]


def test_a_busy_machine_is_compared_with_its_fair_share(turbo: Model) -> None:
    case = Case(depth=2, steps=1, seconds=2.0)
    found = busy_module.share(eager_engine(turbo), turbo.pipe.vae, case, 1, 1, "command")
    names = {f"{way}, {state}" for way in ("alone", "team") for state in ("quiet", "busy")}
    assert all(set(ms) == names and min(ms.values()) > 0.0 for ms in found["ms"].values())
    for what, ms in found["ms"].items():
        over = ms["alone, busy"] / ms["alone, quiet"] / found["fair"][what]
        assert found["over_fair"][what] == pytest.approx(over) and found["fair"][what] >= 1.0
    assert "fair share" in busy_module.text(found)
    assert len(found["load"]) == 1 + 2 * 2 * busy_module.ROUNDS and np.isfinite(found["load"]).all()


def test_busy_processes_end_with_the_block() -> None:
    with pytest.raises(ZeroDivisionError), busy_module.busy(2) as started:
        assert [process.poll() for process in started] == [None, None]
        _ = 1 / 0
    assert all(process.returncode is not None for process in started) and len(started) == 2


@pytest.mark.parametrize("count", [0, 2000])
def test_a_wrong_number_of_busy_processes_is_refused(turbo: Model, count: int) -> None:
    with pytest.raises(InputError, match="busy processes"):
        busy_module.share(eager_engine(turbo), turbo.pipe.vae, Case(), count, 1)


def test_a_gpu_is_refused(turbo: Model) -> None:
    engine = SimpleNamespace(device=torch.device("cuda", 0))
    with pytest.raises(InputError, match="about the CPU"):
        busy_module.share(engine, turbo.pipe.vae, Case(), 1, 1)  # type: ignore[arg-type]
