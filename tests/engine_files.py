"""Engines for tests: made-up files that are whole and trusted."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ostinato.engine_runtime.engines.profiles import Profile, Span
from ostinato.engine_runtime.trt.files.sidecar import Expect, Sidecar, rewritten, sidecar_path
from ostinato.engine_runtime.trt.files.spec import BuildSpec
from ostinato.engine_runtime.trt.files.trust import Trust

WEIGHTS, RECIPE, LIBRARY = "a" * 64, "b" * 64, "1.7.1.116"
ADA = Expect("tensorrt_rtx", LIBRARY, (8, 9), "A GPU", "decoder", WEIGHTS, RECIPE)
CAPABILITIES = [[8, 0], [8, 6], [8, 9], [12, 0]]


def made_up(name: str = "one", seed: int = 0, **changes: Any) -> tuple[bytes, Sidecar]:
    """A plan of random bytes and a sidecar that fits it and `ADA`."""
    plan = b"vtrt" + np.random.default_rng(seed).bytes(5000 + seed)
    profile = Profile(Span(1, 4, 16), Span(50, 250, 1500), Span(16, 128, 512))
    ports = [{"name": "hidden_states", "dtype": "bfloat16", "dims": ["b", "2*t2", 64]}]
    record = {"kind": "decoder", "precision": "bf16", "onnx_sha256": "c" * 64, "data_sha256": None}
    record |= {"weights": WEIGHTS, "recipe": RECIPE, "inputs": ports, "outputs": ports, "lora": None}
    sidecar = Sidecar(
        flavor="tensorrt_rtx",
        library=LIBRARY,
        bindings=LIBRARY,
        plan_sha256=hashlib.sha256(plan).hexdigest(),
        plan_bytes=len(plan),
        export=record,
        profiles=(profile,),
        refittable=False,
        target={"compute_capabilities": CAPABILITIES},
        flags={"tf32": False},
        io=({"name": "hidden_states", "mode": "input", "dtype": "bfloat16"},),
        spec=BuildSpec(name, "tensorrt_rtx", (profile,), model="random"),
        random_weights=True,
        built="2026-01-02T03:04:05+00:00",
        seconds=1.5,
    )
    return plan, replace(sidecar, **changes)


def put(folder: Path, plan: bytes, sidecar: Sidecar, trust: Trust | None = None) -> Path:
    """Write an engine, and trust it where `trust` is given; the plan's path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{sidecar.spec.name}.plan"
    path.write_bytes(plan)
    sidecar_path(path).write_bytes(rewritten(sidecar))
    if trust is not None:
        trust.record(sidecar)
    return path
