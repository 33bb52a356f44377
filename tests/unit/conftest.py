"""Shared by the unit tests: CUDA without a GPU, ComfyUI's folders without ComfyUI, libraries without a machine."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from ostinato.cli import main
from ostinato.cli.graph import Catalogue
from ostinato.engine_runtime.errors import OstinatoError
from ostinato.engine_runtime.models import comfy_queue
from ostinato.engine_runtime.trt.files.sidecar import Expect
from ostinato.engine_runtime.trt.health import state
from ostinato.engine_runtime.trt.library import flavor
from ostinato.nodes.shared import folders

from ..ear import PATIENCE

Roots = Mapping[str, list[Path]]


class FolderPaths(ModuleType):
    """Stands in for ComfyUI's module `folder_paths`: the folders of each kind, and the files below them."""

    def __init__(self, roots: Roots) -> None:
        super().__init__("folder_paths")
        self.roots = roots

    def get_folder_paths(self, kind: str) -> list[str]:
        return [str(root) for root in self.roots[kind]]

    def get_filename_list(self, kind: str) -> list[str]:
        files = [(root, path) for root in self.roots[kind] for path in root.rglob("*") if path.is_file()]
        return sorted(path.relative_to(root).as_posix() for root, path in files)


@pytest.fixture
def prompt_queue(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], None]:
    """`prompt_queue(queue)`: this is the queue of ComfyUI's server."""

    def enter(queue: object) -> None:
        server = SimpleNamespace(PromptServer=SimpleNamespace(instance=SimpleNamespace(prompt_queue=queue)))
        monkeypatch.setitem(sys.modules, "server", server)

    return enter


@pytest.fixture
def endless_job(prompt_queue: Callable[[object], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """ComfyUI runs a job, for whose end weights wait longer than a test does."""
    prompt_queue(SimpleNamespace(currently_running={1: "the job"}, mutex=threading.RLock()))
    monkeypatch.setattr(comfy_queue, "WAIT_SECONDS", 2 * PATIENCE)


@pytest.fixture
def knows(monkeypatch: pytest.MonkeyPatch) -> Callable[[Catalogue], None]:
    """`knows(types)`: these are all node types that the commands know."""
    return lambda types: monkeypatch.setattr(main, "all_types", lambda: types)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`cuda(Event=..., current_device=...)` stands in for these of PyTorch's functions and classes for CUDA."""

    def enter(**names: object) -> None:
        for name, one in names.items():
            monkeypatch.setattr(torch.cuda, name, one)

    return enter


@pytest.fixture
def in_comfyui(monkeypatch: pytest.MonkeyPatch) -> Callable[[Roots | None], None]:
    """`in_comfyui(roots)` has the nodes find their files as in a ComfyUI with these folders of each kind; None leaves
    it."""

    def enter(roots: Roots | None) -> None:
        monkeypatch.setattr(folders, "HEADLESS", roots is None)
        monkeypatch.setitem(sys.modules, "folder_paths", None if roots is None else FolderPaths(roots))

    return enter


@pytest.fixture
def on_machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, Expect | OstinatoError]], None]:
    """`on_machine(known)`: here are these libraries and this GPU, and none is loaded, whatever other tests loaded."""

    def enter(known: Mapping[str, Expect | OstinatoError]) -> None:
        monkeypatch.setattr(state, "expects", lambda device=None: dict(known))
        monkeypatch.setattr(flavor, "mapped", list)

    return enter
