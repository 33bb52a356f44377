"""Knobs that move with the time of play: in a loop and in music without end, each frame has the value of its moment."""

from __future__ import annotations

import pytest
import torch
from ostinato.engine_runtime.config import Sampling
from ostinato.engine_runtime.live.score import Score
from ostinato.engine_runtime.live.session import LiveSession
from ostinato.engine_runtime.models.loading import Model
from ostinato.engine_runtime.takes.replay import replay
from ostinato.engine_runtime.takes.take import SUBMITTED, TURNED, Log
from torch import Tensor

from ...ear import Ear
from ...helpers import StandIn, made_up

FRAMES = 50
SCALE = 1e-3  # of the knob, for each frame of play: its value tells the moment


def moment(start: int) -> Tensor:
    return SCALE * torch.arange(start, start + FRAMES, dtype=torch.float32)


def played(turbo: Model, mode: str) -> tuple[Log, Score]:
    condition = made_up(0, FRAMES, guided=False)
    moving = {"velocity_scale": moment}
    score = Score(StandIn(), turbo.pipe.vae, condition, Sampling(4), depth=2, mode=mode, moving=moving)
    session = LiveSession(f"test moving {mode}", score)
    try:
        ear = Ear(session)
        session.start()
        ear.until(ear.played(6.0))
        assert not ear.errors
        return session.capture(seconds=2.0).take, score
    finally:
        session.close()


def turned(take: Log) -> list[tuple[Tensor, int]]:
    """The moments that each request was made for, and the frames of it that repeat the music before."""
    now, found = torch.as_tensor(take.knobs.velocity_scale), []
    for event in take.events:
        if event.kind == TURNED:
            now = event.what["velocity_scale"]
        elif event.kind == SUBMITTED:
            mask = event.what.mask
            found.append(((now / SCALE).round().int(), 0 if mask is None else int((mask[:, 0] == 0).sum())))
    return found


def test_a_loop_has_the_moment_at_which_each_frame_comes_round(turbo: Model) -> None:
    take, score = played(turbo, "loop")
    windows = [frames for frames, _ in turned(take)]
    starts = [int(frames.min()) for frames in windows]
    assert len(windows) > 3 and starts == sorted(starts) and starts[-1] > starts[0] + 25
    for frames, start in zip(windows, starts, strict=True):
        assert frames.sort().values.tolist() == list(range(start, start + FRAMES))
        assert bool((frames % FRAMES == torch.arange(FRAMES)).all())
    assert replay(take, score.engine).differing == []


def test_a_stretch_goes_on_where_the_one_before_it_was(turbo: Model) -> None:
    take, score = played(turbo, "endless")
    stretches = turned(take)
    begins = [int(frames[kept]) for frames, kept in stretches]
    assert len(stretches) > 3 and begins[-1] > 100 and stretches[-1][1] > 0
    for frames, _ in stretches:
        assert frames.tolist() == list(range(int(frames[0]), int(frames[0]) + FRAMES))
    for (before, _), begin in zip(stretches, begins[1:], strict=False):
        assert begin <= int(before[-1]) + 1  # no moment between them is left out
    assert replay(take, score.engine).differing == []


def test_a_loop_turns_the_values_to_its_place(turbo: Model) -> None:
    condition, vae = made_up(0, FRAMES, guided=False), turbo.pipe.vae
    score = Score(StandIn(), vae, condition, Sampling(4), moving={"velocity_scale": moment})
    values = score.knobs_at(1020)["velocity_scale"]
    assert values[20].item() == pytest.approx(1.02) and values[19].item() == pytest.approx(1.069)
    assert Score(score.engine, vae, condition, Sampling(4)).knobs_at(1000) == {}
