"""A LoRA file, read and checked."""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..engines.factors import Targets
from ..errors import ModelError, plain
from ..models.names import Shape
from ..models.weights import opened
from .keys import Pair, Place, find, without_alpha
from .scaling import MAX_ALPHA, PEFT_CONFIG, PEFT_FILE, Scaling, read_scaling

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Adapter:
    """Factors of some of a decoder's layers, on the host, low-rank ones in the file's precision.

    Attributes:
        name: for people.
        digest: sha256 of what was read of the file, and of what scales it.
        pairs: by layer and kind: A `[rank, in]`, B `[out, rank]`, and the scale alpha / rank.
        krons: of a LoKr, by layer and kind: W1 `[p, q]`, W2 `[out / p, in / q]`, float32, and the scale; they stand for
            their Kronecker product (LyCORIS, arXiv 2309.14859).
        rank: the largest of its layers' pairs; 0 with none.
        note: what its user should know; empty where all is as it should be.
    """

    name: str
    digest: str
    targets: Targets
    pairs: Mapping[Place, tuple[Tensor, Tensor, float]]
    rank: int
    note: str = ""
    krons: Mapping[Place, tuple[Tensor, Tensor, float]] = field(default_factory=dict)

    @classmethod
    def read(cls, source: Path | str, targets: Targets) -> Adapter:
        """Read a `.safetensors` file, or the folder that PEFT writes.

        Alpha is the layer's `alpha` tensor; without one it is what the file's own metadata (diffusers) or the
        `adapter_config.json` beside it (PEFT) says; without these the scale is 1, and `note` says so. Factors in
        float8 become bfloat16, which holds them exactly.

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
        # Only now: no layer has more numbers than the model.
        tensors = {name: _widened(file.get_tensor(name)) for name in names}
        _check_values(tensors, pairs, path.name)
        scaling = _scaling(path, file)
        in_order = sorted(pairs.items())
        made = {place: _scaled(pair, tensors, scaling) for place, pair in in_order if not pair.is_kron}
        krons = {place: _kron(pair, tensors, scaling) for place, pair in in_order if pair.is_kron}
        name = path.parent.name if path.name == PEFT_FILE else path.stem
        if note := note_of(path):
            log.warning("%s", note)
        rank = max((a.shape[0] for a, _, _ in made.values()), default=0)
        return cls(name, _digest(made | krons), targets, made, rank, note, krons)


def _check_shapes(shapes: Mapping[str, Shape], pairs: Mapping[Place, Pair], targets: Targets, source: str) -> None:
    wrong = []
    for (_, kind), pair in pairs.items():
        if "alpha" in pair.found and math.prod(shapes[pair.found["alpha"]]) != 1:
            wrong.append(f"{pair.found['alpha']}, not one number")
        if pair.is_kron:
            wrong += _misfits({side: shapes[name] for side, name in pair.found.items()}, pair, targets.kinds[kind])
            continue
        widths, a, b = targets.kinds[kind], pair.found["a"], pair.found["b"]
        rank = shapes[a][0] if len(shapes[a]) == 2 and 0 < shapes[a][0] <= max(widths) else 0
        for name, fits in ((a, (rank, widths[0])), (b, (widths[1], rank))):
            if shapes[name] != fits or not rank:
                wrong.append(f"{name} {list(shapes[name])} instead of {['rank' if n == rank else n for n in fits]}")
    _refuse(wrong, "shape", source)


def _misfits(shapes: Mapping[str, Shape], pair: Pair, widths: tuple[int, int]) -> list[str]:
    """Name the matrices of a LoKr whose Kronecker product is not a layer's `[out, in]`."""
    sizes = []
    for side in ("w1", "w2"):
        parts = [shapes[s] for s in (side, f"{side}_a", f"{side}_b") if s in shapes]
        if any(len(shape) != 2 or 0 in shape for shape in parts):
            return [f"{pair.path}: {', '.join(map(str, map(list, parts)))} are no matrices"]
        rows, columns, inner = parts[0][0], parts[-1][1], {parts[0][1], parts[-1][0]}
        if len(parts) == 2 and (len(inner) > 1 or max(inner) > max(widths)):
            return [f"{pair.path}: {list(parts[0])} times {list(parts[1])}"]
        sizes.append((rows, columns))
    (p, q), (m, n) = sizes
    fits = (q * n, p * m) == widths
    return [] if fits else [f"{pair.path}: {[p, q]} and {[m, n]} make {[p * m, q * n]} instead of {[*widths[::-1]]}"]


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
            "the factors of a layer must fit its widths and each other, with a rank no larger than these",
            "choose a LoRA that was made for this model (2B and XL differ)",
        )


def _widened(tensor: Tensor) -> Tensor:
    return tensor.to(torch.bfloat16) if tensor.dtype in (torch.float8_e4m3fn, torch.float8_e5m2) else tensor


def note_of(path: Path) -> str:
    """Tell where a file's alpha was not found: it plays, perhaps at another strength than it was trained for.

    Raises:
        ModelError: for a file that is not one, and for a config that cannot be used. Reads no tensor.
    """
    file = opened(path)
    if not without_alpha(file.keys()) or _scaling(path, file).told:
        return ""
    return (
        f"{plain(path.name)}: no alpha was found in the file or in an {PEFT_CONFIG} of its own beside it, so that it "
        "plays at alpha = rank; where it is too strong or too weak, change its strength."
    )


def _scaling(path: Path, file: Any) -> Scaling:
    shapes = [file.get_slice(name).get_shape() for name in file.keys()]
    return read_scaling(path, file.metadata() or {}, {min(shape) for shape in shapes if len(shape) == 2})


def _scaled(pair: Pair, tensors: Mapping[str, Tensor], scaling: Scaling) -> tuple[Tensor, Tensor, float]:
    a, b, rank = tensors[pair.found["a"]], tensors[pair.found["b"]], tensors[pair.found["a"]].shape[0]
    alpha = pair.found.get("alpha")
    return a, b, scaling.scale(pair.path, rank) if alpha is None else tensors[alpha].item() / rank


def _kron(pair: Pair, tensors: Mapping[str, Tensor], scaling: Scaling) -> tuple[Tensor, Tensor, float]:
    """Multiply out the two matrices of a LoKr, and find its scale by LyCORIS's rule: alpha over the rank of what is
    factored, and 1 where neither is; PEFT's config scales either.
    """
    found = {side: tensors[name] for side, name in pair.found.items()}
    w1, w2 = (
        found[s].float() if s in found else found[f"{s}_a"].float() @ found[f"{s}_b"].float() for s in ("w1", "w2")
    )
    rank = next((found[side].shape[0] for side in ("w2_b", "w1_b") if side in found), None)
    if "alpha" not in found:
        return w1, w2, scaling.scale(pair.path, rank)
    return w1, w2, found["alpha"].item() / rank if rank else 1.0


def _digest(pairs: Mapping[Place, tuple[Tensor, Tensor, float]]) -> str:
    digest = hashlib.sha256()
    for (layer, kind), (a, b, scale) in pairs.items():
        digest.update(f"{layer}:{kind}:{tuple(a.shape)}:{a.dtype}:{b.dtype}:{scale!r};".encode())
        for tensor in (a, b):
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
