"""What tests of the benchmark share: a small case, and runs with other figures."""

from __future__ import annotations

import torch
from ostinato.engine_runtime.bench.case import Case

CPU = torch.device("cpu")
SMALL = Case(depth=2, steps=2, seconds=1.0, tokens=4)
MOMENT = 1e-3  # seconds that a product is timed for: no test is about how fast they are


def changed(run, ms=None, **changes):
    """A run with other figures in its only result."""
    one = {**run["results"][0], **changes}
    if ms is not None:
        one |= {"tick_ms": {**one["tick_ms"], "median": ms}, "rounds_ms": [0.99 * ms, 1.01 * ms]}
    return {**run, "results": [one]}


def write(folder, text):
    path = folder / "mine.json"
    path.write_text(text)
    return path
