"""What the tests of engines' nodes share: a folder of their own, pretended builds, a library that needs no GPU."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from ostinato.engine_runtime.engines.factors import Targets
from ostinato.engine_runtime.engines.profiles import Profile, Span
from ostinato.engine_runtime.models.engines import eager_engine
from ostinato.engine_runtime.registry import registry
from ostinato.engine_runtime.trt import bake, loader
from ostinato.engine_runtime.trt.build import queue
from ostinato.engine_runtime.trt.files.sidecar import Expect
from ostinato.engine_runtime.trt.files.trust import Trust
from ostinato.engine_runtime.trt.health import state
from ostinato.nodes.shared import host

from ... import trt_stand_in as stand_in
from ...adapters import written
from ...engine_files import LIBRARY, put
from ...trt_plan import VaeHalf
from .engine_nodes import FakeJob, passes

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path, places, cache):
    """An empty engines folder, and nothing that another test built or opened."""
    places(data=tmp_path / "data", comfyui=tmp_path / "ComfyUI")
    with registry.fresh(queue.Builds, loader.OpenEngines, bake.Baked):
        yield tmp_path / "data" / "engines"


@pytest.fixture
def jobs(monkeypatch, on_machine):
    class Job(FakeJob):
        started = []

    monkeypatch.setattr(queue, "Job", Job)
    monkeypatch.setattr(queue.preflight, "check_packages", lambda names, flavor: None)
    on_machine({})
    return Job.started


@pytest.fixture
def shown():
    """What was shown under nodes, in order."""
    texts = []
    with host.use(host.Host(text=lambda text, node: texts.append((node, text)))):
        yield texts


@pytest.fixture
def known(on_machine):
    """A machine with TensorRT-RTX and an Ada GPU, as far as sidecars are compared."""
    on_machine({"tensorrt_rtx": Expect("tensorrt_rtx", LIBRARY, (8, 9), "A GPU")})


@pytest.fixture
def player(turbo, folder, on_machine, monkeypatch):
    """`player.make(name, ...)` writes a trusted plan that the stand-in library opens on the CPU; `player.check` is what
    checks it, and `player.checks` has the names of those that were checked."""
    library, checks = stand_in.library(), []
    monkeypatch.setattr(loader, "gpu", lambda model: CPU)
    monkeypatch.setattr(state, "here", lambda flavor, version, device: Expect(flavor, version))
    on_machine({})

    def check(plan, **given):
        checks.append(plan.stem)
        return made.check(plan, **given)

    monkeypatch.setattr(loader, "check_here", check)

    def make(name, decoder=None, lora=False, **changes):
        plan = stand_in.make(decoder or eager_engine(turbo), lora=lora, label=name)
        weights = loader.digest_of(turbo, "decoder", "fp32")
        changes = {"spec": replace(plan.sidecar.spec, name=name), **changes}
        plan.sidecar = replace(plan.sidecar, export=plan.sidecar.export | {"weights": weights}, **changes)
        put(folder, plan.data, plan.sidecar, Trust())
        return plan

    def make_vae(name, kind="vae_decoder"):
        plan = stand_in.make_vae(VaeHalf(turbo.pipe.vae, kind), Profile(Span(1, 1, 1), Span(20, 40, 60)), label=name)
        weights = loader.digest_of(turbo, kind, "fp32")
        spec = replace(plan.sidecar.spec, name=name)
        plan.sidecar = replace(plan.sidecar, export=plan.sidecar.export | {"weights": weights}, spec=spec)
        put(folder, plan.data, plan.sidecar, Trust())
        return plan

    made = SimpleNamespace(make=make, make_vae=make_vae, library=library, checks=checks, check=passes)
    with stand_in.loaded(library):
        yield made


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
