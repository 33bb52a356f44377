"""A model that is not one, or not whole, is refused by name before it plays."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import AceStepTransformer1DModel, AutoencoderOobleck
from ostinato.engine_runtime.errors import InputError, ModelError
from ostinato.engine_runtime.models.engines import eager_engine
from ostinato.engine_runtime.models.hub import snapshot
from ostinato.engine_runtime.models.loading import load
from ostinato.engine_runtime.models.presets import preset_folder
from safetensors.torch import load_file, save_file

from ..refusal import refused

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(turbo, tmp_path: Path) -> Path:
    """A whole model to break."""
    shutil.copytree(preset_folder("random"), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def refuses(turbo, conditions) -> Callable:
    return partial(refused, eager_engine(turbo), conditions(turbo, 10, 1)[0])


def read(source: object, download: bool = False) -> None:
    load(str(source), torch.device("cpu"), torch.float32, download)


def edit(path: Path, change: Callable[[dict], object]) -> None:
    """Change a JSON file, or the tensors of a safetensors file."""
    if path.suffix == ".json":
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))
    else:
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)


def first(tensors: dict) -> str:
    return min(name for name in tensors if tensors[name].ndim >= 2)


def wide(tensors: dict) -> None:
    tensors[first(tensors)] = tensors[first(tensors)].repeat_interleave(2, dim=0)


def index(text: str | bytes) -> Callable[[Path], object]:
    return lambda f: (f / "model_index.json").write_bytes(text.encode() if isinstance(text, str) else text)


def index_folder(f: Path) -> None:
    (f / "model_index.json").mkdir()


def config(part: str, **values: object) -> Callable[[Path], None]:
    return lambda f: edit(f / part / "config.json", lambda c: c.update(values))


def remake(kind: type, **values: object) -> Callable[[Path], None]:
    """A whole part, only of another make."""
    part = "vae" if kind is AutoencoderOobleck else "transformer"
    return lambda f: kind.from_config(kind.load_config(f / part) | values).save_pretrained(f / part)


def truncate(part: str) -> Callable[[Path], None]:
    def cut(f: Path) -> None:
        path = next((f / part).glob("*.safetensors"))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return cut


BREAKS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "no index": ("no readable model_index.json", lambda f: (f / "model_index.json").unlink()),
    "index is a folder": ("no readable", lambda f: (f / "model_index.json").replace(f / "x") and index_folder(f)),
    "index is empty": ("no readable", index("")),
    "index is cut": ("no readable", index('{"_class_name": "AceSt')),
    "index is a list": ("no readable", index('["AceStepPipeline"]')),
    "index is binary": ("no readable", index(b"\xff\xfe\x00")),
    "index of nothing": ("holds a None", index("{}")),
    "another class": ("StableAudioPipeline", index('{"_class_name": "StableAudioPipeline"}')),
    "a part is gone": ("could not be loaded", lambda f: shutil.rmtree(f / "transformer")),
    "a config is gone": ("could not be loaded", lambda f: (f / "vae" / "config.json").unlink()),
    "weights are gone": ("could not be loaded", lambda f: (f / "transformer" / WEIGHTS).unlink()),
    "the tokenizer is gone": ("the tokenizer in", lambda f: shutil.rmtree(f / "tokenizer")),
    "another latent width": ("32 latent channels", remake(AceStepTransformer1DModel, audio_acoustic_hidden_dim=32)),
    "another sample rate": ("44100 Hz", config("vae", sampling_rate=44_100)),
    "another hop": ("960 samples a frame", remake(AutoencoderOobleck, downsampling_ratios=[5, 8, 6, 4])),
    "a config of another size": ("of the wrong shape", config("transformer", hidden_size=64)),
    **{f"truncated {part}": ("could not be read", truncate(part)) for part in ("transformer", "vae", "text_encoder")},
}
PARTS = ("transformer", "vae", "condition_encoder", "audio_tokenizer", "audio_token_detokenizer", "text_encoder")
for _part in PARTS:
    _file = "model.safetensors" if _part == "text_encoder" else WEIGHTS
    for _name, _change in {
        "missing": lambda t: t.pop(first(t)),
        "left over": lambda t: t.update(extra=torch.zeros(1)),
        "of another shape": wide,
    }.items():
        BREAKS[f"a key {_name} in {_part}"] = (
            "",
            lambda f, part=_part, file=_file, change=_change: edit(f / part / file, change),
        )


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_model(folder: Path, refuses: Callable, name: str) -> None:
    given, damage = BREAKS[name]
    damage(folder)
    with refuses(ModelError, given):
        read(folder)


@pytest.mark.parametrize("part", ["transformer", "condition_encoder"])
def test_a_missing_key_is_named(folder: Path, refuses: Callable, part: str) -> None:
    key = first(load_file(folder / part / WEIGHTS))
    edit(folder / part / WEIGHTS, lambda t: t.pop(key))
    with refuses(ModelError, key):
        read(folder)


def test_an_empty_folder(tmp_path: Path, refuses: Callable) -> None:
    with refuses(ModelError, "no readable model_index.json"):
        read(tmp_path)


NAMES = ["", "  ", "tyni", "a/b/c", "/no/such/folder", "owner/", "../model", "https://example.org/owner/name"]


@pytest.mark.parametrize("name", [*NAMES, "a\0b", "ö" * 300, "~nobody-here/x"])
def test_a_name_that_is_none(refuses: Callable, name: str) -> None:
    with refuses(InputError, repr(name.strip())):
        read(name)


def test_a_file_is_not_a_folder(folder: Path, refuses: Callable) -> None:
    with refuses(InputError, "config.json"):
        read(folder / "transformer" / "config.json")


@pytest.mark.parametrize("name", ["owner/name", "ACE-Step/no-such-model"])
def test_a_hub_id_is_not_fetched_unasked(no_network: list, refuses: Callable, name: str) -> None:
    with refuses(ModelError, name):
        read(name)
    assert no_network == []


def test_a_model_of_the_hub_cache_is_known_by_its_id(no_network: list, tmp_path: Path) -> None:
    place = tmp_path / "hub" / "models--owner--name"
    for name in ("refs", "snapshots"):
        (place / name).mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    (place / "snapshots" / ("0" * 40)).symlink_to(preset_folder("random"))
    assert load("owner/name", torch.device("cpu"), torch.float32).source == "owner/name" and no_network == []


def test_a_download_without_a_network(no_network: list, refuses: Callable) -> None:
    with refuses(ModelError, "owner/name"):
        read("owner/name", download=True)
    assert no_network


@pytest.mark.parametrize("error", [RuntimeError(), OSError("disk full.\nSecond line."), ValueError("odd")])
def test_whatever_the_hub_raises(refuses: Callable, error: Exception) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    hub = SimpleNamespace(file_exists=lambda repo, name: True, snapshot_download=fail)
    with refuses(ModelError, "owner/name"):
        snapshot("owner/name", download=True, hub=hub)
