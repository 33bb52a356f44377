"""The proof of a fresh plan before it takes an older one's place: on the CPU, with the stand-in for the library."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace

import pytest
import torch
from ostinato.engine_runtime import machine as this_machine
from ostinato.engine_runtime.engines.eager import EagerEngine
from ostinato.engine_runtime.engines.profiles import Profile, Span
from ostinato.engine_runtime.engines.prove import Proof, Refused
from ostinato.engine_runtime.errors import EngineBuildError, EngineError, EngineFileError, MemoryShortage
from ostinato.engine_runtime.trt.build import worker
from ostinato.engine_runtime.trt.build.builder import Built
from ostinato.engine_runtime.trt.build.job import Job, State
from ostinato.engine_runtime.trt.export import record, source
from ostinato.engine_runtime.trt.files.plan import read_plan
from ostinato.engine_runtime.trt.files.sidecar import Expect
from ostinato.engine_runtime.trt.files.trust import Trust
from ostinato.engine_runtime.trt.health import check, state
from ostinato.engine_runtime.trt.library import preflight, process
from ostinato.engine_runtime.trt.play import tensorrt

from .... import trt_stand_in as stand_in
from ....engine_files import made_up, put
from ....trt_plan import LIBRARY
from ...refusal import check_sentence

PROFILE = Profile(Span(1, 2, 2), Span(2, 4, 6), Span(1, 8, 16))
HERE = Expect("tensorrt_rtx", LIBRARY, (8, 9), "A GPU")


@pytest.fixture
def plan(base):
    return stand_in.make(EagerEngine(base.pipe.transformer, "test"), PROFILE, rtx=True)


@pytest.fixture
def machine(plan, base, monkeypatch):
    """A machine that builds the stand-in's plan and has a GPU for it; what its checking process is told and says."""
    said = []
    library = stand_in.library(rtx=True)
    monkeypatch.setattr(this_machine, "driver_cuda", lambda: (13, 0))
    monkeypatch.setattr(preflight, "check_room", lambda *_: None)
    monkeypatch.setattr(state, "here", lambda *_: HERE)
    monkeypatch.setattr(check, "this_gpu", lambda: torch.device("cpu"))
    monkeypatch.setattr(source, "part_of", lambda _: base.pipe.transformer)
    monkeypatch.setattr(record, "weights_digest", lambda *_: plan.sidecar.export["weights"])

    def child(what, task, hear):
        """As a process of its own gets it and answers."""
        if what == "export":
            return {"onnx": str(worker.Path(task["folder"]) / "graph.onnx"), "peak_bytes": 7}
        said.append(what)
        return worker.check(json.loads(json.dumps(task)), lambda message: hear(message["fraction"], message["message"]))

    side = plan.sidecar
    built = Built(memoryview(plan.data), LIBRARY, side.target, {"refit": False}, side.io, 1.0)
    monkeypatch.setattr(worker, "run_child", child)
    monkeypatch.setattr(worker, "read_record", lambda *_: side.export)
    monkeypatch.setattr(worker, "build", lambda *_: built)
    with stand_in.loaded(library):
        yield said


@pytest.fixture
def place(tmp_path):
    """An engines folder with an older engine, under the name that is built; and the trust in it."""
    put(tmp_path / "engines", *made_up("old"), Trust(tmp_path / "home"))
    return tmp_path / "engines"


def built(plan, place, **changes):
    """Build as the child does; its last word and what it said of its state on the way."""
    heard = []
    spec = replace(plan.sidecar.spec, name="old", **changes)
    work = place / ".build-1"
    work.mkdir()
    task = {"spec": spec.as_json(), "folder": str(place), "home": str(place.parent / "home"), "work": work.name}
    try:
        return worker.build_in_order(task, spec, place, work, lambda *words: heard.append(words)), heard
    finally:
        worker.shutil.rmtree(work)


def check_old(place):
    assert read_plan(place / "old.plan", Expect(), Trust(place.parent / "home")) == made_up("old")


def check_new(place, plan):
    data, sidecar = read_plan(place / "old.plan", Expect("tensorrt_rtx"), Trust(place.parent / "home"))
    assert data == plan.data
    return sidecar


def test_a_plan_that_passes_takes_the_older_ones_place(plan, machine, place):
    said, heard = built(plan, place)
    sidecar = check_new(place, plan)
    assert machine == ["check"] and said == {"plan": str(place / "old.plan"), "unverified": ""}
    proof = Proof.of(sidecar.proof)
    assert [corner.name for corner in proof.corners] == ["minimum", "optimum", "maximum"] and proof.gpu == "cpu"
    assert set(sidecar.stages) == {"export", "build", "check"}
    assert [message for state, _, message in heard if state is State.checking][1:] == [
        "loading random",
        "comparing with eager",
    ]


BAD = {"louder": lambda out: 1.5 * out, "not finite": lambda out: out / 0, "silent": torch.zeros_like}


@pytest.mark.parametrize("bad", BAD)
def test_a_plan_that_fails_leaves_the_older_one(plan, machine, place, bad):
    plan.bend = BAD[bad]
    with pytest.raises(
        Refused, match=r"the engine is not the reference: minimum \(1 rows, 2 frames, 1 tokens\)"
    ) as error:
        built(plan, place)
    check_sentence(error.value)
    check_old(place)


def test_a_plan_that_the_library_refuses_leaves_the_older_one(plan, machine, place):
    plan.faults["deserialize_cuda_engine"] = 1
    with pytest.raises(EngineError, match="deserialize_cuda_engine"):
        built(plan, place)
    check_old(place)


def test_weights_that_changed_meanwhile_leave_the_older_one(plan, machine, place, monkeypatch):
    monkeypatch.setattr(record, "weights_digest", lambda *_: "e" * 64)
    with pytest.raises(EngineFileError) as error:
        built(plan, place)
    assert error.value.reason == "weights" and not plan.calls
    check_old(place)


def test_bytes_that_changed_meanwhile_are_not_opened(plan, machine, place, monkeypatch):
    real = worker.prove

    def swapped(task, sidecar, path, *rest):
        path.write_bytes(plan.data[::-1])
        return real(task, sidecar, path, *rest)

    monkeypatch.setattr(worker, "prove", swapped)
    with pytest.raises(EngineBuildError, match="gave back other bytes"):
        built(plan, place)
    assert not plan.calls
    check_old(place)


CANNOT = {
    "no driver": ("no NVIDIA driver answers", (this_machine, "driver_cuda", lambda: None)),
    "no CUDA in PyTorch": (
        "this PyTorch sees no CUDA device",
        (state, "here", lambda *_: Expect("tensorrt_rtx", LIBRARY)),
    ),
    "a GPU it does not run on": ("this GPU has 9.0", (state, "here", lambda *_: replace(HERE, capability=(9, 0)))),
}


@pytest.mark.parametrize("why", CANNOT)
def test_a_plan_that_cannot_run_here_is_put_in_place_unverified(plan, machine, place, monkeypatch, why):
    words, patch = CANNOT[why]
    monkeypatch.setattr(*patch)
    said, _ = built(plan, place)
    assert words in said["unverified"] and check_new(place, plan).proof is None and not plan.calls


def test_a_library_that_cannot_be_used_leaves_it_unverified(plan, machine, place, monkeypatch):
    def fails(_):
        raise EngineError("the library is odd", "it must not be", "install it")

    monkeypatch.setattr(tensorrt, "tensorrt", fails)
    assert built(plan, place)[0]["unverified"] == "the library is odd; it must not be"


def test_a_graph_of_no_known_model_is_not_compared(plan, machine, place):
    said, _ = built(plan, place, model=None, onnx="/graph.onnx")
    assert "is not known" in said["unverified"] and machine == []


def test_without_room_for_the_check_only_a_first_engine_is_put_in_place(plan, machine, place):
    plan.faults["context_no_room"] = 4
    with pytest.raises(MemoryShortage):
        built(plan, place)
    check_old(place)
    (place / "old.plan").unlink()
    said, _ = built(plan, place)
    assert "workspace needs" in said["unverified"] and check_new(place, plan).proof is None


@pytest.mark.parametrize("where", [(source, "part_of"), (check, "beside"), (check, "_decoder")])
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_without_room_for_the_reference_the_finished_build_is_not_lost(plan, machine, place, monkeypatch, where, error):
    def fails(*_):
        raise error

    monkeypatch.setattr(*where, fails)
    with pytest.raises(MemoryShortage, match="the check of old found no room") as caught:
        built(plan, place)
    check_sentence(caught.value)
    check_old(place)
    (place / "old.plan").unlink()
    said, _ = built(plan, place)
    assert "found no room" in said["unverified"] and check_new(place, plan).proof is None


def test_a_task_that_finds_no_memory_says_so_in_its_own_type(monkeypatch):
    """Also where CUDA itself finds none, as it starts."""

    def fails(*_):
        raise RuntimeError("CUDA error: out of memory")

    told = []
    monkeypatch.setattr(worker, "_channel", lambda: told.append)
    monkeypatch.setattr(worker.sys, "stdin", io.StringIO("{}\n"))
    monkeypatch.setitem(worker.TASKS, "check", fails)
    assert worker.run("check") == 3
    error = process.revived(told[0])
    assert type(error) is MemoryShortage and error.given == "the check found no memory"
    check_sentence(error)


def test_a_checking_process_is_heard_and_its_refusal_is_the_builds():
    said = [{"state": "checking", "fraction": 0.95, "message": "comparing with eager"}]
    error = {"type": "Refused", "given": "the engine is not the reference: minimum", "allowed": "a", "remedy": "r"}
    heard = []

    def answers(*words):
        lines = "\n".join(json.dumps(word) for word in words)
        command = [sys.executable, "-c", f"input(); print({lines!r})"]
        return worker.run_child("check", {}, lambda *words: heard.append(words), lambda _: command)

    assert answers(*said, {"proof": {"a": 1}}) == {"proof": {"a": 1}} and heard == [(0.95, "comparing with eager")]
    with pytest.raises(EngineBuildError, match="is not the reference: minimum; a; r"):
        answers(*said, {"error": error})


@pytest.mark.parametrize(
    ("word", "message"), [("", "built one.plan"), ("no GPU", "built one.plan, unverified: no GPU")]
)
def test_a_job_says_whether_its_engine_was_checked(tmp_path, plan, word, message):
    last = json.dumps({"plan": str(tmp_path / "one.plan"), "unverified": word})
    command = [sys.executable, "-c", f"input(); print({last!r})"]
    done = Job.start(replace(plan.sidecar.spec, name="one"), tmp_path, tmp_path / "home", command=command)
    assert done.wait(30) is State.done and (done.unverified, done.message) == (word, message)
