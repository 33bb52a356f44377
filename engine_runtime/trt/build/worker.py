"""Runs inside the child process: exports, builds, checks, and moves the engine into place.

Export and check run in children of their own, whose memory is freed with them.

A task comes as one line of JSON on stdin, which stays open: when it closes, the caller is gone and this process ends.
Messages go to stdout as lines of JSON: `{"state", "fraction", "message"}`, and at last the task's result, `{"plan",
...}` of a build, or `{"error": {"type", "given", "allowed", "remedy"}}`. Whatever libraries print goes to stderr.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import machine
from ...errors import EngineError, EngineFileError, MemoryShortage, OstinatoError
from ...registry import registry
from ..files.folder import claim, commit, forget, ready_folder, refused_write, write_whole
from ..files.sidecar import Expect, Sidecar, check_fit, parse, rewritten, sidecar_path
from ..files.spec import BuildSpec
from ..files.trust import Trust
from ..health import state
from ..library import preflight
from ..library.process import run_child
from .assemble import check_io, make_sidecar, read_record, read_written, write_plan
from .builder import Built, build
from .job import State

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)
EXPORTED, BUILT = 0.6, 0.95  # share of the whole by the end of each
STEP = 0.005  # smallest progress that is reported
Tell = Callable[[dict[str, Any]], None]
Say = Callable[[State, float, str], None]


@dataclass(frozen=True)
class Tools:
    """The parts of a build that need processes, TensorRT and a driver."""

    run_child: Callable[[str, dict[str, Any], Callable[[float, str], None]], dict[str, Any]] = run_child
    build: Callable[..., Built] = build
    driver_cuda: Callable[[], tuple[int, int] | None] = machine.driver_cuda


def run(what: str) -> int:
    """Run one task, report its result, and return the exit code."""
    tell = _channel()
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    task = json.loads(sys.stdin.readline())
    if "work" in task:
        work = Path(task["folder"]) / task["work"]
        threading.Thread(target=_watch, args=(work,), daemon=True).start()
    return attempt(what, task, tell, TASKS[what])


def attempt(what: str, task: dict[str, Any], tell: Tell, do: Callable[[dict[str, Any], Tell], dict[str, Any]]) -> int:
    """Do a task, tell its result or its error, and return the exit code."""
    try:
        tell(do(task, tell))
    except OstinatoError as error:
        tell({"error": packed(error)})
        return 3
    except OSError as error:  # from the exporter, which writes the largest files
        tell({"error": packed(refused_write(Path(error.filename or task.get("folder", ".")), error))})
        return 3
    except Exception as error:
        from ...device.memory import is_shortage  # imports torch, which the building process does not need

        if not is_shortage(error):
            raise
        tell({"error": packed(_shortage(what))})
        return 3
    return 0


def _channel() -> Tell:
    """Send messages to the original stdout and turn stdout into stderr, also for native code."""
    sys.stdout.flush()
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    lock = threading.Lock()

    def tell(message: dict[str, Any]) -> None:
        with lock, contextlib.suppress(BrokenPipeError):
            out.write(json.dumps(message) + "\n")

    return tell


def _watch(work: Path) -> None:
    """Wait until the caller is gone, then remove the work folder and exit; files being moved into place are finished
    first."""
    with contextlib.suppress(OSError):
        while os.read(0, 1 << 12):  # not sys.stdin: a thread would hold its lock when the interpreter ends
            pass
    with registry.one(_Renames).lock:
        shutil.rmtree(work, ignore_errors=True)
        forget(work.parent, os.getpid())
        os._exit(4)


class _Renames:
    """Files being moved into place."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep Cancel and the caller's end from interrupting the renames."""
    with registry.one(_Renames).lock:
        before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


def packed(error: OstinatoError) -> dict[str, Any]:
    """Make plain data of an error, of which `process.revived` makes it again."""
    data = {"type": type(error).__name__, "given": error.given, "allowed": error.allowed, "remedy": error.remedy}
    return data | {name: getattr(error, name) for name in ("reason", "tail") if hasattr(error, name)}


def _shortage(what: str) -> MemoryShortage:
    return MemoryShortage(
        f"the {what} found no memory",
        "the weights and the engine are held at once",
        "close other programs, or build on a machine with more memory",
    )


def _build(task: dict[str, Any], tell: Tell) -> dict[str, Any]:
    spec = BuildSpec.of(task["spec"])
    folder = ready_folder(Path(task["folder"]))

    def say(state: State, fraction: float, message: str) -> None:
        tell({"state": state.value, "fraction": fraction, "message": message})

    needed = preflight.BUILD_PACKAGES + (() if spec.onnx else preflight.EXPORT_PACKAGES)
    preflight.check_packages(needed, spec.flavor)
    preflight.check_gpu(spec.flavor, spec.refittable)
    preflight.check_cuda(spec.flavor, spec.refittable)
    library = str(preflight.check_library(spec.flavor).__version__)
    trust = Trust(Path(task["home"]))
    trust.ready()
    with claim(folder, spec.name, task["wait"], trust.has, lambda who: say(State.waiting, 0.0, f"waits for {who}")):
        work = folder / task["work"]
        work.mkdir()
        try:
            return build_in_order({**task, "library": library}, spec, folder, work, say)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def build_in_order(
    task: dict[str, Any], spec: BuildSpec, folder: Path, work: Path, say: Say, tools: Tools = Tools()
) -> dict[str, Any]:
    """Export, build and check an engine in `work`, then move it into `folder`; returns the build's last message."""
    start = time.monotonic()
    exported = exported_graph(task, spec, work, say, tools)
    stages = {"export": round(time.monotonic() - start, 1)}
    plan = work / f"{spec.name}.plan"
    sidecar = _built(Path(exported["onnx"]), spec, folder, plan, exported["peak_bytes"], stages, say, tools)
    say(State.checking, BUILT, "checking the engine")
    begin = time.monotonic()
    proof, unverified = prove(task, sidecar, plan, folder, say, tools)
    stages = {**sidecar.stages, "check": round(time.monotonic() - begin, 1)}
    sidecar = replace(sidecar, proof=proof, stages=stages, seconds=round(time.monotonic() - start, 1))
    write_whole(sidecar_path(plan), rewritten(sidecar))
    with _undisturbed():
        Trust(Path(task["home"])).record(sidecar)
        plan = commit(work, folder, spec.name)
        if spec.keep_onnx and not spec.onnx:
            for made in work.glob(f"{spec.name}.onnx*"):
                os.replace(made, folder / made.name)
    return {"plan": str(plan), "unverified": unverified}


def exported_graph(task: dict[str, Any], spec: BuildSpec, work: Path, say: Say, tools: Tools) -> dict[str, Any]:
    """Return `{"onnx", "peak_bytes"}` of an export in its own process, or of the given graph."""
    if spec.onnx is not None:
        return {"onnx": spec.onnx, "peak_bytes": None}
    say(State.exporting, 0.0, f"exporting {spec.model or spec.size}")
    return tools.run_child("export", task, lambda share, what: say(State.exporting, share * EXPORTED, what))


def _built(
    onnx: Path,
    spec: BuildSpec,
    folder: Path,
    plan: Path,
    peak: int | None,
    stages: dict[str, float],
    say: Say,
    tools: Tools,
) -> Sidecar:
    """Build and write `plan`; its memory is freed on return. The sidecar is not written yet."""
    record = read_record(onnx, spec)
    weights = sum(f.stat().st_size for f in (onnx, onnx.with_name(onnx.name + ".data")) if f.exists())
    preflight.check_room(folder, int(weights * preflight.PLAN_FACTOR * len(spec.profiles)), "the engine")
    preflight.check_memory(preflight.build_memory(weights, len(spec.profiles)))
    begin = reported = 0.0 if spec.onnx else EXPORTED
    say(State.building, begin, f"building {spec.name}")

    def progress(fraction: float) -> None:
        nonlocal reported
        if (now := begin + fraction * (BUILT - begin)) - reported >= STEP:
            reported = now
            say(State.building, now, f"building {spec.name}")

    built = tools.build(onnx, record, spec, folder / f".timing-{spec.flavor}.cache", progress)
    check_io(built, record)
    peak = max(peak or 0, machine.resident(peak=True) or 0) or None
    sidecar = make_sidecar(spec, record, built, {**stages, "build": round(built.seconds, 1)}, peak)
    write_plan(plan, built, sidecar)
    return sidecar


def prove(
    task: dict[str, Any], sidecar: Sidecar, plan: Path, folder: Path, say: Say, tools: Tools
) -> tuple[dict[str, Any] | None, str]:
    """Check a plan that is not in place yet; returns (figures, why there are none).

    Raises:
        OstinatoError: when it fails the check, or when there is no memory for the check and an older engine would be
            replaced.
    """
    if sidecar.spec.onnx is not None:
        return None, "the model of its graph is not known, and ostinato doctor --engine FILE --model MODEL names it"
    if tools.driver_cuda() is None:
        return None, "no NVIDIA driver answers on this machine"
    asked = {**task, "sidecar": sidecar.as_json(), "plan": str(plan)}
    try:
        said = tools.run_child("check", asked, lambda _, what: say(State.checking, BUILT, what))
    except MemoryShortage as error:
        if (folder / plan.name).exists():
            raise
        return None, f"{error.given}; {error.allowed}"
    return said.get("proof"), said.get("unverified", "")


def _export(task: dict[str, Any], tell: Tell) -> dict[str, Any]:
    from ..export.source import export_spec

    def say(fraction: float, message: str) -> None:
        tell({"state": State.exporting.value, "fraction": fraction, "message": message})

    folder = Path(task["folder"])
    onnx = export_spec(BuildSpec.of(task["spec"]), folder / task["work"], task["library"], say)
    return {"onnx": str(onnx), "peak_bytes": machine.resident(peak=True)}


def check(
    task: dict[str, Any],
    tell: Tell,
    here: Callable[[str, str], Expect] = state.here,
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Return `{"proof"}` of a plan that was just written, or `{"unverified"}` with why it cannot be checked here.

    Args:
        here: returns what an engine of a flavor and a library's version must be on this machine.
        device: to run on; None is the current CUDA device.
    """
    from ..health.check import compare, this_gpu
    from ..play.tensorrt import tensorrt

    sidecar, plan = parse(task["sidecar"]), Path(task["plan"])
    place = here(sidecar.flavor, sidecar.library)
    if place.capability is None:
        return {"unverified": "this PyTorch sees no CUDA device"}
    try:
        check_fit(sidecar, place)
        tensorrt(sidecar.flavor)
    except (EngineError, EngineFileError) as error:
        return {"unverified": f"{error.given}; {error.allowed}"}

    def read(expect: Expect) -> bytes:
        check_fit(sidecar, expect, plan)
        return read_written(plan, sidecar)

    def say(what: str) -> None:
        tell({"state": State.checking.value, "fraction": BUILT, "message": what})

    return {"proof": compare(sidecar, place, device or this_gpu(), read, tell=say)}


def _probe(task: dict[str, Any], tell: Tell) -> dict[str, Any]:
    from ..library.flavor import probe

    return {"version": probe(task["flavor"]).version}


TASKS = {"build": _build, "export": _export, "check": check, "probe": _probe}
