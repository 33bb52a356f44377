"""ComfyUI's own LoKr loader and ours change the same weights by the same numbers."""

import json
from pathlib import Path

import pytest
import torch
from ostinato.engine_runtime.engines.factors import Targets
from ostinato.engine_runtime.lora.adapter import Adapter
from ostinato.engine_runtime.lora.stack import merged
from safetensors.torch import load_file, save_file

from ..adapters import THEIRS, lokr_of
from . import inside
from .server import Unavailable, find_install

PACK = Path(__file__).resolve().parents[2]
RANKS = [(None, None), (2, None), (None, 3), (2, 3)]
SCRIPT = """
from safetensors.torch import load_file, save_file
from comfy.weight_adapter.lokr import LoKrAdapter
given = json.loads(ARGUMENTS)
tensors, made = load_file(given["file"]), {}
for path, (rows, columns) in given["shapes"].items():
    alpha = tensors[path + ".alpha"].item() if path + ".alpha" in tensors else None
    adapter = LoKrAdapter.load(path, tensors, alpha, None)
    weight = torch.zeros(rows, columns)
    made[path] = adapter.calculate_weight(weight, path, 0.7, 1.0, None, lambda change: change)
save_file(made, given["out"])
print(json.dumps(len(made)))
"""


@pytest.mark.parametrize("ranks", RANKS, ids=str)
@pytest.mark.parametrize("alpha", [None, 6.0])
def test_the_same_change(turbo, tmp_path: Path, ranks: tuple, alpha: float | None) -> None:
    try:
        install = find_install()
    except Unavailable as reason:
        pytest.skip(str(reason))
    transformer = turbo.pipe.transformer
    targets = Targets.of(transformer)
    save_file(lokr_of(targets, ranks=ranks, alpha=alpha), tmp_path / "lokr.safetensors")
    places = {
        f"lycoris_layers_{layer}_{place.replace('.', '_')}": targets.parameter(layer, kind)
        for layer in range(targets.layers)
        for kind, place in THEIRS.items()
    }
    shapes = {path: list(transformer.get_parameter(name).shape) for path, name in places.items()}
    given = {"file": str(tmp_path / "lokr.safetensors"), "out": str(tmp_path / "out.safetensors"), "shapes": shapes}
    assert inside.run(f"ARGUMENTS = {json.dumps(given)!r}\n" + SCRIPT, install, PACK, tmp_path) == len(places)
    theirs = load_file(tmp_path / "out.safetensors")
    zeros = {name: torch.zeros(shapes[path]) for path, name in places.items()}
    ours = merged(zeros, [(Adapter.read(tmp_path / "lokr.safetensors", targets), 0.7)], targets)
    for path, name in places.items():
        torch.testing.assert_close(ours[name], theirs[path], atol=1e-6, rtol=1e-5)
