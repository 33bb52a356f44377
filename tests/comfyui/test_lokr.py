"""ComfyUI's own LoKr loader and ours change the same weights by the same numbers."""

import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest
import torch
from ostinato.engine_runtime.engines.factors import Targets
from ostinato.engine_runtime.lora.adapter import Adapter
from ostinato.engine_runtime.lora.stack import merged
from safetensors.torch import load_file, save_file

from ..adapters import THEIRS, lokr_of
from . import inside
from .server import Install

PACK = Path(__file__).resolve().parents[2]
RANKS = [(None, None), (2, None), (None, 3), (2, 3)]
ALPHAS = [None, 6.0]
SCRIPT = """
from safetensors.torch import load_file, save_file
from comfy.weight_adapter.lokr import LoKrAdapter
given, count = json.loads(ARGUMENTS), 0
for file in given["files"]:
    tensors, made = load_file(file), {}
    for path, (rows, columns) in given["shapes"].items():
        alpha = tensors[path + ".alpha"].item() if path + ".alpha" in tensors else None
        adapter = LoKrAdapter.load(path, tensors, alpha, None)
        weight = torch.zeros(rows, columns)
        made[path] = adapter.calculate_weight(weight, path, 0.7, 1.0, None, lambda change: change)
    save_file(made, file + ".out")
    count += len(made)
print(json.dumps(count))
"""


@dataclass
class Theirs:
    """What ComfyUI made of each file.

    Attributes:
        targets: of the decoder.
        folder: where `{rank}_{rank}_{alpha}` is, and what was made of it beside it under `.out`.
        places: the parameter by the name that the files have for it.
        shapes: of those parameters.
    """

    targets: Targets
    folder: Path
    places: dict[str, str]
    shapes: dict[str, list[int]]


@pytest.fixture(scope="module")
def theirs(install: Install, turbo, tmp_path_factory: pytest.TempPathFactory) -> Theirs:
    folder, transformer = tmp_path_factory.mktemp("lokr"), turbo.pipe.transformer
    targets = Targets.of(transformer)
    files = [folder / name_of(ranks, alpha) for ranks in RANKS for alpha in ALPHAS]
    for path, (ranks, alpha) in zip(files, product(RANKS, ALPHAS), strict=True):
        save_file(lokr_of(targets, ranks=ranks, alpha=alpha), path)
    places = {
        f"lycoris_layers_{layer}_{place.replace('.', '_')}": targets.parameter(layer, kind)
        for layer in range(targets.layers)
        for kind, place in THEIRS.items()
    }
    shapes = {path: list(transformer.get_parameter(name).shape) for path, name in places.items()}
    given = json.dumps({"files": [str(path) for path in files], "shapes": shapes})
    assert inside.run(f"ARGUMENTS = {given!r}\n" + SCRIPT, install, PACK, folder) == len(files) * len(places)
    return Theirs(targets, folder, places, shapes)


def name_of(ranks: tuple[int | None, int | None], alpha: float | None) -> str:
    return f"{ranks[0]}_{ranks[1]}_{alpha}.safetensors"


@pytest.mark.parametrize("ranks", RANKS, ids=str)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_same_change(theirs: Theirs, ranks: tuple, alpha: float | None) -> None:
    file = theirs.folder / name_of(ranks, alpha)
    made = load_file(f"{file}.out")
    zeros = {name: torch.zeros(theirs.shapes[path]) for path, name in theirs.places.items()}
    ours = merged(zeros, [(Adapter.read(file, theirs.targets), 0.7)], theirs.targets)
    for path, name in theirs.places.items():
        torch.testing.assert_close(ours[name], made[path], atol=1e-6, rtol=1e-5)
