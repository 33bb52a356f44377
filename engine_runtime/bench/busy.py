"""Measures what other work on the processors costs: ticks and decodes beside processes that compute without a pause."""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ..audio.decode import Vae, decode
from ..device.workers import Workers, in_turn
from ..engines.contract import Engine
from ..errors import InputError, check_whole
from .case import Case
from .origin import origin
from .play import steady

ALONE, TEAM = WAYS = ("alone", "team")
ROUNDS = 2
WINDOW = 50  # frames of the decode's windows

# It ends with the one that started it, however that ends.
SPIN = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
while True:
    pass
"""


@contextmanager
def busy(count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Keep so many processes busy for the length of a block; yields them."""
    check_whole("the busy processes", count, 0, 1024, "as many as processors are a fully loaded machine")
    started = [subprocess.Popen([sys.executable, "-c", SPIN], stdin=subprocess.PIPE) for _ in range(count)]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def share(engine: Engine, vae: Vae, case: Case, count: int, ticks: int, command: str = "") -> dict[str, Any]:
    """Time ticks, and a decode in windows, on a quiet and on a busy machine: alone (`device.workers`) and in a team.

    The four take turns, `ROUNDS` times. The fair share is what the system's scheduler would give as many threads as
    work at a time: with N busy processes, w of these threads and c processors, a quiet time grows by (N + w) / c.

    Args:
        count: busy processes.
        ticks: timed in each round.

    Raises:
        InputError: for an engine on another device than the CPU, or no busy process.
    """
    if engine.device.type != "cpu":
        raise InputError(f"the engine is on {engine.device}", "this is about the CPU", "use --device cpu")
    check_whole("the busy processes", count, 1, 1024, "as many as processors are a fully loaded machine")
    whole, frames = case.whole(ticks), case.frames
    latents = torch.randn(1, frames, engine.spec.channels, generator=torch.Generator().manual_seed(0))
    times: dict[str, dict[str, list[float]]] = {}
    loads = [os.getloadavg()]
    with steady(engine, case, 4 * ROUNDS * whole) as played:
        for _, beside, way in itertools.product(range(ROUNDS), (0, count), WAYS):
            with busy(beside), in_turn() if way == TEAM else nullcontext():
                ms = {"tick": played.run(whole).ms, "decode": [_decoded(vae, latents)]}
            for what, found in ms.items():
                times.setdefault(what, {}).setdefault(f"{way}, {'busy' if beside else 'quiet'}", []).extend(found)
            loads.append(os.getloadavg())
    rows = {"tick": case.slots * (2 if case.row_mode == "full" else 1), "decode": -(-frames // WINDOW)}
    processors, together = len(os.sched_getaffinity(0)), Workers().count
    fair = {what: max(1.0, (count + min(n, together)) / processors) for what, n in rows.items()}
    medians = {what: {name: statistics.median(ms) for name, ms in found.items()} for what, found in times.items()}
    over = {what: ms[f"{ALONE}, busy"] / (ms[f"{ALONE}, quiet"] * fair[what]) for what, ms in medians.items()}
    return {
        **origin(engine.device, command),
        "engine": engine.name,
        "case": case.as_json(),
        "busy": count,
        "processors": processors,
        "threads": together,
        "load": [load[0] for load in loads],
        "ms": medians,
        "fair": fair,
        "over_fair": over,
        "quiet_ratio": {what: ms[f"{ALONE}, quiet"] / ms[f"{TEAM}, quiet"] for what, ms in medians.items()},
    }


def text(found: dict[str, Any]) -> str:
    """Describe the figures of `share`."""
    lines = [f"{found['busy']} busy processes on {found['processors']} processors, load {found['load'][0]:.1f} before"]
    for what, ms in found["ms"].items():
        lines.append(f"{what}, ms: " + "; ".join(f"{name} {value:.0f}" for name, value in ms.items()))
        over, quiet = found["over_fair"][what], found["quiet_ratio"][what]
        lines.append(f"  alone: {over:.2f} of the fair share's time when busy, {quiet:.2f} of a team's when quiet")
    return "\n".join(lines)


def _decoded(vae: Vae, latents: Tensor) -> float:
    begin = time.perf_counter()
    decode(vae, latents, WINDOW)
    return 1e3 * (time.perf_counter() - begin)
