"""The proof of a fresh plan before it takes an older one's place: on the CPU, with the stand-in for the library."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ostinato.engine_runtime.engines.eager import EagerEngine
from ostinato.engine_runtime.engines.profiles import Profile, Span
from ostinato.engine_runtime.engines.prove import Proof, Refused
from ostinato.engine_runtime.errors import EngineBuildError, EngineError, EngineFileError, MemoryShortage
from ostinato.engine_runtime.trt.build import worker
from ostinato.engine_runtime.trt.build.builder import Built
from ostinato.engine_runtime.trt.build.job import Job, State
from ostinato.engine_runtime.trt.export.record import weights_digest
from ostinato.engine_runtime.trt.files.folder import file_hash
from ostinato.engine_runtime.trt.files.plan import read_plan
from ostinato.engine_runtime.trt.files.sidecar import Expect
from ostinato.engine_runtime.trt.files.trust import Trust
from ostinato.engine_runtime.trt.library import process

from .... import trt_stand_in as stand_in
from ....engine_files import made_up, put
from ....trt_plan import LIBRARY
from ...refusal import check_sentence

PROFILE = Profile(Span(1, 2, 2), Span(2, 4, 6), Span(1, 8, 16))
HERE = Expect("tensorrt_rtx", LIBRARY, (8, 9), "A GPU")


@pytest.fixture
def plan(base):
    """Of the built-in model `random-base`, as its record and its spec say."""
    made = stand_in.make(EagerEngine(base.pipe.transformer, "test"), PROFILE, rtx=True)
    weights = {"weights": weights_digest("decoder", base.pipe.transformer, "fp32")}
    spec = replace(made.sidecar.spec, name="old", model="random-base")
    made.sidecar = replace(made.sidecar, export=made.sidecar.export | weights, spec=spec)
    return made


@dataclass
class Machine:
    """A machine that builds the stand-in's plan and has a GPU for it.

    Attributes:
        said: what its checking process was told to do.
        here: of its library and GPU.
        driver: its driver's CUDA.
        hears: called with each message of its checking process.
        begins: called with the task of its checking process.
    """

    plan: stand_in.Plan
    said: list[str] = field(default_factory=list)
    here: Expect = HERE
    driver: tuple[int, int] | None = (13, 0)
    hears: Callable[[str], None] = lambda _: None
    begins: Callable[[dict[str, Any]], None] = lambda _: None

    def run_child(self, what, task, hear):
        """As a process of its own gets it and answers."""
        if what == "export":
            return self.export(Path(task["folder"]) / "graph.onnx")
        self.said.append(what)
        self.begins(task)

        def tell(message):
            hear(message["fraction"], message["message"])
            self.hears(message["message"])

        return worker.check(json.loads(json.dumps(task)), tell, lambda *_: self.here, torch.device("cpu"))

    def export(self, onnx):
        """Write a file in place of the graph, and the plan's record of it."""
        onnx.write_bytes(b"graph")
        record = self.plan.sidecar.export | {"onnx_sha256": file_hash(onnx)}
        onnx.with_name(f"{onnx.name}.json").write_text(json.dumps(record))
        return {"onnx": str(onnx), "peak_bytes": 7}

    def build(self, *_):
        side = self.plan.sidecar
        return Built(memoryview(self.plan.data), LIBRARY, side.target, {"refit": False}, side.io, 1.0)


@pytest.fixture
def machine(plan, cache):
    with stand_in.loaded(stand_in.library(rtx=True)):
        yield Machine(plan)


@pytest.fixture
def place(tmp_path):
    """An engines folder with an older engine, under the name that is built; and the trust in it."""
    put(tmp_path / "engines", *made_up("old"), Trust(tmp_path / "home"))
    return tmp_path / "engines"


def built(machine, place, **changes):
    """Build as the child does; its last word and what it said of its state on the way."""
    heard = []
    spec = replace(machine.plan.sidecar.spec, **changes)
    tools = worker.Tools(machine.run_child, machine.build, lambda: machine.driver)
    work = place / ".build-1"
    work.mkdir()
    task = {"spec": spec.as_json(), "folder": str(place), "home": str(place.parent / "home"), "work": work.name}
    try:
        return worker.build_in_order(task, spec, place, work, lambda *words: heard.append(words), tools), heard
    finally:
        shutil.rmtree(work)


def check_old(place):
    assert read_plan(place / "old.plan", Expect(), Trust(place.parent / "home")) == made_up("old")


def check_new(place, plan):
    data, sidecar = read_plan(place / "old.plan", Expect("tensorrt_rtx"), Trust(place.parent / "home"))
    assert data == plan.data
    return sidecar


def test_a_plan_that_passes_takes_the_older_ones_place(plan, machine, place):
    said, heard = built(machine, place)
    sidecar = check_new(place, plan)
    assert machine.said == ["check"] and said == {"plan": str(place / "old.plan"), "unverified": ""}
    proof = Proof.of(sidecar.proof)
    assert [corner.name for corner in proof.corners] == ["minimum", "optimum", "maximum"] and proof.gpu == "cpu"
    assert set(sidecar.stages) == {"export", "build", "check"}
    assert [message for state, _, message in heard if state is State.checking][1:] == [
        "loading random-base",
        "comparing with eager",
    ]


BAD = {"louder": lambda out: 1.5 * out, "not finite": lambda out: out / 0, "silent": torch.zeros_like}


@pytest.mark.parametrize("bad", BAD)
def test_a_plan_that_fails_leaves_the_older_one(plan, machine, place, bad):
    plan.bend = BAD[bad]
    with pytest.raises(
        Refused, match=r"the engine is not the reference: minimum \(1 rows, 2 frames, 1 tokens\)"
    ) as error:
        built(machine, place)
    check_sentence(error.value)
    check_old(place)


def test_a_plan_that_the_library_refuses_leaves_the_older_one(plan, machine, place):
    plan.faults["deserialize_cuda_engine"] = 1
    with pytest.raises(EngineError, match="deserialize_cuda_engine"):
        built(machine, place)
    check_old(place)


def test_weights_that_changed_meanwhile_leave_the_older_one(plan, machine, place):
    plan.sidecar = replace(plan.sidecar, export=plan.sidecar.export | {"weights": "e" * 64})
    with pytest.raises(EngineFileError) as error:
        built(machine, place)
    assert error.value.reason == "weights" and not plan.calls
    check_old(place)


def test_bytes_that_changed_meanwhile_are_not_opened(plan, machine, place):
    machine.begins = lambda task: Path(task["plan"]).write_bytes(plan.data[::-1])
    with pytest.raises(EngineBuildError, match="gave back other bytes"):
        built(machine, place)
    assert not plan.calls
    check_old(place)


CANNOT = {
    "no driver": ("no NVIDIA driver answers", {"driver": None}),
    "no CUDA in PyTorch": ("this PyTorch sees no CUDA device", {"here": Expect("tensorrt_rtx", LIBRARY)}),
    "a GPU it does not run on": ("this GPU has 9.0", {"here": replace(HERE, capability=(9, 0))}),
}


@pytest.mark.parametrize("why", CANNOT)
def test_a_plan_that_cannot_run_here_is_put_in_place_unverified(plan, machine, place, why):
    words, changes = CANNOT[why]
    said, _ = built(replace(machine, **changes), place)
    assert words in said["unverified"] and check_new(place, plan).proof is None and not plan.calls


def test_a_library_that_cannot_be_used_leaves_it_unverified(machine, place):
    with stand_in.loaded(stand_in.library()):
        said, _ = built(machine, place)
    assert re.search("this process runs TensorRT .*; a process holds one TensorRT", said["unverified"])


def test_a_graph_of_no_known_model_is_not_compared(machine, place):
    graph = machine.export(place / "theirs.onnx")["onnx"]
    said, _ = built(machine, place, model=None, onnx=graph)
    assert "is not known" in said["unverified"] and machine.said == []


def test_without_room_for_the_check_only_a_first_engine_is_put_in_place(plan, machine, place):
    plan.faults["context_no_room"] = 4
    with pytest.raises(MemoryShortage):
        built(machine, place)
    check_old(place)
    (place / "old.plan").unlink()
    said, _ = built(machine, place)
    assert "workspace needs" in said["unverified"] and check_new(place, plan).proof is None


@pytest.mark.parametrize("where", ["loading random-base", "comparing with eager", "running"])
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_without_room_for_the_reference_the_finished_build_is_not_lost(plan, machine, place, where, error):
    def hears(message):
        if message == where:
            raise error

    def bend(out):
        raise error

    machine.hears = hears
    if where == "running":
        plan.bend = bend
    with pytest.raises(MemoryShortage, match="the check of old found no room") as caught:
        built(machine, place)
    check_sentence(caught.value)
    check_old(place)
    (place / "old.plan").unlink()
    said, _ = built(machine, place)
    assert "found no room" in said["unverified"] and check_new(place, plan).proof is None


def test_a_task_that_finds_no_memory_says_so_in_its_own_type():
    """Also where CUDA itself finds none, as it starts."""

    def fails(*_):
        raise RuntimeError("CUDA error: out of memory")

    told = []
    assert worker.attempt("check", {}, told.append, fails) == 3
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
        return process.run_child("check", {}, lambda *words: heard.append(words), lambda _: command)

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
