"""The nodes that build, load, refit and profile engines: what plays meanwhile, what they say, what they leave alone."""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from ostinato.cli import main
from ostinato.engine_runtime.engines.eager import EagerEngine
from ostinato.engine_runtime.engines.factors import Targets
from ostinato.engine_runtime.engines.prove import Refused
from ostinato.engine_runtime.errors import EngineBuildError, EngineError, EngineFileError, InputError
from ostinato.engine_runtime.lora.stack import merged
from ostinato.engine_runtime.models.engines import eager_engine
from ostinato.engine_runtime.registry import registry
from ostinato.engine_runtime.trt import bake, loader
from ostinato.engine_runtime.trt.build import queue
from ostinato.engine_runtime.trt.build.job import State
from ostinato.engine_runtime.trt.files.spec import KINDS, make_spec
from ostinato.engine_runtime.trt.files.trust import Trust
from ostinato.nodes.build_engine import BuildEngine
from ostinato.nodes.layer_profile import LayerProfiler
from ostinato.nodes.load_engine import STOP, TORCH, LoadEngine
from ostinato.nodes.lora import Lora
from ostinato.nodes.refit_lora import RefitLora
from ostinato.nodes.shared import host
from ostinato.nodes.shared.folders import NOTHING
from ostinato.nodes.stream_denoise import StreamDenoise
from typer.testing import CliRunner

from ...adapters import made_adapter
from ...engine_files import made_up, put
from ...helpers import StandIn
from ...helpers import made_up as condition
from .engine_nodes import ASKED, FakeRefit, fingerprint, run

pytestmark = pytest.mark.usefixtures("folder")
NAME = make_spec("rtx", KINDS[0], {"model": "random"}, {}).name


def test_a_build_starts_once_and_the_torch_engine_plays(turbo, jobs, shown):
    first, again = (run(BuildEngine, model=turbo, **ASKED) for _ in range(2))
    elsewhere = run(BuildEngine, "8", model=turbo, **ASKED)
    assert len(jobs) == 1 and jobs[0].spec.model == "random" and jobs[0].spec.precision == "bf16"
    for made in (first, again, elsewhere):
        assert isinstance(made[0], EagerEngine)
        assert f"{NAME}: exporting, 25 %\n\nplaying on eager" in made[1]
    run(BuildEngine, model=turbo, **ASKED | {"precision": "fp32"})
    assert len(jobs) == 2 and jobs[1].spec.precision == "fp32"


def test_what_is_connected_plays_until_then(turbo, jobs):
    assert run(BuildEngine, model=turbo, fallback=(other := StandIn()), **ASKED)[0] is other


def test_progress_goes_on_after_the_node_has_ended(turbo, jobs, shown):
    run(BuildEngine, model=turbo, **ASKED)
    run(BuildEngine, "8", model=turbo, **ASKED)
    shown.clear()
    jobs[0].message, jobs[0].fraction = "building", 0.5
    jobs[0].changed(jobs[0])
    assert sorted(shown) == [(node, f"{NAME}: building, 50 %") for node in "78"]
    run(BuildEngine, model=turbo, **ASKED | {"name": "another"})
    shown.clear()
    jobs[0].changed(jobs[0])
    assert [node for node, _ in shown] == ["8"], "it asks for another engine now"


def test_a_build_is_not_told_under_another_graphs_node(turbo, jobs):
    run(BuildEngine, model=turbo, **ASKED)
    texts, asked = [], []
    ran = lambda node, kind: asked.append((node, kind))  # noqa: E731
    with host.use(host.Host(text=lambda text, node: texts.append(text), ran_last=ran)):
        jobs[0].changed(jobs[0])
    assert asked == [("7", "OstinatoBuildEngine")] and not texts


def test_the_node_runs_again_when_its_build_is_done_and_only_then(turbo, jobs):
    states = [fingerprint(BuildEngine, **ASKED)]
    run(BuildEngine, model=turbo, **ASKED)
    states.append(fingerprint(BuildEngine, **ASKED))
    jobs[0].ends(State.done)
    states.append(fingerprint(BuildEngine, **ASKED))
    assert states[0] == states[1] != states[2]
    assert fingerprint(BuildEngine, "8", **ASKED) == states[0]


def test_a_failed_build_is_told_and_not_tried_again_until_cancelled(turbo, jobs, shown):
    run(BuildEngine, model=turbo, **ASKED)
    jobs[0].ends(State.failed, EngineBuildError("the disk is full", "it needs room", "free some"))
    text = shown[-1][1]
    assert text.startswith("To try the build again, run once with action cancel.")
    assert "was not built: the disk is full; it needs room; free some." in text
    made = run(BuildEngine, model=turbo, **ASKED)
    assert len(jobs) == 1 and "was not built: the disk is full" in made[1] and isinstance(made[0], EagerEngine)
    run(BuildEngine, model=turbo, **ASKED | {"action": "cancel"})
    run(BuildEngine, model=turbo, **ASKED)
    assert len(jobs) == 2


def test_cancel(turbo, jobs):
    cancel = ASKED | {"action": "cancel"}
    assert f"no build of {NAME} runs\n\nplaying on eager" in run(BuildEngine, model=turbo, **cancel)[1]
    run(BuildEngine, model=turbo, **ASKED)
    assert "was cancelled" in run(BuildEngine, model=turbo, **cancel)[1]
    assert jobs[0].state is State.cancelled


def test_waiting_shows_progress_and_lets_cancel_through(turbo, jobs):
    seen = []
    before = fingerprint(BuildEngine, **ASKED)
    queue.Job.halves = True
    with host.use(host.Host(progress=lambda *told: seen.append(told))):
        made = run(BuildEngine, model=turbo, **ASKED | {"wait": True})
    assert seen == [(25, 100, "7"), (50, 100, "7")]
    assert made[1].startswith("this PyTorch sees no CUDA device"), "but the engine is there"
    assert fingerprint(BuildEngine, **ASKED) == before, "it was waited for, and is nothing new"

    def stop():
        raise KeyboardInterrupt

    with host.use(host.Host(cancelled=stop)), pytest.raises(KeyboardInterrupt):
        run(BuildEngine, model=turbo, **ASKED | {"wait": True, "name": "other"})


def test_missing_packages_leave_the_torch_engine_and_the_pip_line(turbo, on_machine, monkeypatch):
    on_machine({})
    monkeypatch.setattr(queue.preflight.importlib.util, "find_spec", lambda name: None)
    before = fingerprint(BuildEngine, **ASKED)
    made = run(BuildEngine, model=turbo, **ASKED)
    assert isinstance(made[0], EagerEngine) and fingerprint(BuildEngine, **ASKED) == before
    assert "not installed" in made[1] and f"run: {sys.executable} -m pip install polygraphy onnx" in made[1]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"batch": "4:1"}, "batch is '4:1'"),
        ({"name": "../x"}, "'../x'"),
        ({"what": "vae_decoder", "lora": True}, "lora|adapters"),
    ],
)
def test_wrong_settings_are_refused(turbo, jobs, changes, sentence):
    with pytest.raises(InputError, match=sentence):
        run(BuildEngine, model=turbo, **ASKED | changes)
    assert not jobs


def test_a_vae_is_built_beside_the_torch_decoder(turbo, jobs):
    run(BuildEngine, model=turbo, **ASKED | {"what": "vae_decoder"})
    jobs[0].ends(State.done)
    made = run(BuildEngine, model=turbo, **ASKED | {"what": "vae_decoder"})
    assert jobs[0].spec.profiles[0].tokens is None and jobs[0].spec.precision == "fp32"
    assert made[1].startswith(f"{jobs[0].spec.name} is built\n\nplaying on eager")


def test_what_is_there_and_fits_is_not_built(turbo, jobs, known, folder):
    run(BuildEngine, model=turbo, **ASKED | {"name": "one"})
    asked, weights = jobs.pop(), loader.digest_of(turbo, "decoder", "bf16")
    queue.builds().cancel("x", queue.Wanted(asked.spec, asked.folder, weights))
    plan, sidecar = made_up("one", spec=asked.spec)
    right = replace(sidecar, export=sidecar.export | {"weights": weights})
    for kept, started in (
        (right, 0),
        (replace(right, library="1.4.0.1"), 1),
        (
            replace(
                right,
                spec=replace(
                    asked.spec,
                    lora=True,
                    profiles=(replace(asked.spec.profiles[0], rank=asked.spec.profiles[0].batch),),
                ),
            ),
            1,
        ),
        (sidecar, 1),
        (replace(right, target={"compute_capabilities": [[12, 0]]}), 0),
    ):
        put(folder, plan, kept, Trust())
        made = run(BuildEngine, model=turbo, **ASKED | {"name": "one"})
        assert len(jobs) == started, made[1]
        run(BuildEngine, model=turbo, **ASKED | {"name": "one", "action": "cancel"})
        jobs.clear()
        assert isinstance(made[0], EagerEngine), "there is no GPU here"


def test_load_engine_lists_every_state(turbo, known, folder):
    right = {"export": {**made_up()[1].export, "weights": loader.digest_of(turbo, "decoder", "bf16")}}
    half = right["export"] | {"kind": "vae_decoder", "weights": loader.digest_of(turbo, "vae_decoder", "bf16")}
    put(folder, *made_up("good", **right), Trust())
    put(folder, *made_up("half", 3, export=half), Trust())
    put(folder, *made_up("other", 4), Trust())
    put(folder, *made_up("old", 1, library="1.4.0.1"), Trust())
    put(folder, *made_up("foreign", 2, **right))
    (folder / "broken.plan").write_bytes(b"x")
    combo = LoadEngine.define_schema().inputs[0]
    assert combo.options == ["broken", "foreign", "good", "half", "old", "other"]
    made = run(LoadEngine, engine="good", otherwise=TORCH, model=turbo)
    assert isinstance(made[0], EagerEngine) and made[1].startswith("this PyTorch sees no CUDA device")
    lines = made[1].splitlines()
    assert "- good: ready by its size, unverified on this GPU" in lines
    assert "- half: ready by its size, unverified on this GPU (for Load VAE Engine)" in lines
    for start in (
        "- old: stale: the engine was built with tensorrt_rtx version 1.4.0.1",
        "- broken: unusable: broken.plan.json",
        "- other: stale: the engine was made from another weights: aaaaaaaaaaaa; needed is",
    ):
        assert any(line.startswith(start) for line in lines), start
    assert any(line.startswith("- foreign: unusable: the engine foreign was not built by this") for line in lines)


def test_load_engine_falls_back_or_stops(turbo, known):
    assert LoadEngine.define_schema().inputs[0].options == [NOTHING] and LoadEngine.validate_inputs(engine="gone")
    made = run(LoadEngine, engine="gone", otherwise=TORCH, model=turbo)
    assert isinstance(made[0], EagerEngine) and "there is no engine 'gone'" in made[1]
    assert "there are no engines yet" in made[1]
    assert run(LoadEngine, engine="gone", otherwise=TORCH, fallback=(other := StandIn()))[0] is other
    for inputs in ({"otherwise": STOP, "model": turbo}, {"otherwise": TORCH}):
        with pytest.raises(EngineFileError, match="there is no engine 'gone'") as stopped:
            run(LoadEngine, engine="gone", **inputs)
        assert stopped.value.reason == "missing"


def test_an_engine_is_checked_then_plays_and_is_held_by_its_node(turbo, player, folder):
    player.make("one"), player.make("two")
    first = run(LoadEngine, engine="one", otherwise=STOP, model=turbo)[0]
    assert player.checks == ["one"] and run(LoadEngine, engine="one", otherwise=STOP, model=turbo)[0] is first
    assert run(LoadEngine, "8", engine="one", otherwise=STOP, model=turbo)[0] is first
    second = run(LoadEngine, engine="two", otherwise=STOP, model=turbo)[0]
    assert first.executor.engine is not None, "another node has it"
    run(LoadEngine, "8", engine="two", otherwise=STOP, model=turbo)
    assert first.executor.engine is None and second.executor.engine is not None


def test_an_engine_that_fails_its_check_is_closed(turbo, player, monkeypatch):
    player.make("one")

    def refuse(plan, **given):
        raise EngineError("the engine is not the reference", "it must be", "build it again")

    player.check = refuse
    made = run(LoadEngine, engine="one", otherwise=TORCH, model=turbo)
    assert isinstance(made[0], EagerEngine) and "not the reference" in made[1]
    assert not player.library.open_engines and not registry.one(loader.OpenEngines).held


def test_an_engine_of_other_weights_is_stale(turbo, base, player):
    player.make("one")
    with pytest.raises(EngineFileError, match="another weights") as stale:
        run(LoadEngine, engine="one", otherwise=STOP, model=base)
    assert stale.value.reason == "weights"
    assert run(LoadEngine, engine="one", otherwise=STOP)[0].name, "nobody says which weights"


def test_weights_in_a_coarser_precision_are_not_compared(turbo):
    part = SimpleNamespace(dtype=torch.bfloat16)
    coarse = SimpleNamespace(pipe=SimpleNamespace(transformer=part, vae=part), identity="coarse")
    assert loader.digest_of(coarse, "decoder", "fp32") is None
    assert len(loader.digest_of(turbo, "decoder", "bf16")) == 64 != loader.digest_of(turbo, "decoder", "fp32")


def test_adapters_chain_and_are_found_by_name_or_path(files):
    assert Lora.define_schema().inputs[0].options == ["mine/a.safetensors", "mine/b.safetensors"]
    (one,) = run(Lora, adapter="mine/a.safetensors", strength=0.5).args
    (both,) = run(Lora, adapter=str(files / "b.safetensors"), strength=-1.0, adapters=one).args
    assert both == ((files / "a.safetensors", 0.5), (files / "b.safetensors", -1.0))
    assert Lora.validate_inputs(adapter="mine/a.safetensors") is True and Lora.validate_inputs() is True
    assert "'c.safetensors' is not there; it was looked for in" in Lora.validate_inputs(adapter="c.safetensors")
    for wrong in (
        {"adapter": "c.safetensors", "strength": 1.0},
        {"adapter": "mine/a.safetensors", "strength": float("nan")},
    ):
        with pytest.raises(InputError):
            run(Lora, **wrong)


def denoise(engine, turbo, **more):
    sampling = {
        "count": 2,
        "depth": 2,
        "seed_step": 1,
        "steps": 3,
        "shift": 3.0,
        "denoise": 1.0,
        "seed": 1,
        "solver": "ode",
    }
    width = eager_engine(turbo).width
    made = run(StreamDenoise, engine=engine, condition=condition(1, 8, 5, False, width), **sampling, **more)
    return made[0]["samples"], made[2]


def test_a_stream_plays_its_adapters(turbo, files):
    engine = eager_engine(turbo)
    (loud,) = run(Lora, adapter="mine/a.safetensors", strength=1.0).args
    (still,) = run(Lora, adapter="mine/a.safetensors", strength=0.0).args
    (plain, _), (heard, take), (silent, _) = (denoise(engine, turbo, adapters=mix) for mix in ((), loud, still))
    assert not torch.equal(plain, heard) and torch.equal(plain, silent)
    assert take.events[0].what["strengths"] == (1.0,) and take.events[0].tick == 0


def test_an_engine_without_a_place_for_adapters_refuses_them(turbo, files):
    (mix,) = run(Lora, adapter="mine/a.safetensors", strength=1.0).args
    with pytest.raises(InputError, match="adapters were given to an engine that takes none"):
        denoise(StandIn(width=eager_engine(turbo).width), turbo, adapters=mix)


def merged_engine(turbo, mix):
    """An eager engine with adapters in its weights."""
    transformer = copy.deepcopy(turbo.pipe.transformer)
    changed = merged(dict(turbo.pipe.transformer.named_parameters()), mix, Targets.of(transformer))
    transformer.load_state_dict(changed, strict=False)
    return EagerEngine(transformer, "merged")


def test_adapters_are_baked_and_compared_with_eager(turbo, player, files, targets, monkeypatch):
    monkeypatch.setattr(bake, "Refit", FakeRefit)
    (adapters,) = run(Lora, adapter="mine/a.safetensors", strength=1.0).args
    mix = [(made_adapter(files, targets, 4), 1.0)]
    player.make("baked", merged_engine(turbo, mix), refittable=True)
    made = run(RefitLora, engine="baked", model=turbo, adapters=adapters)
    assert "with a 1; in one pass" in made[1]
    with pytest.raises(Refused):  # the stand-in's weights stay as they are
        run(RefitLora, engine="baked", model=turbo)
    plain = run(LoadEngine, "8", engine="baked", otherwise=STOP)[0]
    assert plain is not made[0], "other nodes' weights are not written over"
    assert made[0].identity == plain.identity and made[0].name == plain.name, "as pristine as its refit left it"
    again = run(RefitLora, engine="baked", model=turbo, adapters=adapters)[0]
    assert again is made[0] and again.identity != plain.identity


def test_a_refit_is_refused_before_anything_is_opened(turbo, player, monkeypatch):
    player.make("fixed")
    with pytest.raises(EngineError, match="not built refittable; .*; build it with refit allowed, or with LoRA inputs"):
        run(RefitLora, engine="fixed", model=turbo)
    with pytest.raises(EngineFileError, match="there is no engine 'gone'"):
        run(RefitLora, engine="gone", model=turbo)
    assert not player.library.open_engines


WORK = {"depth": 2, "seconds": 0.4, "steps": 2, "guidance": "off", "tokens": 4, "ticks": 2}


def test_a_layer_profile_is_drawn_and_compared(turbo):
    ticks = []
    with host.use(host.Host(progress=lambda done, total, node: ticks.append((done, total, node)))):
        image, table, profile = run(LayerProfiler, engine=eager_engine(turbo), **WORK).args
    assert image.shape[0] == 1 and image.shape[-1] == 3 and 0 <= image.min() and image.max() <= 1
    assert "depth 2, 0.4 s, 2 steps, unguided, 4 tokens" in table and ticks[-1][0] == ticks[-1][1]
    compared = run(LayerProfiler, engine=eager_engine(turbo), before=profile, **WORK | {"depth": 1})
    assert "note   workload: depth 2, 0.4 s" in compared[1] and compared.ui["text"] == (compared[1],)


def test_the_command_line_runs_them(cache, tmp_path, monkeypatch, known):
    def node(kind, **inputs):
        return {"class_type": f"Ostinato{kind}", "inputs": inputs}

    graph = {
        "model": node("LoadModel", model="random", precision="auto", device="cpu", download=False),
        "build": node("BuildEngine", model=["model", 0], **ASKED | {"action": "cancel"}),
        "load": node("LoadEngine", engine="gone", otherwise=TORCH, model=["model", 0], fallback=["build", 0]),
        "profile": node("LayerProfile", engine=["load", 0], **WORK),
    }
    (path := tmp_path / "graph.json").write_text(json.dumps(graph))
    done = CliRunner().invoke(main.app, ["run", str(path), "--out", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert any(f"no build of {NAME} runs" in text for text in report["texts"].values())
    assert len(report["files"]) == 1 and report["files"][0].endswith(".png")
