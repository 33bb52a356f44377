"""Real TensorRT-RTX builds in the child process, on a machine that needs no GPU, and every way in which one ends."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from ostinato.cli import main
from ostinato.engine_runtime import machine
from ostinato.engine_runtime.engines.profiles import Profile, Span
from ostinato.engine_runtime.errors import EngineBuildError, EngineFileError, ModelError
from ostinato.engine_runtime.trt.build import worker
from ostinato.engine_runtime.trt.build.job import Job, State
from ostinato.engine_runtime.trt.export.record import weights_digest
from ostinato.engine_runtime.trt.files.folder import HOLDER, claim
from ostinato.engine_runtime.trt.files.plan import read_plan
from ostinato.engine_runtime.trt.files.sidecar import Expect, read_sidecar
from ostinato.engine_runtime.trt.files.spec import SHORTEST, make_spec
from ostinato.engine_runtime.trt.files.trust import Trust
from ostinato.engine_runtime.trt.library.process import ended, revived, run_child
from typer.testing import CliRunner

from ....engine_files import made_up, put
from ....exports import builds, read
from ....onnx_check import Case, check_export
from ...refusal import check_sentence

ROOT = Path(__file__).resolve().parents[4]
POSIX = pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")

DYNAMIC = {"batch": "1:2:4", "seconds": "0.08:2:10", "tokens": "1:16:64"}
FIXED = {"batch": "2", "seconds": "2", "tokens": "16"}
VAE = {"batch": "1:1:2", "seconds": "0.04:1:4"}


@pytest.fixture(scope="module", autouse=True)
def _presets(cache):
    """Graphs are made of the presets."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An engines folder for all builds; its key and manifest lie beside it."""
    return tmp_path_factory.mktemp("built") / "engines"


def start(folder, spec, **options):
    return Job.start(spec, folder, folder.parent / "home", **options)


def of(onnx, texts, name=None, kind="decoder", **more):
    return make_spec("rtx", kind, {"onnx": str(onnx)}, texts, name, **more)


def check_left(folder):
    """Nothing but engines and their sidecars, and the lock's empty file."""
    names = sorted(path.name for path in folder.iterdir())
    assert [n for n in names if not n.endswith((".plan", ".plan.json", ".onnx", ".onnx.json", ".lock"))] == []
    assert len([n for n in names if n.endswith(".plan")]) == len([n for n in names if n.endswith(".plan.json")])


def until(what, seconds=60.0):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def whole(folder):
    """(job, what it said) of one build from a model to an engine: export, build, check."""
    heard = []
    spec = make_spec("rtx", "decoder", {"model": "random"}, DYNAMIC, "whole", keep_onnx=True)
    job = start(folder, spec, changed=lambda job: heard.append((job.state, job.fraction, job.message)))
    assert job.wait(300) is State.done, (job.error, job.tail)
    return job, heard


@pytest.fixture(scope="module")
def graph(whole):
    """The bfloat16 graph of `random` that the whole build kept."""
    return whole[0].folder / "whole.onnx"


# -- builds


@builds
def test_a_model_becomes_an_engine(whole, folder):
    job, heard = whole
    states = list(dict.fromkeys(state for state, _, _ in heard))
    assert states == [State.exporting, State.building, State.checking, State.done]
    fractions = [fraction for _, fraction, _ in heard]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0 and len(set(fractions)) > 20
    assert {"loading random", "tracing", "writing"} <= {message for _, _, message in heard}
    check_left(folder)
    data, sidecar = read_plan(job.plan, Expect("tensorrt_rtx", kind="decoder"), Trust(folder.parent / "home"))
    assert data[:4] == b"vtrt" and sidecar.random_weights
    assert (sidecar.proof is None) == bool(job.unverified)  # a GPU that it runs on has compared it with eager
    assert sidecar.spec == job.spec and sidecar.peak_bytes > 100 << 20
    assert {(8, 0), (8, 6), (8, 9), (12, 0)} <= {tuple(c) for c in sidecar.target["compute_capabilities"]}
    assert read_plan(job.plan, Expect(recipe=sidecar.export["recipe"]), Trust(folder.parent / "home"))


@builds
def test_its_graph_equals_eager(graph, turbo):
    model = copy.deepcopy(turbo.pipe.transformer).bfloat16()
    assert read(graph)["weights"] == weights_digest("decoder", model, "bf16")
    cases = [Case(rows, 2 * rows**2, 9 * rows) for rows in range(1, 9)]
    assert max(check_export(graph, model, cases)) < 1.5e-5  # as in test_export, through the upcast


@builds
@pytest.mark.parametrize(("name", "texts"), [("turbo", FIXED), ("low", {**DYNAMIC, "rank": "1:8:32"})])
def test_a_decoder_builds(graphs, name, texts, folder):
    """Of a graph that is there: with fixed shapes in float32; with LoRA inputs. `test_export_files` builds them all."""
    onnx, _ = graphs(name)
    record = read(onnx)
    job = start(folder, of(onnx, texts, name, precision=record["precision"], lora=bool(record["lora"])))
    assert job.wait(120) is State.done, (job.error, job.tail)
    _, sidecar = read_plan(
        job.plan, Expect(weights=record["weights"], recipe=record["recipe"]), Trust(folder.parent / "home")
    )
    ports = [*record["inputs"], *record["outputs"]]
    assert {one["name"]: one["dtype"] for one in sidecar.io} == {port["name"]: port["dtype"] for port in ports}
    assert len(sidecar.io) == (6 if name == "turbo" else 28)
    assert sidecar.flags["tf32"] is False and sidecar.flags["decomposable_attention"] == (name == "turbo")
    assert sidecar.profiles[0].batch == (Span(2, 2, 2) if name == "turbo" else Span(1, 2, 4))
    check_left(folder)


@builds
def test_a_vae_decoder_builds(folder, graphs):
    job = start(folder, of(graphs("voice")[0], VAE, "vae", "vae_decoder"))
    assert job.wait(120) is State.done, (job.error, job.tail)
    sidecar = read_sidecar(job.plan)
    assert [one["name"] for one in sidecar.io] == ["latents", "audio"]
    assert sidecar.profiles == (Profile(Span(1, 1, 2), Span(1, 25, 100)),)


@builds
def test_two_profiles_and_tf32_build(folder, graph):
    texts = {"batch": "1,2:2:4", "seconds": "2", "tokens": "1:16:64"}
    job = start(folder, of(graph, texts, "two", tf32=True))
    assert job.wait(120) is State.done, (job.error, job.tail)
    sidecar = read_sidecar(job.plan)
    assert len(sidecar.profiles) == 2 and sidecar.flags["tf32"] is True


@builds
def test_a_profile_that_the_graph_refuses_is_told_in_tensorrts_words(folder, graph, tmp_path):
    """The rows of all inputs are one dimension of the graph; a record that says otherwise fails the build."""
    broken = tmp_path / "odd.onnx"
    shutil.copy(graph, broken)
    record = json.loads(graph.with_name("whole.onnx.json").read_text())
    record["inputs"][3]["dims"] = [100, "l"]
    broken.with_name("odd.onnx.json").write_text(json.dumps(record))
    job = start(folder, of(broken, DYNAMIC, "odd"))
    assert job.wait(120) is State.failed and isinstance(job.error, EngineBuildError)
    assert "TensorRT could not build the engine: IBuilder" in job.error.given  # its own first words
    assert "(b: Input dimension" in job.error.given and "Invalid Engine" not in job.error.given
    check_sentence(job.error)
    check_left(folder)


@builds
@pytest.mark.parametrize("broken", ["graph", "record", "no record"])
def test_an_exported_graph_that_changed_is_refused(folder, graph, tmp_path, broken):
    onnx, record = tmp_path / "g.onnx", tmp_path / "g.onnx.json"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1 if broken == "graph" else 0
    onnx.write_bytes(data)
    kept = graph.with_name("whole.onnx.json").read_text()
    record.write_text(kept if broken == "graph" else "{" if broken == "record" else kept)
    if broken == "no record":
        record.unlink()
    job = start(folder, of(onnx, DYNAMIC, "changed"))
    assert job.wait(60) is State.failed and str(onnx) in job.error.given
    check_sentence(job.error)
    check_left(folder)


@builds
def test_a_graph_of_another_precision_is_refused(folder, graph):
    job = start(folder, of(graph, DYNAMIC, "other", precision="fp32"))
    assert job.wait(60) is State.failed and "is a decoder in bf16, without LoRA inputs" in job.error.given
    check_sentence(job.error)
    check_left(folder)


@builds
def test_a_refittable_build_needs_a_gpu(folder, graph):
    if machine.driver_cuda() is not None:
        pytest.skip("this machine has a GPU")
    job = start(folder, of(graph, DYNAMIC, "refit", refittable=True))
    assert job.wait(60) is State.failed and "no NVIDIA driver" in job.error.given
    assert "--refittable" in job.error.remedy
    check_left(folder)


@pytest.mark.parametrize(
    ("code", "kind", "given"),
    [
        ("""print('{"error": {"type": "ModelError", "given": "g", "allowed": "a", "remedy": "r"}}'); exit(3)""",
         ModelError, "g"),
        ("import os; os.abort()", EngineBuildError, "SIGABRT"),
        ("import sys; sys.stderr.write('no'); sys.exit(1)", EngineBuildError, "exit code 1"),
    ],
)  # fmt: skip
@POSIX
def test_how_the_exporting_process_ended_is_told(code, kind, given):
    with pytest.raises(kind) as caught:
        run_child("export", {}, lambda *_: None, lambda _: [sys.executable, "-c", "input()\n" + code])
    assert type(caught.value) is kind and given in caught.value.given


# -- ends


def old_engine(folder):
    """A whole engine that a build under its name would replace."""
    return put(folder, *made_up("old"), Trust(folder.parent / "home"))


def check_old(folder):
    data, sidecar = read_plan(folder / "old.plan", Expect(), Trust(folder.parent / "home"))
    assert (data, sidecar) == made_up("old")
    check_left(folder)


def gone(process):
    return process.poll() is not None and not any(line.startswith(str(process.pid)) for line in group(process.pid))


def group(pgid):
    done = subprocess.run(["ps", "-eo", "pgid=,pid="], capture_output=True, text=True, check=True)
    return [line.split()[1] for line in done.stdout.splitlines() if line.split()[0] == str(pgid)]


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / "engines"
    old_engine(folder)
    return folder


@builds
@POSIX
def test_cancel_while_exporting_leaves_nothing(place):
    job = start(place, make_spec("rtx", "decoder", {"model": "random"}, DYNAMIC, "old"))
    until(lambda: len(group(job.pid)) == 2)  # the builder, and the exporter it started
    begin = time.monotonic()
    assert job.cancel() is State.cancelled and time.monotonic() - begin < 5
    until(lambda: not group(job.pid), 5)
    check_old(place)
    assert job.error is None and job.plan is None
    with pytest.raises(EngineBuildError, match="cancelled"):
        job.result()


@builds
def test_cancel_while_building_leaves_nothing(place, graph):
    building = []
    job = start(place, of(graph, DYNAMIC, "old"), changed=lambda job: building.append(job.state is State.building))
    until(lambda: any(building))
    assert job.cancel() is State.cancelled
    check_old(place)
    assert job.cancel() is State.cancelled  # once more does nothing


@builds
@POSIX
@pytest.mark.parametrize("who", ["builder", "exporter"])
def test_a_killed_process_is_told_as_such(place, graph, who):
    if who == "builder":
        job = start(place, of(graph, DYNAMIC, "old"))
        until(lambda: (place / HOLDER).exists())
        os.kill(job.pid, signal.SIGKILL)
    else:
        job = start(place, make_spec("rtx", "decoder", {"model": "random"}, DYNAMIC, "old"))
        until(lambda: len(group(job.pid)) == 2)
        os.kill(next(int(p) for p in group(job.pid) if int(p) != job.pid), signal.SIGKILL)
    assert job.wait(30) is State.failed
    assert "killed (signal 9)" in job.error.given and "memory" in job.error.allowed
    check_sentence(job.error)
    check_old(place)


@builds
@POSIX
def test_a_crash_is_told_with_its_last_words(place, graph):
    job = start(place, of(graph, DYNAMIC, "old"))
    until(lambda: (place / HOLDER).exists())
    os.kill(job.pid, signal.SIGSEGV)
    assert job.wait(30) is State.failed and "SIGSEGV" in job.error.given
    check_sentence(job.error)
    check_old(place)


def test_the_message_ends_with_the_last_lines():
    error = ended(1, ["Traceback", "  File x", "", "ValueError: the disk is odd."])
    check_sentence(error)
    assert "exit code 1" in error.given
    assert str(error).endswith("; it said last: Traceback / File x / ValueError: the disk is odd.")


def test_the_last_lines_of_a_child_of_the_build_come_through(capfd):
    """An export that dies is a child of the child; its error crosses two pipes."""
    dies = "import sys; sys.stdin.readline(); print('on the way', file=sys.stderr); raise ValueError('odd weights')"
    with pytest.raises(EngineBuildError) as raised:
        run_child("export", {}, lambda *said: None, lambda _: [sys.executable, "-c", dies])
    again = revived({"error": worker.packed(raised.value)})
    assert type(again) is EngineBuildError and str(again) == str(raised.value)
    assert str(again).endswith("ValueError: odd weights.") and "on the way" in capfd.readouterr().err


@builds
def test_a_disk_that_takes_no_more_is_told_and_the_old_engine_stays(place, graph):
    """The system's limit on a file's size stands for a full disk: the plan is larger."""
    resource = pytest.importorskip("resource", reason="limits as POSIX has them")
    if not hasattr(resource, "prlimit"):
        pytest.skip("no limits for another process on this system")
    job = start(place, of(graph, DYNAMIC, "old"))
    until(lambda: (place / HOLDER).exists())
    resource.prlimit(job.pid, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    assert job.wait(60) is State.failed and type(job.error) is EngineFileError
    assert "old.plan cannot be written" in job.error.given and job.error.reason == "folder"
    check_sentence(job.error)
    check_old(place)


@builds
def test_a_new_engine_takes_the_place_of_the_old(place, graph):
    job = start(place, of(graph, FIXED, "old"))
    assert job.wait(120) is State.done, (job.error, job.tail)
    data, sidecar = read_plan(place / "old.plan", Expect(), Trust(place.parent / "home"))
    assert data[:4] == b"vtrt" and sidecar.export["precision"] == "bf16"  # whole turbo
    assert sidecar.profiles == (Profile(Span(2, 2, 2), Span(50, 50, 50), Span(16, 16, 16)),)
    assert (place / "old.plan").stat().st_size > 100_000
    check_left(place)


@builds
def test_the_shortest_span_is_the_librarys(place, graph):
    texts = {"batch": "1:2:2", "seconds": f"1:1:{SHORTEST / 25}", "tokens": "16:16:32"}
    spec = of(graph, texts, "short")
    assert start(place, spec).wait(120) is State.done
    (profile,) = spec.profiles
    shorter = replace(profile, frames=Span(26, 26, SHORTEST - 2))
    job = start(place, replace(spec, name="shorter", profiles=(shorter,)))
    assert job.wait(120) is State.failed, "this release builds it: lower SHORTEST"
    assert "more than one op named" in job.error.given


@builds
def test_a_second_build_waits_or_says_which_runs(place, graph):
    with claim(place, "first", False, lambda _: False):
        job = start(place, of(graph, FIXED, "second"), wait=False)
        assert job.wait(60) is State.failed
        assert f"the build of first (process {os.getpid()}" in job.error.given
        check_sentence(job.error)
        waiting = start(place, of(graph, FIXED, "third"))
        until(lambda: "waits for the build of first" in waiting.message)
        assert waiting.state is State.waiting
    assert waiting.wait(60) is State.done, (waiting.error, waiting.tail)
    check_left(place)


@builds
def test_a_build_that_waits_can_be_cancelled(place, graph):
    with claim(place, "first", False, lambda _: False):
        job = start(place, of(graph, FIXED, "old"))
        until(lambda: "waits" in job.message)
        assert job.cancel() is State.cancelled
    check_old(place)


@builds
def test_a_build_ends_with_the_process_that_asked(place, graph):
    code = (
        "import os, sys, time; from pathlib import Path; from ostinato.engine_runtime.trt.build.job import *\n"
        "spec = BuildSpec.of(json.loads(sys.argv[1])); place = Path(sys.argv[2])\n"
        "job = Job.start(spec, place, place.parent / 'home')\n"
        "while not list(place.glob('.build-*/')): time.sleep(0.01)\n"
        "print(job.pid, flush=True); os._exit(0)"
    )
    spec = json.dumps(make_spec("rtx", "decoder", {"model": "random"}, DYNAMIC, "old").as_json())
    done = subprocess.run([sys.executable, "-c", code, spec, str(place)], capture_output=True, text=True, check=True)
    until(lambda: not group(int(done.stdout)), 20)
    until(lambda: not [path for path in place.glob(".build-*/") if path.is_dir()], 5)
    check_old(place)


@builds
def test_a_build_runs_in_a_pack_of_any_name(tmp_path, graph):
    """As ComfyUI does it: the pack is imported from a folder of any name, under its path, and is installed nowhere."""
    pack = tmp_path / "custom_nodes" / "my pack-1.0 (old)"
    shutil.copytree(ROOT / "engine_runtime", pack / "engine_runtime", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "__init__.py", pack)
    code = f"""
import importlib, importlib.util, json, sys
path = {str(pack)!r}
name = path.replace(".", "_x_")
spec = importlib.util.spec_from_file_location(name, path + "/__init__.py", submodule_search_locations=[path])
sys.modules[name] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
job = importlib.import_module(name + ".engine_runtime.trt.build.job")
process = importlib.import_module(name + ".engine_runtime.trt.library.process")
from pathlib import Path
spec = job.BuildSpec.of(json.loads(sys.argv[1]))
made = job.Job.start(spec, Path({str(tmp_path / "engines")!r}), Path({str(tmp_path / "home")!r}))
print(made.wait(100).value, process.CHILD, made.error, "ostinato" in sys.modules)
"""
    spec = json.dumps(of(graph, FIXED, "packed").as_json())
    done = subprocess.run([sys.executable, "-c", code, spec], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == f"done {pack / 'engine_runtime' / 'trt' / 'library' / 'child.py'} None False", (
        done.stderr
    )
    assert read_plan(tmp_path / "engines" / "packed.plan", Expect(), Trust(tmp_path / "home"))


# -- the command line


@pytest.fixture
def ostinato(tmp_path, places):
    places(data=tmp_path / "home")
    return lambda *words: CliRunner().invoke(main.app, [str(word) for word in words])


@builds
def test_the_commands_build_and_inspect(ostinato, tmp_path, graph):
    shapes = [word for name, text in FIXED.items() for word in (f"--{name}", text)]
    made = ostinato("build", "--onnx", graph, *shapes, "--name", "made", "--json")
    assert made.exit_code == 0, made.output
    plan = tmp_path / "home" / "engines" / "made.plan"
    assert json.loads(made.stdout)["plan"] == str(plan)
    seen = ostinato("inspect", "made")
    assert seen.exit_code == 0 and seen.stdout.startswith("made: ready, unverified on this GPU")
    again = next(line.split("again", 1)[1].split() for line in seen.stdout.splitlines() if "again" in line)
    assert again[:2] == ["ostinato", "build"]
    assert ostinato(*again[1:]).exit_code == 0  # the very command that it gives
    plan.write_bytes(plan.read_bytes()[:-1])
    assert "truncated" in ostinato("inspect", plan, "--json").stdout
    doctor = ostinato("doctor")
    assert doctor.exit_code == 1 and "made.plan is unusable" in doctor.stdout and "run ostinato build" in doctor.stdout


@builds
@POSIX
def test_ctrl_c_cancels(place):
    words = ["build", "--model", "random", "--name", "old", "--engines", str(place)]
    code = "from ostinato.cli.main import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "OSTINATO_DATA": str(place.parent / "home")},
    ) as process:  # fmt: skip
        until(lambda: any(path.is_dir() for path in place.glob(".build-*/")))
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=20)
    assert process.returncode == 130 and out == "" and "nothing was left behind" in error
    check_old(place)


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ([], "no model is given"),
        (["--model", "random", "--size", "2b"], "no single source"),
        (["--model", "random", "--batch", "4:2:16"], "batch"),
        (["--model", "random", "--batch", "1:2"], "batch"),
        (["--model", "random", "--batch", "1:2:65"], "batch is 65"),
        (["--model", "random", "--seconds", "0"], "seconds"),
        (["--model", "random", "--seconds", "1:2:601"], "seconds are 601"),
        (["--model", "random", "--tokens", "nan"], "tokens"),
        (["--model", "random", "--rank", "8"], "rank"),
        (["--model", "random", "--batch", "1,2", "--seconds", "1,2,3"], "spans"),
        (["--model", "random", "--name", "../up"], "'../up'"),
        (["--model", "random", "--what", "vae-decoder", "--precision", "bf16"], "bf16"),
        (["--model", "random", "--what", "vae-decoder", "--tokens", "16"], "tokens"),
        (["--model", "random", "--what", "vae-decoder", "--refittable"], "refitting"),
    ],
)
def test_a_wrong_build_is_refused_before_it_starts(ostinato, words, given):
    done = ostinato("build", *words)
    assert done.exit_code == 2 and given in done.stderr and done.stdout == ""
    assert "\n" not in done.stderr.strip() and done.stderr.strip().endswith(".")
