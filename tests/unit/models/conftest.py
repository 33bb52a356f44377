"""Shared by the tests of models: a network that is not there, silence that is encoded once, a model to break."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import huggingface_hub
import pytest
import torch
from diffusers import AutoencoderOobleck
from ostinato.engine_runtime.models import checkpoint
from ostinato.engine_runtime.models.presets import preset_folder
from ostinato.engine_runtime.models.weights import make_silence
from torch import Tensor

from .hostile import link_weights


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[object]:
    """An empty hub cache in the folder `hub`, sockets that refuse and are counted, and libraries that may ask."""
    tried: list[object] = []

    def deny(*address: object, **_: object) -> None:
        tried.append(address)
        raise OSError("the network is unreachable")

    for place, name in ((socket, "getaddrinfo"), (socket, "create_connection"), (socket.socket, "connect")):
        monkeypatch.setattr(place, name, deny)
    for name, value in (("HF_HUB_OFFLINE", False), ("HF_HUB_CACHE", str(tmp_path / "hub"))):
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    return tried


@pytest.fixture(scope="session")
def silences() -> dict[tuple[torch.dtype, float], Tensor]:
    return {}


@pytest.fixture
def silence_is_encoded_once(silences, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for the same VAE: it is what takes long in a load, 3 s."""

    def once(vae: AutoencoderOobleck, frames: int) -> Tensor:
        key = vae.dtype, float(next(vae.parameters()).sum())
        if key not in silences:
            silences[key] = make_silence(vae, frames)
        return silences[key]

    monkeypatch.setattr(checkpoint, "make_silence", once)


@pytest.fixture
def folder(cache: None, tmp_path: Path) -> Path:
    """A copy of the built-in model, to be changed."""
    shutil.copytree(preset_folder("random"), tmp_path / "model", copy_function=link_weights)
    return tmp_path / "model"
