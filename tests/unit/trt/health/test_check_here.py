"""The check of an engine where it plays, on the CPU with the stand-in: what it is compared with, and what it leaves."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from ostinato.cli import main
from ostinato.engine_runtime.engines.eager import EagerEngine
from ostinato.engine_runtime.engines.profiles import Profile, Span
from ostinato.engine_runtime.engines.prove import Proof, Refused
from ostinato.engine_runtime.errors import EngineError, EngineFileError, InputError, MemoryShortage, ModelError
from ostinato.engine_runtime.trt.export import source
from ostinato.engine_runtime.trt.export.record import weights_digest
from ostinato.engine_runtime.trt.files.plan import read_plan
from ostinato.engine_runtime.trt.files.sidecar import Expect, read_sidecar, sidecar_path
from ostinato.engine_runtime.trt.files.trust import Trust
from ostinato.engine_runtime.trt.health import check
from ostinato.engine_runtime.trt.health import state as health_module
from ostinato.engine_runtime.trt.health.state import check_here, health
from typer.testing import CliRunner

from .... import trt_stand_in as stand_in
from ....engine_files import made_up, put
from ....trt_plan import LIBRARY
from ...refusal import check_sentence

CPU = torch.device("cpu")
PROFILE = Profile(Span(1, 2, 2), Span(2, 4, 6), Span(1, 8, 16))
HERE = Expect("tensorrt_rtx", LIBRARY, (8, 9), "cpu")
THEIRS = "/their/computer/model"


@pytest.fixture
def machine(monkeypatch):
    """A machine whose library is the stand-in, and whose GPU is the CPU; the library that the process has."""
    library = stand_in.library(rtx=True)
    monkeypatch.setattr(health_module, "library_of", lambda _: LIBRARY)
    monkeypatch.setattr(health_module, "here", lambda flavor, version, _: replace(HERE, flavor=flavor, library=version))
    monkeypatch.setattr(check, "this_gpu", lambda: CPU)
    with stand_in.loaded(library) as process:
        yield SimpleNamespace(library=library, process=process)


@pytest.fixture
def trust(tmp_path, places):
    places(data=tmp_path / "home")
    return Trust()


@pytest.fixture
def make(base, tmp_path, trust):
    """`make(**spec)`: a plan of `random-base`, trusted, and its path."""

    def made(**spec):
        plan = stand_in.make(EagerEngine(base.pipe.transformer, "test"), PROFILE, rtx=True)
        weights = weights_digest("decoder", base.pipe.transformer, "fp32")
        side = plan.sidecar
        plan.sidecar = replace(
            side, export=side.export | {"weights": weights}, spec=replace(side.spec, **{"model": "random-base"} | spec)
        )
        return plan, put(tmp_path / "engines", plan.data, plan.sidecar, trust)

    return made


def verified(path):
    return health(path, {"tensorrt_rtx": HERE}).verified


def test_a_passed_check_makes_the_engine_verified(make, machine):
    _, path = make()
    assert not verified(path)
    proof = Proof.of(check_here(path).proof)
    assert [corner.name for corner in proof.corners] == ["minimum", "optimum", "maximum"] and proof.gpu == "cpu"
    assert verified(path) and not machine.library.open_engines
    there = health(path, {"tensorrt_rtx": replace(HERE, device="Another GPU")})
    assert there.text() == "stand-in: ready by its size, unverified on this GPU"
    assert Proof.of(read_plan(path, HERE)[1].proof) == proof


def test_figures_that_would_not_pass_any_more_verify_nothing(make, machine, trust):
    _, path = make()
    kept = check_here(path).proof
    trust.write_proof(path, {**kept, "corners": [{**corner, "relative": 0.07} for corner in kept["corners"]]})
    assert not verified(path)


def test_a_failed_check_takes_the_older_proof_away(make, machine):
    plan, path = make()
    check_here(path)
    plan.bend = lambda out: 1.5 * out
    with pytest.raises(Refused):
        check_here(path)
    assert not machine.library.open_engines and not verified(path)
    before = sidecar_path(path).stat()
    with pytest.raises(Refused):
        check_here(path)
    assert sidecar_path(path).stat().st_mtime_ns == before.st_mtime_ns, "nothing changed, and nobody is told so"


# -- what it is compared with


@pytest.mark.parametrize("spec", [{"model": THEIRS}, {"model": None, "onnx": "/their/graph.onnx"}])
def test_an_engine_built_elsewhere_is_checked_with_a_model_of_the_same_weights(make, machine, base, spec):
    _, path = make(**spec)
    machine.process.library = None
    with pytest.raises((InputError, ModelError)):
        check_here(path)
    assert machine.process.library is None and not verified(path)
    machine.process.library = machine.library
    before = {name: (id(p), p.data_ptr(), p.requires_grad) for name, p in base.pipe.transformer.named_parameters()}
    check_here(path, model=base)
    assert verified(path)
    after = {name: (id(p), p.data_ptr(), p.requires_grad) for name, p in base.pipe.transformer.named_parameters()}
    assert before == after, "the model plays on as it is"


def test_a_model_of_other_weights_is_refused_before_anything_is_opened(make, machine, turbo):
    plan, path = make()
    machine.process.library = None
    with pytest.raises(EngineFileError) as caught:
        check_here(path, model=turbo)
    assert caught.value.reason == "weights" and machine.process.library is None and not plan.calls
    check_sentence(caught.value)


def test_a_model_in_a_coarser_precision_is_no_reference(make, machine, base):
    coarse = SimpleNamespace(pipe=SimpleNamespace(transformer=copy.deepcopy(base.pipe.transformer).bfloat16()))
    said = []
    check_here(make()[1], tell=said.append, model=coarse)
    assert said == ["loading random-base", "comparing with eager"]


def test_an_engine_that_is_open_is_not_opened_again(make, machine, base):
    plan, path = make()
    data, sidecar = read_plan(path, HERE)
    engine = machine.library.load(data, sidecar, CPU, alone="one")
    check_here(path, engine=engine)
    assert verified(path) and plan.calls["deserialize_cuda_engine"] == 1
    assert engine.executor.engine is not None, "it is its owner's"
    put(path.parent, *replaced(plan), Trust())
    with pytest.raises(EngineFileError, match="replaced while it was checked"):
        check_here(path, model=base, engine=engine)
    assert read_sidecar(path).proof is None
    machine.library.release(engine)


def replaced(plan):
    """Another plan of the same name and weights."""
    data, sidecar = made_up("stand-in")
    export = sidecar.export | {"weights": plan.sidecar.export["weights"]}
    return data, replace(sidecar, export=export, library=LIBRARY)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_reference_is_a_copy_that_shares_what_is_there(base, dtype):
    asked = []
    module = base.pipe.transformer
    made = check.beside(module, CPU, dtype, asked.append)
    ours, theirs = dict(made.named_parameters()), dict(module.named_parameters())
    same = dtype == torch.float32
    assert ours.keys() == theirs.keys() and all(ours[name] is not theirs[name] for name in ours)
    assert all((ours[name].data_ptr() == theirs[name].data_ptr()) == same for name in ours)
    assert {p.dtype for p in theirs.values()} == {torch.float32} and {p.dtype for p in ours.values()} == {dtype}
    if same:
        assert not asked
    else:
        assert asked[0] >= sum(p.nbytes for p in ours.values())


def test_a_vae_can_be_a_reference_too(base):
    """Its convolutions hold weights that are computed from others at every call, once with a gradient."""
    latents, vae = torch.randn(1, 64, 3), base.pipe.vae
    vae.decode(latents)
    with torch.no_grad():
        made = check.beside(vae, CPU, torch.float32, None)
        assert torch.equal(made.decode(latents).sample, vae.decode(latents).sample)
        made.decoder.conv1.weight_g.data = 2 * made.decoder.conv1.weight_g
        assert not torch.equal(made.decode(latents).sample, vae.decode(latents).sample)


# -- the library is one for good, so that nothing loads it in vain


def test_a_plan_that_may_not_be_opened_loads_no_library(make, machine, trust, tmp_path, monkeypatch):
    plan, path = make()
    machine.process.library = None
    untrusted = put(tmp_path / "others", *made_up("other", 3))
    with pytest.raises(EngineFileError) as caught:
        check_here(untrusted)
    assert caught.value.reason == "untrusted"
    monkeypatch.setattr(health_module, "library_of", lambda _: "1.7.2.1")
    said = []
    with pytest.raises(EngineFileError) as caught:
        check_here(path, tell=said.append)
    assert caught.value.reason == "version" and machine.process.library is None and not plan.calls
    assert not said, "nor is a model loaded for it"


# -- memory


@pytest.mark.parametrize("where", [(source, "part_of"), (check, "beside"), (EagerEngine, "rows")])
def test_a_shortage_is_told_and_closes_the_engine(make, machine, monkeypatch, where):
    _, path = make()
    check_here(path)

    def fails(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(*where, fails)
        with pytest.raises(MemoryShortage, match="the check of stand-in found no room") as caught:
            check_here(path)
    check_sentence(caught.value)
    assert not machine.library.open_engines and verified(path), "it says nothing of the engine"


def test_the_host_is_asked_for_room(make, machine, monkeypatch):
    plan, path = make()
    plan.faults["context_no_room"] = 1
    asked = []
    check_here(path, make_room=asked.append)
    assert len(asked) == 1 and verified(path)


def test_another_failure_stays_what_it_is(make, machine):
    plan, path = make()
    plan.faults["execute_async_v3"] = 1
    with pytest.raises(EngineError, match="execute_async_v3"):
        check_here(path)
    assert not machine.library.open_engines


# -- the command line


def test_the_doctor_checks_with_the_model_that_is_named(make, machine, on_machine, cache, cuda):
    _, path = make(model=THEIRS)
    on_machine({"tensorrt_rtx": HERE})
    cuda(is_available=lambda: True)

    def run(*words):
        done = CliRunner().invoke(main.app, ["doctor", *map(str, words)])
        return done.exit_code, re.sub(r"\s+", " ", done.stdout), done.stderr

    code, out, _ = run("--engine", path)
    assert code == 1 and f"the model {THEIRS}" in out and f"ostinato doctor --engine {path} --model MODEL" in out
    code, _, error = run("--model", "random-base")
    assert code == 2 and "no engine is named" in error
    code, _, error = run("--engine", path, "--model", "random")
    assert code == 1 and "another weights" in error and not verified(path)
    code, out, error = run("--engine", path, "--model", "random-base")
    assert code == 0 and "checked on cpu" in out and "loading random-base ..." in error
    assert verified(path)
    code, out, _ = run("--engine", path, "--no-check")
    assert code == 0 and "note the model" in out, "it plays without the model of its builder"
