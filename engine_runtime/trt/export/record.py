"""The record of an exported graph: options, sizes of its inputs, recipe and hash of its weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from diffusers import AceStepTransformer1DModel, AutoencoderOobleck
from torch import Tensor, nn

from ...engines.factors import Targets
from ...errors import InputError, check_choice
from ...spec import ACE_STEP
from ..files.spec import KINDS
from .decoder import ISLANDS, MAX_FRAMES

SCHEMA = 1
GRAPH_VERSION = 1  # raise it when what is exported from the same weights changes
PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}
OPSETS = (20, 23)  # 23 has attention and RMS norm as operators
LARGEST = 2_000_000_000  # bytes of weights in one ONNX file: protobuf ends at 2**31
ATTENTION_SINCE = (10, 15)  # first TensorRT that parses all of opset 23; TensorRT-RTX always did

DType = dict[torch.dtype, str]
_NAMES: DType = {torch.bfloat16: "bfloat16", torch.float32: "float32", torch.bool: "bool"}
_PACKAGES = ("torch", "diffusers", "onnx", "onnxscript")
_OWN = ("_name_or_path", "_diffusers_version", "_class_name")  # config entries that do not describe the model


def opset_for(flavor: str, library: tuple[int, ...]) -> int:
    """Return the ONNX opset for a library: `flavor` is `tensorrt` or `tensorrt_rtx`, `library` its version."""
    return 20 if flavor == "tensorrt" and library < ATTENTION_SINCE else 23


@dataclass(frozen=True)
class ExportOptions:
    """The options of an export.

    Attributes:
        precision: `bf16` or `fp32`, which the model's weights already have; a VAE is fp32, because TensorRT builds no
            bf16 transposed convolution.
        opset: one of `OPSETS`, see `opset_for`.
        lora: the decoder takes low-rank factors as inputs.
        external: keep the weights in their own file; always so above 2 GB, which one ONNX file cannot hold.
    """

    precision: str = "bf16"
    opset: int = 23
    lora: bool = False
    external: bool = False

    def check(self, kind: str) -> None:
        """Raise `InputError` for options that do not exist, or not for this kind."""
        check_choice("the kind", kind, KINDS)
        check_choice("the precision", self.precision, tuple(PRECISIONS))
        if self.opset not in OPSETS:
            raise InputError(f"the opset is {self.opset}", f"allowed are {OPSETS}", "take the one of opset_for")
        if kind != "decoder" and (self.lora or self.precision != "fp32"):
            raise InputError(
                f"the {kind} is asked for in {self.precision}{' with adapters' if self.lora else ''}",
                "a VAE is exported in fp32, and takes none",
                "use fp32 without LoRA inputs",
            )


@dataclass(frozen=True)
class Port:
    """An input or output of a graph. A dimension is a size, a name such as `b`, or a multiple such as `2*t2`."""

    name: str
    dtype: torch.dtype
    dims: tuple[int | str, ...]

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": _NAMES[self.dtype], "dims": list(self.dims)}


def ports(kind: str, model: Any, options: ExportOptions) -> tuple[list[Port], list[Port]]:
    """Return the inputs and outputs of the exported graph."""
    spec, dtype = ACE_STEP, PRECISIONS[options.precision]
    frames = f"{spec.patch}*t2"
    latents = Port("latents", dtype, ("b", spec.channels, "t"))
    audio = Port("audio", dtype, ("b", spec.audio_channels, f"{spec.hop}*t"))
    if kind != "decoder":
        return ([latents], [audio]) if kind == "vae_decoder" else ([audio], [latents])
    inputs = [
        Port("hidden_states", dtype, ("b", frames, spec.channels)),
        Port("timestep", torch.float32, ("b",)),
        Port("encoder_hidden_states", dtype, ("b", "l", model.condition_embedder.in_features)),
        Port("encoder_attention_mask", torch.bool, ("b", "l")),
        Port("context_latents", dtype, ("b", frames, spec.context)),
    ]
    if options.lora:
        targets = Targets.of(model)
        for name, (width, out) in targets.kinds.items():
            inputs.append(Port(f"lora_{name}_a", dtype, (targets.layers, "r", width)))
            inputs.append(Port(f"lora_{name}_b", dtype, (targets.layers, out, "r")))
    return inputs, [Port("velocity", dtype, ("b", frames, spec.channels))]


def weights_of(kind: str, model: nn.Module) -> dict[str, Tensor]:
    """Return the weights that an engine of this kind contains, by the model's names."""
    prefix = {"decoder": "", "vae_decoder": "decoder.", "vae_encoder": "encoder."}[kind]
    return {name: tensor for name, tensor in model.state_dict().items() if name.startswith(prefix)}


def weights_digest(kind: str, model: AceStepTransformer1DModel | AutoencoderOobleck, precision: str) -> str:
    """Hash (sha256) the weights as an engine of this precision has them, independent of file and device.

    Waits for the model's device and reads all weights: about 2 s for the 2B decoder on the CPU.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(weights_of(kind, model).items()):
        digest.update(f"{name} {list(tensor.shape)} ".encode())
        host = tensor.detach().to(PRECISIONS[precision]).cpu().contiguous()
        digest.update(host.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def recipe(kind: str, options: ExportOptions) -> str:
    """Hash (sha256) everything but the weights that decides what an exported graph computes."""
    parts = {
        "graph": GRAPH_VERSION,
        "kind": kind,
        "precision": options.precision,
        "opset": options.opset,
        "lora": options.lora,
        "islands": islands(kind, options),
        "max_frames": MAX_FRAMES,
        "versions": versions(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def islands(kind: str, options: ExportOptions) -> list[str]:
    """List where a bf16 graph computes in float32; empty for a graph that is float32 throughout."""
    if kind != "decoder" or options.precision != "bf16":
        return []
    return [*ISLANDS, *(["softmax"] if options.opset < 23 else [])]


def versions() -> dict[str, str | None]:
    """Return the versions of the exporting packages; None for one that is not installed."""

    def of(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    return {package: of(package) for package in _PACKAGES}


def make_record(
    kind: str, model: Any, options: ExportOptions, names: dict[str, Any], made: dict[str, list[str]]
) -> dict[str, Any]:
    """Make the export record without the hashes of its files.

    Args:
        names: initializer -> `{"param", "transposed"}`: the weights that are in the graph unchanged.
        made: initializer -> weights, or whole parts of the model, that it was computed from.
    """
    inputs, outputs = ports(kind, model, options)
    return {
        "schema": SCHEMA,
        "kind": kind,
        "precision": options.precision,
        "opset": options.opset,
        "weights": weights_digest(kind, model, options.precision),
        "config": dict(_config(model)),
        "recipe": recipe(kind, options),
        "islands": islands(kind, options),
        "max_frames": MAX_FRAMES if kind == "decoder" else None,
        "versions": versions(),
        "inputs": [port.as_json() for port in inputs],
        "outputs": [port.as_json() for port in outputs],
        "names": names,
        "made": made,
        "lora": Targets.of(model).as_record() if options.lora else None,
    }


def _config(model: Any) -> Iterator[tuple[str, Any]]:
    for key, value in model.config.items():
        if key not in _OWN and isinstance(value, bool | int | float | str | list | tuple | None):
            yield key, value
