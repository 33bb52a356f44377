"""A LoRA file, read and checked."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError
from ..models.weights import opened
from .factors import Targets
from .keys import Pair, Place, find

PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
DIFFUSERS_METADATA = "lora_adapter_metadata"  # diffusers' entry in the header of the files it saves


@dataclass(frozen=True, eq=False)
class Adapter:
    """Low-rank factors of some of a decoder's layers, on the host, in the file's precision.

    Attributes:
        name: for people.
        digest: sha256 of what was read of the file, and of what scales it.
        pairs: by layer and kind: A `[rank, in]`, B `[out, rank]`, and the scale alpha / rank.
        rank: the largest of its layers.
    """

    name: str
    digest: str
    targets: Targets
    pairs: Mapping[Place, tuple[Tensor, Tensor, float]]
    rank: int

    @classmethod
    def read(cls, source: Path | str, targets: Targets) -> Adapter:
        """Read a `.safetensors` file, or the folder that PEFT writes.

        Alpha is the layer's `alpha` tensor; without one it is what the file's own metadata (diffusers) or the
        `adapter_config.json` beside an `adapter_model.safetensors` (PEFT) says; without these the scale is 1.

        Raises:
            ModelError: for a file that is not one, for another kind of adapter, and for tensors that fit no layer
                or are not of its shape, by name.
        """
        path = Path(source).expanduser()
        path = path / PEFT_FILE if path.is_dir() else path
        file = opened(path)
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        pairs, config = find(tensors, targets, path.name), _config(path, file.metadata() or {})
        _check_shapes(tensors, pairs, targets, path.name)
        made = {place: _scaled(pair, tensors, config, path.name) for place, pair in sorted(pairs.items())}
        name = path.parent.name if path.name == PEFT_FILE else path.stem
        return cls(name, _digest(made), targets, made, max(a.shape[0] for a, _, _ in made.values()))


def _check_shapes(tensors: Mapping[str, Tensor], pairs: Mapping[Place, Pair], targets: Targets, source: str) -> None:
    wrong = []
    for (_, kind), pair in pairs.items():
        a, b = tensors[pair.found["a"]], tensors[pair.found["b"]]
        width_in, width_out = targets.kinds[kind]
        rank = a.shape[0] if a.ndim == 2 else 0
        for tensor, name, shape in ((a, pair.found["a"], (rank, width_in)), (b, pair.found["b"], (width_out, rank))):
            if tuple(tensor.shape) != shape or not rank:
                wrong.append(f"{name} {list(tensor.shape)} instead of {['rank' if s == rank else s for s in shape]}")
            elif not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
                wrong.append(f"{name} with {tensor.dtype} values that are not all finite numbers")
        alpha = pair.found.get("alpha")
        if alpha is not None and (tensors[alpha].numel() != 1 or not math.isfinite(tensors[alpha].item())):
            wrong.append(f"{alpha}, not one finite number")
    if wrong:
        raise ModelError(
            f"{source} has {len(wrong)} tensors of the wrong shape or value ({'; '.join(sorted(wrong)[:4])})",
            "both factors of a layer must fit its widths and each other",
            "choose a LoRA that was made for this model (2B and XL differ)",
        )


def _scaled(
    pair: Pair, tensors: Mapping[str, Tensor], config: Mapping[str, Any], source: str
) -> tuple[Tensor, Tensor, float]:
    a, b = tensors[pair.found["a"]], tensors[pair.found["b"]]
    rank = a.shape[0]
    if "alpha" in pair.found:
        return a, b, tensors[pair.found["alpha"]].item() / rank
    alpha = _pattern(config.get("alpha_pattern"), pair.path, config.get("lora_alpha", rank))
    if not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise ModelError(
            f"{source} is said to have an alpha of {alpha!r}", "alpha is a number", "correct its metadata or config"
        )
    return a, b, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _pattern(patterns: Any, path: str, default: Any) -> Any:
    """PEFT's rule: a pattern is a regular expression for the end of a layer's name."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", path):
            return value
    return default


def _config(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """What PEFT wrote of an adapter, beside the file or in its header; nothing where there is neither."""
    try:
        if DIFFUSERS_METADATA in metadata:
            found = json.loads(metadata[DIFFUSERS_METADATA])
            config = {key.removeprefix("transformer."): value for key, value in found.items()}
        else:
            beside = path.with_name(PEFT_CONFIG)
            own = path.name == PEFT_FILE and beside.is_file()
            config = json.loads(beside.read_text(encoding="utf-8")) if own else {}
        if not isinstance(config, dict):
            raise ValueError("not an object")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(
            f"what is written of {path.name} could not be read: {error}",
            f"{PEFT_CONFIG} and the entry {DIFFUSERS_METADATA} are JSON objects",
            "fetch the adapter again, whole",
        ) from error
    if config.get("use_dora"):
        raise ModelError(
            f"{path.name} is a DoRA by its config", "only plain LoRA can be played as it is", "choose a LoRA"
        )
    return config


def _digest(pairs: Mapping[Place, tuple[Tensor, Tensor, float]]) -> str:
    digest = hashlib.sha256()
    for (layer, kind), (a, b, scale) in pairs.items():
        digest.update(f"{layer}:{kind}:{tuple(a.shape)}:{a.dtype}:{b.dtype}:{scale!r};".encode())
        for tensor in (a, b):
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
