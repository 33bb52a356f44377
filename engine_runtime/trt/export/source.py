"""Loads the weights of an engine: a model by name, or random ones at a real size, to measure with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderOobleck

from ...constants import RANDOM
from ...errors import InputError
from ...files import read_json
from ...models.loading import load
from ...models.sized import VAE, filled, sized_decoder
from ..files.folder import write_whole
from ..files.sidecar import MAX_BYTES
from ..files.spec import BuildSpec
from ..library import preflight
from .export import export
from .record import PRECISIONS, ExportOptions, opset_for, weights_of

LOADED = 0.15  # share of an export spent on loading, at 2B size on two cores
Say = Callable[[float, str], None]


def export_spec(spec: BuildSpec, folder: Path, library: str, say: Say) -> Path:
    """Export the model that a spec names and return the graph's path. The record also says whether the weights are
    random.

    Args:
        spec: with a model or a size.
        folder: for the graph.
        library: version of the library that will build it, which decides the operators.
        say: called with the share done and what is being done.

    Raises:
        InputError, ModelError: for a model that cannot be loaded.
        EngineBuildError: when it cannot be exported, or disk or memory are too small.
    """
    say(0.0, f"loading {spec.model or spec.size}")
    model = part_of(spec)
    weights = sum(tensor.nbytes for tensor in weights_of(spec.kind, model).values())
    preflight.check_room(folder, preflight.export_room(weights, len(spec.profiles)), "the graph and the engine")
    preflight.check_memory(preflight.build_memory(weights, len(spec.profiles)) - weights)
    numbers = tuple(int(n) for n in library.split(".")[:2] if n.isdigit())
    options = ExportOptions(spec.precision, opset_for(spec.flavor, numbers), spec.lora)
    onnx = export(
        spec.kind, model, folder, options, spec.name, lambda what, share: say(LOADED + share * (1 - LOADED), what)
    )
    path = onnx.with_name(f"{onnx.name}.json")
    record = read_json(path, MAX_BYTES)
    record["random_weights"] = bool(spec.size) or spec.model in RANDOM
    write_whole(path, json.dumps(record, indent=1).encode())
    return onnx


def part_of(spec: BuildSpec) -> Any:
    """Load the decoder or the VAE that a spec names, in its precision, on the CPU. Raises as `load`."""
    if spec.size is not None:
        return random_part(spec.kind, spec.precision)
    if spec.model is None:
        raise InputError(
            "the engine was built from an exported graph", "a check needs its model",
            "run ostinato doctor --engine FILE --model MODEL",
        )  # fmt: skip
    pipe = load(spec.model, torch.device("cpu"), PRECISIONS[spec.precision], given=spec.given).pipe
    return (pipe.transformer if spec.kind == "decoder" else pipe.vae).eval().requires_grad_(False)


def random_part(kind: str, precision: str, seed: int = 0) -> Any:
    """Make a decoder or VAE of ACE-Step 1.5's 2B size with random weights, on the CPU."""
    if kind == "decoder":
        return sized_decoder("2b", PRECISIONS[precision], torch.device("cpu"), seed)
    with torch.device("meta"):
        made = AutoencoderOobleck(**VAE)
    return filled(made.to(PRECISIONS[precision]).to_empty(device="cpu"), seed)
