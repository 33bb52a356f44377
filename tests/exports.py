"""Small models to export, and a child process that builds what was exported."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AceStepTransformer1DModel
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]

_BUILD = """
import json, sys
from pathlib import Path
from ostinato.engine_runtime.trt.build import build
from ostinato.engine_runtime.trt.profiles import Profile, Span
from ostinato.engine_runtime.trt.spec import BuildSpec

built = {}
for path, fixed in json.loads(sys.argv[1]):
    path = Path(path)
    record = json.loads(path.with_name(path.name + ".json").read_text())
    span = (lambda a, b, c: Span(b, b, b)) if fixed else Span
    tokens = span(1, 16, 64) if record["kind"] == "decoder" else None
    profile = Profile(span(1, 2, 4), span(2, 64, 128), tokens, span(1, 8, 32) if record["lora"] else None)
    spec = BuildSpec("probe", "tensorrt_rtx", (profile,), record["kind"], onnx=str(path),
                     precision=record["precision"], lora=bool(record["lora"]))
    made = build(path, record, spec)
    built[path.name] = {"bytes": len(made.plan), "io": made.io}
print("BUILT", json.dumps(built))
"""


def shortened(transformer: AceStepTransformer1DModel) -> AceStepTransformer1DModel:
    """A copy with its first two layers only, which is one of each kind: exporting takes seconds a layer."""
    model = copy.deepcopy(transformer).eval().requires_grad_(False)
    del model.layers[2:]
    del model.layer_types[2:]
    return model


def other_sizes() -> AceStepTransformer1DModel:
    """A decoder unlike the presets: biases, no shared K and V heads, a condition narrower than the model."""
    torch.manual_seed(0)
    model = AceStepTransformer1DModel(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        head_dim=32, sliding_window=4, attention_bias=True, encoder_hidden_size=48,
    )  # fmt: skip
    return model.eval().requires_grad_(False)


def built_by_rtx(graphs: Sequence[tuple[Path, bool]]) -> dict[str, Any]:
    """Plans of graphs, each `(path, whether its shapes are fixed)`, built in one child: size and I/O of each."""
    jobs = json.dumps([(str(path), fixed) for path, fixed in graphs])
    done = subprocess.run([sys.executable, "-c", _BUILD, jobs], capture_output=True, text=True, check=False)
    line = next((line for line in done.stdout.splitlines() if line.startswith("BUILT ")), None)
    assert line is not None, done.stderr[-3000:]
    return json.loads(line.removeprefix("BUILT "))


def concatenated(adapters: Sequence[tuple[float, dict[str, Tensor]]]) -> dict[str, Tensor]:
    """Graph inputs of several adapters: A and B side by side over the rank, strengths folded into B."""
    inputs = {}
    for name in adapters[0][1]:
        side = name.endswith("_b")
        parts = [factors[name] * (strength if side else 1.0) for strength, factors in adapters]
        inputs[name] = torch.cat(parts, dim=2 if side else 1)
    return inputs
