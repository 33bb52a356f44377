"""A LoRA file, read and checked."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..engines.factors import Targets
from ..errors import ModelError
from ..models.names import Shape
from ..models.weights import opened
from .keys import Pair, Place, find
from .scaling import MAX_ALPHA, PEFT_FILE, Scaling, read_scaling


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
        path = Path(os.path.expanduser(source))
        path = path / PEFT_FILE if path.is_dir() else path
        file = opened(path)
        names = file.keys()
        pairs = find(names, targets, path.name)
        _check_shapes({name: tuple(file.get_slice(name).get_shape()) for name in names}, pairs, targets, path.name)
        tensors = {name: file.get_tensor(name) for name in names}  # only now: no layer has more numbers than the model
        _check_values(tensors, pairs, path.name)
        scaling = read_scaling(path, file.metadata() or {})
        made = {place: _scaled(pair, tensors, scaling) for place, pair in sorted(pairs.items())}
        name = path.parent.name if path.name == PEFT_FILE else path.stem
        return cls(name, _digest(made), targets, made, max(a.shape[0] for a, _, _ in made.values()))


def _check_shapes(shapes: Mapping[str, Shape], pairs: Mapping[Place, Pair], targets: Targets, source: str) -> None:
    wrong = []
    for (_, kind), pair in pairs.items():
        widths, a, b = targets.kinds[kind], pair.found["a"], pair.found["b"]
        rank = shapes[a][0] if len(shapes[a]) == 2 and 0 < shapes[a][0] <= max(widths) else 0
        for name, fits in ((a, (rank, widths[0])), (b, (widths[1], rank))):
            if shapes[name] != fits or not rank:
                wrong.append(f"{name} {list(shapes[name])} instead of {['rank' if n == rank else n for n in fits]}")
        if math.prod(shapes[pair.found.get("alpha", a)]) != 1 and "alpha" in pair.found:
            wrong.append(f"{pair.found['alpha']}, not one number")
    _refuse(wrong, "shape", source)


def _check_values(tensors: Mapping[str, Tensor], pairs: Mapping[Place, Pair], source: str) -> None:
    wrong = []
    for pair in pairs.values():
        for side, name in pair.found.items():
            tensor = tensors[name]
            if side == "alpha":
                if tensor.is_complex() or not abs(tensor.item()) <= MAX_ALPHA:
                    wrong.append(f"{name}, which is {tensor.item():g}, no number up to {MAX_ALPHA:g}")
            elif not tensor.is_floating_point() or tensor.itemsize < 2 or not bool(tensor.isfinite().all()):
                wrong.append(f"{name} with {tensor.dtype} values that are not all finite numbers")
    _refuse(wrong, "value", source)


def _refuse(wrong: list[str], what: str, source: str) -> None:
    if wrong:
        raise ModelError(
            f"{source} has {len(wrong)} tensors of the wrong {what} ({'; '.join(sorted(wrong)[:4])})",
            "both factors of a layer must fit its widths and each other, with a rank no larger than these",
            "choose a LoRA that was made for this model (2B and XL differ)",
        )


def _scaled(pair: Pair, tensors: Mapping[str, Tensor], scaling: Scaling) -> tuple[Tensor, Tensor, float]:
    a, b, rank = tensors[pair.found["a"]], tensors[pair.found["b"]], tensors[pair.found["a"]].shape[0]
    alpha = pair.found.get("alpha")
    return a, b, scaling.scale(pair.path, rank) if alpha is None else tensors[alpha].item() / rank


def _digest(pairs: Mapping[Place, tuple[Tensor, Tensor, float]]) -> str:
    digest = hashlib.sha256()
    for (layer, kind), (a, b, scale) in pairs.items():
        digest.update(f"{layer}:{kind}:{tuple(a.shape)}:{a.dtype}:{b.dtype}:{scale!r};".encode())
        for tensor in (a, b):
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
