"""Measures how far an engine in 8 bits is from eager: with all products in them, and without those `choice` leaves out.

python -m ostinato.tools.narrow_errors int8 2b 2b-outliers > errors.json      # fp8 or int8, where that runs
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
from torch.nn.functional import cosine_similarity

from ..engine_runtime.bench.origin import origin
from ..engine_runtime.device.gpu import current
from ..engine_runtime.engines.compiled.choice import BUDGET, choose, none_of
from ..engine_runtime.engines.compiled.engine import CompiledEngine
from ..engine_runtime.engines.compiled.needs import operations
from ..engine_runtime.engines.compiled.plain import NARROW
from ..engine_runtime.engines.compiled.weights import Narrow
from ..engine_runtime.engines.eager import EagerEngine
from ..engine_runtime.engines.prove import fill
from ..engine_runtime.errors import check_choice
from ..engine_runtime.models.sized import sized_decoder

# rows, frames, tokens and seed of what is compared
DRAWS = ((1, 250, 64, 1), (1, 250, 64, 7), (1, 100, 32, 8), (2, 750, 128, 2), (4, 1500, 128, 3))


def differences(engine: CompiledEngine, eager: EagerEngine) -> list[dict[str, float]]:
    """Return the relative L2 and the cosine between the velocities of two engines, for each draw."""
    found = []
    for batch, frames, tokens, seed in DRAWS:
        with torch.inference_mode(False), torch.no_grad():
            theirs, ours = (one.rows(batch, frames, tokens) for one in (eager, engine))
            fill((theirs, ours), batch, frames, tokens, eager.width, eager.dtype, seed)
            got = engine(ours).clone().float()
            want = torch.cat([eager(theirs.part(i, i + 1)).float().clone() for i in range(batch)])
        relative = ((got - want).norm() / want.norm()).item()
        found.append({"relative": relative, "cosine": cosine_similarity(got.flatten(), want.flatten(), 0).item()})
    return found


def measure(kind: str, size: str) -> dict[str, Any]:
    model = sized_decoder(size, torch.bfloat16, current())
    ops, eager = operations(model, kind), EagerEngine(model, size)
    wide = CompiledEngine(model, size, ops=ops, narrow=none_of(len(model.layers), NARROW[kind]))
    wide.ready()
    began = time.perf_counter()
    chosen = choose(wide)
    seconds, made = time.perf_counter() - began, {f"none in {kind}": differences(wide, eager)}
    for name, choice in {f"all in {kind}": Narrow(NARROW[kind]), f"chosen, budget {BUDGET}": chosen}.items():
        engine = CompiledEngine(model, size, ops=ops, narrow=choice)
        engine.ready()
        made[name] = differences(engine, eager)
        engine.rest()
    return {**made, "kept wide": chosen.summary(), "seconds to choose": seconds}


if __name__ == "__main__":
    kind, *sizes = sys.argv[1:]
    check_choice("the kind of engine", kind, tuple(NARROW))
    command = f"python -m ostinato.tools.narrow_errors {' '.join(sys.argv[1:])}"
    figures: dict[str, Any] = {size: measure(kind, size) for size in sizes}
    found = {**origin(current(), command), "engine": kind, "draws": DRAWS, **figures}
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
