"""What the tests of engines' nodes share: a folder of their own, pretended builds, a library that needs no GPU."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from ostinato.engine_runtime.engines.factors import Targets
from ostinato.engine_runtime.models.engines import eager_engine
from ostinato.engine_runtime.registry import registry
from ostinato.engine_runtime.trt import bake, loader
from ostinato.engine_runtime.trt.build import queue
from ostinato.engine_runtime.trt.files.sidecar import Expect
from ostinato.engine_runtime.trt.files.trust import Trust
from ostinato.nodes.shared import host

from ... import trt_stand_in as stand_in
from ...adapters import written
from ...engine_files import LIBRARY, put
from .engine_nodes import FakeJob

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path, monkeypatch, cache):
    """An empty engines folder, and nothing that another test built or opened."""
    monkeypatch.setenv("OSTINATO_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "ComfyUI"))
    monkeypatch.delenv("OSTINATO_ENGINES", raising=False)
    with registry.fresh(queue.Builds, loader.OpenEngines, bake.Baked):
        yield tmp_path / "data" / "engines"


@pytest.fixture
def jobs(monkeypatch):
    monkeypatch.setattr(FakeJob, "started", [])
    monkeypatch.setattr(queue, "Job", FakeJob)
    monkeypatch.setattr(queue.preflight, "check_packages", lambda names, flavor: None)
    monkeypatch.setattr(queue, "expects", dict)
    return FakeJob.started


@pytest.fixture
def shown():
    """What was shown under nodes, in order."""
    texts = []
    with host.use(host.Host(text=lambda text, node: texts.append((node, text)))):
        yield texts


@pytest.fixture
def known(monkeypatch):
    """A machine with TensorRT-RTX and an Ada GPU, as far as sidecars are compared."""
    ada = {"tensorrt_rtx": Expect("tensorrt_rtx", LIBRARY, (8, 9), "A GPU")}
    for module in (loader, queue):
        monkeypatch.setattr(module, "expects", lambda *_: ada)


@pytest.fixture
def player(turbo, folder, monkeypatch):
    """`player(name, ...)` writes a trusted plan that the stand-in library opens on the CPU."""
    library, checks = stand_in.library(), []
    monkeypatch.setattr(loader, "gpu", lambda model: CPU)
    monkeypatch.setattr(loader, "tensorrt", lambda name: library)
    monkeypatch.setattr(bake, "tensorrt", lambda name: library)
    monkeypatch.setattr(loader, "here", lambda flavor, version, device: Expect(flavor, version))
    monkeypatch.setattr(loader, "expects", lambda device: {})

    def check(plan, **given):
        checks.append(plan.stem)
        return SimpleNamespace(proof=None)

    monkeypatch.setattr(loader, "check_here", check)

    def make(name, decoder=None, lora=False, **changes):
        made = stand_in.make(decoder or eager_engine(turbo), lora=lora, label=name)
        weights = loader.digest_of(turbo, "decoder", "fp32")
        changes = {"spec": replace(made.sidecar.spec, name=name), **changes}
        made.sidecar = replace(made.sidecar, export=made.sidecar.export | {"weights": weights}, **changes)
        put(folder, made.data, made.sidecar, Trust())
        return made

    return SimpleNamespace(make=make, library=library, checks=checks)


@pytest.fixture
def targets(turbo):
    return Targets.of(turbo.pipe.transformer)


@pytest.fixture
def files(tmp_path, targets):
    """Two adapters in ComfyUI's folder of LoRAs."""
    loras = tmp_path / "ComfyUI" / "models" / "loras" / "mine"
    loras.mkdir(parents=True)
    for seed, name in enumerate(("a", "b")):
        written(loras / f"{name}.safetensors", targets, 4, seed=seed)
    return loras
