"""Compares an exported graph with eager PyTorch, on the CPU with onnxruntime.

onnxruntime has no bfloat16 operators on the CPU, so a bf16 graph is checked upcast: the same graph and the same rounded
weights in float32. That checks its structure and weights, but not the error that bf16 rounding adds.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AceStepTransformer1DModel, AutoencoderOobleck
from ostinato.engine_runtime.engines.decoder import MaskedDecoder
from ostinato.engine_runtime.engines.factors import PLACES
from ostinato.engine_runtime.errors import EngineBuildError
from ostinato.engine_runtime.files import read_json
from ostinato.engine_runtime.trt.export.record import LARGEST
from ostinato.engine_runtime.trt.files.sidecar import MAX_BYTES
from torch import Tensor

BOUND = 1e-4  # largest difference that passes; with normal inputs values are about 5 at most
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "bool": torch.bool}


@dataclass(frozen=True)
class Case:
    """The sizes of one comparison: rows, frames, condition tokens, adapter rank (where a graph has them)."""

    batch: int
    frames: int
    tokens: int = 1
    rank: int = 1


CASES = (Case(1, 2), Case(2, 62, 7, 8), Case(3, 100, 33, 3))


def check_export(
    path: Path,
    model: AceStepTransformer1DModel | AutoencoderOobleck,
    cases: Sequence[Case] = CASES,
    bound: float = BOUND,
    seed: int = 0,
) -> list[float]:
    """Compare a graph with the model it was exported from.

    Conditions have a random length in every row, the rest masked; adapters are compared with merged weights.

    Returns:
        The largest difference in each case.

    Raises:
        EngineBuildError: when one is above the bound, or not finite.
    """
    record = read_json(path.with_name(f"{path.name}.json"), MAX_BYTES)
    generator = torch.Generator().manual_seed(seed)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(upcast(path, Path(folder)) if record["precision"] == "bf16" else path)
        wide = copy.deepcopy(model).float() if record["precision"] == "bf16" else model
        for case in cases:
            feeds = random_inputs(record["inputs"], case, generator)
            difference = (run(session, feeds) - eager(record["kind"], wide, feeds)).abs().max().item()
            if not difference <= bound:  # also where it is NaN
                raise EngineBuildError(
                    f"the exported {record['kind']} differs from eager by {difference:.2g} at {case}",
                    f"allowed is {bound:g}",
                    "use the versions of torch, onnx and onnxscript that docs/tensorrt.md names",
                )
            found.append(difference)
    return found


def open_session(path: Path) -> Any:
    """Open an onnxruntime session on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(session: Any, feeds: Mapping[str, Tensor]) -> Tensor:
    """Run the graph and return its only output."""
    (out,) = session.run(None, {name: tensor.numpy() for name, tensor in feeds.items()})
    return torch.from_numpy(out)


def random_inputs(inputs: Sequence[Mapping[str, Any]], case: Case, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw the inputs of an export record in float32, rounded to its dtypes.

    Values are normal, times in [0, 1], and factors scaled so that an adapter changes a layer about as much as the layer
    does.
    """
    sizes = {"b": case.batch, "t2": case.frames // 2, "t": case.frames, "l": case.tokens, "r": case.rank}
    made: dict[str, Tensor] = {}
    for port in inputs:
        dims = [dim if isinstance(dim, int) else _size(dim, sizes) for dim in port["dims"]]
        if port["dtype"] == "bool":
            own = torch.randint(1, case.tokens + 1, (case.batch, 1), generator=generator)
            made[port["name"]] = torch.arange(case.tokens) < own
            continue
        draw = torch.rand if port["name"] == "timestep" else torch.randn
        value = draw(dims, generator=generator)
        if port["name"].startswith("lora_"):
            value /= dims[2] ** 0.5  # the width that the factor's product sums over
        elif port["name"] == "audio":
            value *= 0.1
        made[port["name"]] = value.to(_DTYPES[port["dtype"]]).float()
    return made


def _size(dim: str, sizes: Mapping[str, int]) -> int:
    factor, _, name = dim.rpartition("*")
    return int(factor or 1) * sizes[name]


def eager(kind: str, model: Any, feeds: Mapping[str, Tensor]) -> Tensor:
    """Run the model itself, with any low-rank factors merged into its weights for the call."""
    with torch.no_grad():
        if kind == "vae_decoder":
            return model.decode(feeds["latents"]).sample
        if kind == "vae_encoder":
            return model.encode(feeds["audio"]).latent_dist.mean
        factors = {name: tensor for name, tensor in feeds.items() if name.startswith("lora_")}
        inputs = {name: tensor for name, tensor in feeds.items() if name not in factors}
        kept = _merge(model, factors)
        try:
            return MaskedDecoder(model)(**inputs)
        finally:
            for weight, value in kept:
                weight.copy_(value)


def _merge(model: Any, factors: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Add B A to each weight that has factors; returns the weights with their old values."""
    kept = []
    for kind, place in PLACES.items() if factors else ():
        for layer, a, b in zip(model.layers, factors[f"lora_{kind}_a"], factors[f"lora_{kind}_b"], strict=True):
            weight = layer.get_submodule(place).weight
            kept.append((weight, weight.clone()))
            weight += b @ a
    return kept


def upcast(path: Path, folder: Path) -> Path:
    """Write the float32 form of a bf16 graph: only bf16 weights, constants, casts and values change.

    Args:
        folder: for the result, another than the graph's own; it takes 6.3 GB at 2B size.
    """
    import onnx_ir as ir

    model = ir.load(path)
    low, high = ir.DataType.BFLOAT16, ir.DataType.FLOAT
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    for node in model.graph:
        values += node.outputs
        if node.op_type == "Cast" and node.attributes["to"].as_int() == low:
            node.attributes["to"] = ir.AttrInt64("to", high)
        if node.op_type == "Constant" and (tensor := node.attributes.get("value")) and tensor.value.dtype == low:
            node.attributes["value"] = ir.AttrTensor("value", _wide(tensor.value))
    for value in values:
        if value.const_value is not None and value.const_value.dtype == low:
            value.const_value = _wide(value.const_value)
        if value.dtype == low:
            value.dtype = high
    target = folder / path.name
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    ir.save(model, target, external_data=f"{path.name}.data" if size > LARGEST else None)
    return target


def _wide(tensor: Any) -> Any:
    import numpy as np
    import onnx_ir as ir

    return ir.tensor(tensor.numpy().astype(np.float32), name=tensor.name)
