"""Small models, exported once for all tests, and a child process that builds what was exported."""

from __future__ import annotations

import copy
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AceStepTransformer1DModel
from filelock import FileLock
from ostinato.engine_runtime.models.loading import Model
from ostinato.engine_runtime.trt.export.export import export
from ostinato.engine_runtime.trt.export.record import PRECISIONS, ExportOptions
from torch import Tensor

from .onnx_check import open_session, upcast

NEEDED = ("onnx", "onnxscript", "onnxruntime")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
if tuple(int(n) for n in torch.__version__.split(".")[:2]) <= (2, 6):
    MISSING.append("a PyTorch newer than 2.6, whose exporter takes none of these graphs,")
needs_exporter = pytest.mark.skipif(
    bool(MISSING), reason=f"{', '.join(MISSING)} not installed: pip install -e '.[rtx]'"
)
LACKING = [n for n in ("tensorrt_rtx", "polygraphy") if importlib.util.find_spec(n) is None] + MISSING
_needs_builder = pytest.mark.skipif(
    bool(LACKING), reason=f"real builds need {', '.join(LACKING)}: pip install -e '.[rtx]', on Linux x86_64 or Windows"
)


def builds(test: Any) -> Any:
    """A test of the tier `builds`, which needs the exporter and TensorRT-RTX."""
    return pytest.mark.builds(_needs_builder(test))


FP32 = ExportOptions("fp32")
# name -> kind and options. Together they hold every opset, precision and switch, and every pair of preset, precision
# and LoRA inputs.
GRAPHS = {
    "turbo": ("decoder", FP32),
    "base": ("decoder", FP32),
    "base_low": ("decoder", ExportOptions()),
    "adapters": ("decoder", replace(FP32, opset=20, lora=True)),
    "low": ("decoder", ExportOptions(lora=True)),
    "other": ("decoder", ExportOptions(opset=20)),
    "voice": ("vae_decoder", FP32),
    "ear": ("vae_encoder", FP32),
}
# The preset whose decoder is exported whole. `test_trt_build` exports turbo in bf16, from a model to an engine.
WHOLE = {"turbo": "turbo", "base": "base", "base_low": "base"}
PRESET = {**WHOLE, "adapters": "base", "low": "turbo"}
DECODERS = [name for name, (kind, _) in GRAPHS.items() if kind == "decoder"]

_BUILD = """
import json, sys
from pathlib import Path
from ostinato.engine_runtime.trt.build.builder import build
from ostinato.engine_runtime.engines.profiles import Profile, Span
from ostinato.engine_runtime.trt.files.spec import BuildSpec

for path, fixed in json.loads(sys.argv[1]):
    path = Path(path)
    record = json.loads(path.with_name(path.name + ".json").read_text())
    span = (lambda a, b, c: Span(b, b, b)) if fixed else Span
    tokens = span(1, 16, 64) if record["kind"] == "decoder" else None
    profile = Profile(span(1, 2, 4), span(2, 64, 128), tokens, span(1, 8, 32) if record["lora"] else None)
    spec = BuildSpec("probe", "tensorrt_rtx", (profile,), record["kind"], onnx=str(path),
                     precision=record["precision"], lora=bool(record["lora"]))
    made = build(path, record, spec)
    print("BUILT", json.dumps({"bytes": len(made.plan), "io": made.io, "flags": made.flags}), flush=True)
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


def built_by_rtx(graphs: Sequence[tuple[Path, bool]]) -> list[dict[str, Any]]:
    """Plans of graphs, each `(path, whether its shapes are fixed)`, built in one child: size, I/O and flags of each."""
    jobs = json.dumps([(str(path), fixed) for path, fixed in graphs])
    done = subprocess.run([sys.executable, "-c", _BUILD, jobs], capture_output=True, text=True, check=False)
    built = [json.loads(line.removeprefix("BUILT ")) for line in done.stdout.splitlines() if line.startswith("BUILT ")]
    assert len(built) == len(graphs), done.stderr[-3000:]
    return built


def concatenated(adapters: Sequence[tuple[float, dict[str, Tensor]]]) -> dict[str, Tensor]:
    """Graph inputs of several adapters: A and B side by side over the rank, strengths folded into B."""
    inputs = {}
    for name in adapters[0][1]:
        side = name.endswith("_b")
        parts = [factors[name] * (strength if side else 1.0) for strength, factors in adapters]
        inputs[name] = torch.cat(parts, dim=2 if side else 1)
    return inputs


class Graphs:
    """The graphs of `GRAPHS`, each exported when it is first asked for; other processes may share the folder."""

    def __init__(self, turbo: Model, base: Model, folder: Path) -> None:
        self.turbo, self.base, self.folder = turbo, base, folder
        self.known: dict[str, tuple[Path, Any]] = {}
        self.sessions: dict[str, tuple[Any, dict[str, Any], Any]] = {}

    def model(self, name: str) -> Any:
        if name == "other":
            return other_sizes().bfloat16()
        if GRAPHS[name][0] != "decoder":
            return self.turbo.pipe.vae
        transformer = getattr(self, PRESET[name]).pipe.transformer
        model = copy.deepcopy(transformer) if name in WHOLE else shortened(transformer)
        return model.eval().requires_grad_(False).to(PRECISIONS[GRAPHS[name][1].precision])

    def __call__(self, name: str) -> tuple[Path, Any]:
        """The graph's path and its model."""
        if name not in self.known:
            kind, options = GRAPHS[name]
            model, path = self.model(name), self.folder / f"{name}.onnx"
            with FileLock(self.folder / f"{name}.lock"):
                if not path.with_name(f"{path.name}.json").exists():  # which is written last
                    export(kind, model, self.folder, options, name)
            self.known[name] = path, model
        return self.known[name]

    def ready(self, name: str) -> tuple[Any, dict[str, Any], Any]:
        """An onnxruntime session in float32, the export record, and the model in float32."""
        if name not in self.sessions:
            path, model = self(name)
            record = read(path)
            if record["precision"] == "bf16":
                wide = Path(tempfile.mkdtemp(prefix="wide-", dir=self.folder))
                path, model = upcast(path, wide), copy.deepcopy(model).float()
            self.sessions[name] = open_session(path), record, model
        return self.sessions[name]


def read(path: Path) -> dict[str, Any]:
    """The record beside a graph."""
    return json.loads(path.with_name(f"{path.name}.json").read_text())


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)
