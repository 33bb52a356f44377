"""Measures a live session from the message that turns a widget to the sound that has it, without a browser.

A listener plays against the host's clock, as a page does, and one change is made at a time: of a hot knob, of a seed
(the next generation takes it) and of a prompt (encoded, then as a seed). A change passes, in this order:

- `evaluated`: the control's thread has run what the widget reaches, for a prompt the encoders;
- `made`: the ring has laid the first latent with it: the tick that runs ends, then the slot nearest its end does (hot),
  or the next free slot makes all its steps;
- `ready`: the sound of it is decoded, the milliseconds that the budget is about;
- `heard`: its first sample is played; what lies between is the lead that the listener wants.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from ..audio.live_vae import LiveVae
from ..config import Sampling
from ..engines.contract import Engine
from ..errors import InputError, check_whole
from ..live.beat import Tempo
from ..live.score import Cost, Score
from ..live.session import LiveSession
from ..models.conditioning import encode_prompt
from ..models.loading import Model
from ..models.prompt import Prompt
from ..serve.control import Control, Place, Taken
from .busy import busy
from .listener import Player
from .origin import origin

HOT, SLOT, PROMPT = "hot", "slot", "prompt"
KINDS = (HOT, SLOT, PROMPT)
TAGS = (
    "funk, drums, bass, electric piano",
    "slow ambient pads",
    "fast techno with bass drums and a deep synth pad",
    "jazz trio, piano, upright bass, brushes",
)
SETTLE = 3.0
PAUSE = (0.2, 0.7)  # seconds between two changes, drawn evenly, so that they meet the ring in any of its phases
STAGES = ("evaluated", "made", "ready", "heard")


@dataclass(frozen=True)
class Case:
    """The settings of a live benchmark.

    Attributes:
        seconds, depth, steps, mode, seed_step: of the score; a loop with a seed step of 0 rests while nothing changes.
        changes: measured of each kind.
        busy: processes that compute beside it.
        settle: seconds of sound before anything is measured.
    """

    seconds: float = 5.0
    depth: int = 1
    steps: int = 8
    mode: str = "loop"
    changes: int = 30
    busy: int = 0
    seed_step: int = 0
    settle: float = SETTLE

    def __post_init__(self) -> None:
        check_whole("changes", self.changes, 1, 10_000, "thirty are enough for percentiles")


class Instrument:
    """The graph of the benchmark: a hot knob, a seed and a prompt."""

    tempo = Tempo(96.0)

    def __init__(self, engine: Engine, model: Model, case: Case) -> None:
        self._model, self._seconds = model, case.seconds
        vae, condition = LiveVae(model.pipe.vae), self._encoded(TAGS[0])
        score = Score(engine, vae, condition, Sampling(case.steps, seed=7), case.seed_step)
        self.score = replace(score, depth=case.depth, mode=case.mode)

    def widgets(self) -> list[dict[str, Any]]:
        return [{"node": "", "input": kind} for kind in KINDS]

    def check(self, place: Place, value: Any) -> Any:
        return value

    def turn(self, changes: Mapping[Place, Any]) -> Score:
        for (_, kind), number in changes.items():
            if kind == HOT:
                knobs = self.score.knobs.changed(velocity_scale=0.9 + 0.01 * (number % 20))
                self.score = replace(self.score, knobs=knobs)
            elif kind == SLOT:
                self.score = replace(self.score, sampling=replace(self.score.sampling, seed=number))
            else:
                self.score = replace(self.score, condition=self._encoded(TAGS[number % len(TAGS)]))
        return self.score

    def _encoded(self, tags: str) -> Any:
        prompt = Prompt(tags, "[instrumental]", self._seconds, int(self.tempo.bpm), time_signature="4")
        return encode_prompt(self._model, prompt)


def live(engine: Engine, model: Model, case: Case, command: str = "") -> dict[str, Any]:
    """Measure a live session and return the figures as JSON data.

    Raises:
        InputError: for a case that a live session does not take.
        EngineError: where a change is never heard.
    """
    engine.ready()
    try:
        graph = Instrument(engine, model, case)
        with busy(case.busy):
            return {**origin(engine.device, command), **_measured(graph, case)}
    finally:
        engine.rest()


def _measured(graph: Instrument, case: Case) -> dict[str, Any]:
    numbers, rng = itertools.count(1), random.Random(0)
    times: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    with _playing(graph) as (session, control, player):
        first = _first_sound(session, player)
        time.sleep(case.settle)
        for kind in KINDS:  # the first of a kind is slower: kernels are chosen and captured in it
            _turned(control, player, kind, next(numbers))
        underruns = player.ring.underruns
        since = time.perf_counter()
        for kind in KINDS * case.changes:
            time.sleep(rng.uniform(*PAUSE))
            times[kind].append(_turned(control, player, kind, next(numbers)))
        seconds, figures = time.perf_counter() - since, session.figures()
    with _playing(graph) as (session, _, player_again):
        again = _first_sound(session, player_again)
    return {
        "engine": graph.score.engine.name,
        "case": asdict(case),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "first_sound_s": first,
        "first_sound_again_s": again,
        "underruns": player.ring.underruns - underruns,
        "lead_ms": player.ring.lead / 48.0,
        "decode_ms": 1e3 * figures.decode,
        "window_ms": 1e3 * figures.window,
        "tick_ms": figures.stats.ms_per_tick if figures.stats else None,
        "seconds": seconds,
        "ms": {kind: {stage: _spread([one[stage] for one in times[kind]]) for stage in STAGES} for kind in KINDS},
    }


def _first_sound(session: LiveSession, player: Player) -> float:
    """Start a session and return the seconds until its first sample is played."""
    began = time.perf_counter()
    session.start()
    while player.began is None:
        time.sleep(0.001)
    return player.began - began


def text(found: dict[str, Any]) -> str:
    """Describe the figures of a run."""
    lines = [
        f"{found['engine']}: {found['case']['seconds']:g} s, depth {found['case']['depth']}; a tick takes "
        f"{found['tick_ms']:.1f} ms, a window of {found['window_ms']:.0f} ms up to {found['decode_ms']:.1f} ms",
        f"first sound after {found['first_sound_s']:.2f} s, of a further session {found['first_sound_again_s']:.2f} s; "
        f"{found['underruns']} underruns in {found['seconds']:.0f} s",
    ]
    for kind, stages in found["ms"].items():
        told = ", ".join(f"{name} {ms['median']:.0f} ({ms['p95']:.0f})" for name, ms in stages.items())
        lines.append(f"{kind}, ms, median (95th percentile): {told}")
    return "\n".join(lines)


def _turned(control: Control, player: Player, kind: str, number: int) -> dict[str, float]:
    """Turn a widget; returns the milliseconds until each stage was passed."""
    answer, told = list[tuple[float, Taken]](), threading.Event()

    def tell(taken: Taken) -> None:
        answer.append((time.perf_counter(), taken))
        told.set()

    player.forget()
    begin = time.perf_counter()
    control.set(("", kind), number, player, tell)
    told.wait()
    ((evaluated, taken),) = answer
    if taken.error is not None:
        raise taken.error
    if taken.cost is Cost.RING:
        raise InputError(f"the change of a {kind} took another ring", "none does here", "report it")
    found = player.wait(taken.change, taken.cost is Cost.TICK)
    return dict(zip(STAGES, (1e3 * (when - begin) for when in (evaluated, *found)), strict=True))


def _spread(ms: list[float]) -> dict[str, float]:
    low, median, p95, high = (float(p) for p in np.percentile(ms, (0, 50, 95, 100)))
    return {"median": median, "p95": p95, "least": low, "most": high}


@contextmanager
def _playing(graph: Instrument) -> Iterator[tuple[LiveSession, Control, Player]]:
    session = LiveSession("bench live", graph.score)
    control = Control(session, graph)
    player = Player(session)
    player.start()
    try:
        yield session, control, player
    finally:
        player.close()
        control.close()
        session.close()
