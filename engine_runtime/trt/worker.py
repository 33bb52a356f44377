"""Inside the child process: export in a child of its own, whose memory goes with it, then build, check, put in place.

A task comes as one line of JSON on stdin, which stays open: when it ends, the asker is gone and so is this. Messages
leave as lines of JSON on stdout: `{"state", "fraction", "message"}`, and at last one of `{"plan"}`, `{"onnx", ...}`
and `{"error": {"type", "given", "allowed", "remedy"}}`. Whatever libraries print goes to stderr.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..errors import EngineBuildError, OstinatoError
from . import preflight
from .build import Built, build
from .folder import claim, commit, file_hash, forget, ready_folder, refused_write, write_whole
from .job import State, child_command, ended, revived
from .sidecar import Sidecar, rewritten, sidecar_path
from .spec import BuildSpec
from .trust import Trust

log = logging.getLogger(__name__)
EXPORTED, BUILT = 0.6, 0.95  # shares of the whole by the end of each
STEP = 0.005  # the least progress that is told
Tell = Callable[[dict[str, Any]], None]


def run(what: str) -> int:
    """Do one task and say how it ended; the exit code."""
    tell = _channel()
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    task = json.loads(sys.stdin.readline())
    if "work" in task:
        work = Path(task["folder"]) / task["work"]
        threading.Thread(target=_watch, args=(work,), daemon=True).start()
    try:
        tell(_TASKS[what](task, tell))
    except OstinatoError as error:
        tell({"error": _packed(error)})
        return 3
    except OSError as error:  # of the exporter, which writes the largest files
        tell({"error": _packed(refused_write(Path(error.filename or task.get("folder", ".")), error))})
        return 3
    except Exception as error:
        from ..memory import is_shortage  # imports torch, which the building process does without

        if not is_shortage(error):
            raise
        tell({"error": _packed(_shortage())})
        return 3
    return 0


def _channel() -> Tell:
    """Messages on what was stdout; from here on stdout is stderr, also for code that is not Python's."""
    sys.stdout.flush()
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    lock = threading.Lock()

    def tell(message: dict[str, Any]) -> None:
        with lock, contextlib.suppress(BrokenPipeError):
            out.write(json.dumps(message) + "\n")

    return tell


def _watch(work: Path) -> None:
    """End with the asker, and take along what was made, unless the files are being put in place just now."""
    with contextlib.suppress(OSError):
        while os.read(0, 1 << 12):  # not sys.stdin, whose lock a thread would hold at the interpreter's end
            pass
    with _committing:
        shutil.rmtree(work, ignore_errors=True)
        forget(work.parent, os.getpid())
        os._exit(4)


_committing = threading.Lock()


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Neither Cancel nor the asker's end comes between the renames."""
    with _committing:
        before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


def _packed(error: OstinatoError) -> dict[str, Any]:
    data = {"type": type(error).__name__, "given": error.given, "allowed": error.allowed, "remedy": error.remedy}
    return data | ({"reason": error.reason} if hasattr(error, "reason") else {})


def _shortage() -> EngineBuildError:
    return EngineBuildError(
        "the build found no memory",
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
    Trust(Path(task["home"])).ready()
    with claim(folder, spec.name, task["wait"], lambda who: say(State.waiting, 0.0, f"waits for {who}")):
        work = folder / task["work"]
        work.mkdir()
        try:
            plan = _in_order({**task, "library": library}, spec, folder, work, say)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return {"plan": str(plan)}


def _in_order(task: dict[str, Any], spec: BuildSpec, folder: Path, work: Path, say: Callable[..., None]) -> Path:
    start = time.monotonic()
    exported = _exported(task, spec, work, say)
    exporting = time.monotonic() - start
    onnx = Path(exported["onnx"])
    record = _record(onnx, spec)
    weights = sum(f.stat().st_size for f in (onnx, onnx.with_name(onnx.name + ".data")) if f.exists())
    preflight.check_room(folder, int(weights * preflight.PLAN_FACTOR * len(spec.profiles)), "the engine")
    preflight.check_memory(preflight.build_memory(weights, len(spec.profiles)))
    begin = 0.0 if spec.onnx else EXPORTED
    say(State.building, begin, f"building {spec.name}")

    told = begin

    def progress(fraction: float) -> None:
        nonlocal told
        if (now := begin + fraction * (BUILT - begin)) - told >= STEP:
            told = now
            say(State.building, now, f"building {spec.name}")

    built = build(onnx, record, spec, folder / f".timing-{spec.flavor}.cache", progress)
    say(State.checking, BUILT, "checking the engine")
    _check_io(built, record)
    peak = max(exported["peak_bytes"] or 0, _peak() or 0) or None
    stages = {"export": round(exporting, 1), "build": round(built.seconds, 1)}
    sidecar = _sidecar(spec, record, built, stages, peak)
    sidecar = replace(sidecar, seconds=round(time.monotonic() - start, 1))
    _write(work / f"{spec.name}.plan", built, sidecar)
    with _undisturbed():
        Trust(Path(task["home"])).record(sidecar)
        plan = commit(work, folder, spec.name)
        if spec.keep_onnx and not spec.onnx:
            for made in work.glob(f"{spec.name}.onnx*"):
                os.replace(made, folder / made.name)
    return plan


def _exported(task: dict[str, Any], spec: BuildSpec, work: Path, say: Callable[..., None]) -> dict[str, Any]:
    """`{"onnx", "peak_bytes"}` of an export in a process of its own, or of the one that is given."""
    if spec.onnx is not None:
        return {"onnx": spec.onnx, "peak_bytes": None}
    say(State.exporting, 0.0, f"exporting {spec.model or spec.size}")
    process = subprocess.Popen(
        child_command("export"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps(task) + "\n")
    process.stdin.flush()
    last: dict[str, Any] = {}
    for line in process.stdout:
        last = json.loads(line)
        if "state" in last:
            say(State(last["state"]), last["fraction"] * EXPORTED, last["message"])
    code = process.wait()
    error = revived(last) or (ended(code, ()) if code else None)
    if error is not None:
        raise error
    return last


def _record(onnx: Path, spec: BuildSpec) -> dict[str, Any]:
    """The export record beside a graph, whose files must still be those it names, and which must be what is asked."""
    path = onnx.with_name(onnx.name + ".json")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        files = {"onnx_sha256": onnx, "data_sha256": onnx.with_name(onnx.name + ".data")}
        wrong = next((f for key, f in files.items() if record[key] and file_hash(f) != record[key]), None)
        made = (record["kind"], record["precision"], bool(record["lora"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineBuildError(
            f"{onnx} has no usable export record: {preflight.clause(str(error))}",
            "it is written with the graph",
            "export it again",
        ) from error
    if wrong is not None:
        raise EngineBuildError(
            f"{wrong} is not the file that was exported", "its record names its sha256", "export it again"
        )
    if made != (spec.kind, spec.precision, spec.lora):
        raise EngineBuildError(
            f"{onnx} is a {made[0]} in {made[1]}, {'with' if made[2] else 'without'} LoRA inputs",
            f"asked is a {spec.kind} in {spec.precision}, {'with' if spec.lora else 'without'} them",
            "ask for what it is, or build from the model",
        )
    return record


def _check_io(built: Built, record: dict[str, Any]) -> None:
    for mode in ("input", "output"):
        asked = {one["name"]: one["dtype"] for one in record[f"{mode}s"]}
        made = {one["name"]: one["dtype"] for one in built.io if one["mode"] == mode}
        if asked != made:
            raise EngineBuildError(
                f"the engine's {mode}s are {made}", f"the graph's are {asked}", "report this as a fault"
            )


def _sidecar(
    spec: BuildSpec, record: dict[str, Any], built: Built, stages: dict[str, float], peak: int | None
) -> Sidecar:
    return Sidecar(
        flavor=spec.flavor,
        library=built.library,
        bindings=built.library,
        plan_sha256=hashlib.sha256(built.plan).hexdigest(),
        plan_bytes=built.plan.nbytes,
        export=record,
        profiles=tuple(spec.profiles),
        refittable=bool(built.flags["refit"]),
        target=built.target,
        flags=built.flags,
        io=built.io,
        spec=spec,
        random_weights=bool(record.get("random_weights", False)),
        built=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        seconds=sum(stages.values()),
        stages=stages,
        peak_bytes=peak,
    )


def _write(plan: Path, built: Built, sidecar: Sidecar) -> None:
    """Write both files, and read the plan back: a disk that fails is noticed while the old engine is still there."""
    write_whole(plan, built.plan)
    if file_hash(plan) != sidecar.plan_sha256:
        raise EngineBuildError(
            f"{plan.parent.parent} gave back other bytes than were written", "a disk keeps what it is given",
            "check the disk",
        )  # fmt: skip
    write_whole(sidecar_path(plan), rewritten(sidecar))


def _peak() -> int | None:
    """This process's largest resident set, in bytes; None where the system does not tell."""
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) << 10
    return None


def _export(task: dict[str, Any], tell: Tell) -> dict[str, Any]:
    from .source import export_spec

    def say(fraction: float, message: str) -> None:
        tell({"state": State.exporting.value, "fraction": fraction, "message": message})

    folder = Path(task["folder"])
    onnx = export_spec(BuildSpec.of(task["spec"]), folder / task["work"], task["library"], say)
    return {"onnx": str(onnx), "peak_bytes": _peak()}


def _probe(task: dict[str, Any], tell: Tell) -> dict[str, Any]:
    from .flavor import probe

    return {"version": probe(task["flavor"]).version}


_TASKS = {"build": _build, "export": _export, "probe": _probe}
