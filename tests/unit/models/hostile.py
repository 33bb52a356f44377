"""Model folders that tests break: how they are read, edited and refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from ostinato.engine_runtime.errors import ModelError
from ostinato.engine_runtime.models.loading import Model, load

from ..refusal import check_sentence

CPU = torch.device("cpu")


def link_weights(source: str, to: str) -> None:
    """Weights are never written to here, only taken away."""
    (os.link if source.endswith(".safetensors") else shutil.copy)(source, to)


def read(folder: Path) -> Model:
    return load(str(folder), CPU, torch.float32)


def refused(folder: Path, told: str = "", kind: type[Exception] = ModelError) -> None:
    with pytest.raises(kind) as caught:
        read(folder)
    check_sentence(caught.value)
    assert told in str(caught.value), caught.value


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")
