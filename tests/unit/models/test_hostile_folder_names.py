"""Names of models that a page sends to ComfyUI: only those of its own folders are read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ostinato.engine_runtime.errors import InputError, ModelError
from ostinato.engine_runtime.models.loading import load
from ostinato.engine_runtime.models.presets import preset_folder
from ostinato.nodes.shared import folders

from ..refusal import check_sentence
from .hostile import CPU, link_weights


@pytest.fixture
def comfyui(places, in_comfyui: Callable[..., None], tmp_path: Path, cache: None) -> Path:
    """A ComfyUI whose folder of models is the only one; uploads lie beside it, and the working folder is its own."""
    root = tmp_path / "ComfyUI"
    for name in ("models/diffusers/mine", "input/evil"):
        shutil.copytree(preset_folder("random"), root / name, copy_function=link_weights)
    (root / "models" / "checkpoints").mkdir()
    in_comfyui({kind: [root / "models" / kind] for kind in folders.MODELS})
    places(models="", here=root)
    return root


@pytest.mark.parametrize("name", ["mine", " mine ", "./mine", "mine/.", "../diffusers/mine"])
def test_comfyui_finds_what_lies_in_its_folders(comfyui: Path, name: str) -> None:
    assert folders.model_source(name) == str(comfyui / "models" / "diffusers" / "mine")
    assert folders.model_source(str(comfyui / "models" / "diffusers" / "mine")).endswith("mine")
    assert folders.model_source("tiny-base") == "tiny-base"


OUTSIDE = ["{0}/input/evil", "../../input/evil", "mine/../../../input/evil", "./input/evil", "/etc/passwd", "/none"]


@pytest.mark.parametrize("name", [*OUTSIDE, "", "~", "~/x", "a\0b", "ö" * 300, "C:\\x"])
def test_comfyui_tells_nothing_of_other_places(comfyui: Path, name: str) -> None:
    """The same words, whether it is there or not."""
    name = name.format(comfyui)
    with pytest.raises(InputError) as caught:
        folders.model_source(name)
    check_sentence(caught.value)
    with pytest.raises(InputError) as other:
        folders.model_source("no/such/model")
    assert caught.value.allowed == other.value.allowed and caught.value.remedy == other.value.remedy
    assert "OSTINATO_MODELS" in str(caught.value)


def test_a_name_like_a_hub_id_is_no_folder_of_the_server(comfyui: Path, no_network: list) -> None:
    assert folders.model_source("input/evil") == "input/evil"  # a hub id by its looks
    with pytest.raises(ModelError, match="nor is it in the local hub cache"):
        load("input/evil", CPU, torch.float32, local=False)
    with pytest.raises((InputError, ModelError), match="owner/x.safetensors"):
        load("owner/x.safetensors", CPU, torch.float32, local=False)
    assert no_network == []


def test_an_operator_allows_more_folders(comfyui: Path, tmp_path: Path, places) -> None:
    places(models=os.pathsep.join([str(tmp_path / "none"), str(comfyui / "input")]))
    assert folders.model_source("evil") == str(comfyui / "input" / "evil")
    assert folders.model_source(f"{comfyui}/input/evil") == str(comfyui / "input" / "evil")
    (comfyui / "models" / "checkpoints" / "linked").symlink_to(comfyui / "input" / "evil")  # whoever has the disk may
    assert folders.model_source("linked") == str(comfyui / "models" / "checkpoints" / "linked")
