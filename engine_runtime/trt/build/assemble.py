"""Reads a build's export record, and makes its sidecar and plan file."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...errors import EngineBuildError, InputError
from ...files import read_json, typed
from ..files.folder import file_hash, write_whole
from ..files.sidecar import MAX_BYTES, ExportRecord, Sidecar
from ..files.spec import BuildSpec
from ..library.preflight import clause
from .builder import Built


def read_record(onnx: Path, spec: BuildSpec) -> dict[str, Any]:
    """Read and check the export record beside a graph.

    Raises:
        EngineBuildError: where it cannot be read, does not belong to the graph's files, or is not what the spec asks
            for.
    """
    path = onnx.with_name(onnx.name + ".json")
    try:
        record: dict[str, Any] = read_json(path, MAX_BYTES, dict[str, Any])
        found = typed(record, path.name, ExportRecord)
        files = {onnx: found.onnx_sha256, onnx.with_name(onnx.name + ".data"): found.data_sha256}
        wrong = next((file for file, sha256 in files.items() if sha256 and file_hash(file) != sha256), None)
    except (OSError, InputError) as error:
        raise EngineBuildError(
            f"{onnx} has no usable export record: {clause(str(getattr(error, 'given', error)))}",
            "it is written with the graph",
            "export it again",
        ) from error
    if wrong is not None:
        raise EngineBuildError(
            f"{wrong} is not the file that was exported", "its record names its sha256", "export it again"
        )
    if (found.kind, found.precision, bool(found.lora)) != (spec.kind, spec.precision, spec.lora):
        raise EngineBuildError(
            f"{onnx} is a {found.kind} in {found.precision}, {'with' if found.lora else 'without'} LoRA inputs",
            f"asked is a {spec.kind} in {spec.precision}, {'with' if spec.lora else 'without'} them",
            "ask for what it is, or build from the model",
        )
    return record


def check_io(built: Built, record: dict[str, Any]) -> None:
    """Raise `EngineBuildError` where the plan's inputs or outputs differ from the graph's."""
    for mode in ("input", "output"):
        asked = {one["name"]: one["dtype"] for one in record[f"{mode}s"]}
        made = {one["name"]: one["dtype"] for one in built.io if one["mode"] == mode}
        if asked != made:
            raise EngineBuildError(
                f"the engine's {mode}s are {made}", f"the graph's are {asked}", "report this as a fault"
            )


def make_sidecar(
    spec: BuildSpec, record: dict[str, Any], built: Built, stages: dict[str, float], peak: int | None
) -> Sidecar:
    """Make the sidecar of a plan that is not checked yet."""
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
        built=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=sum(stages.values()),
        stages=stages,
        peak_bytes=peak,
    )


def write_plan(plan: Path, built: Built, sidecar: Sidecar) -> None:
    """Write the plan and read it back, so that a failing disk is noticed while the old engine is still there.

    Raises:
        EngineBuildError: where other bytes come back.
        EngineFileError: where it cannot be written.
    """
    write_whole(plan, built.plan)
    if file_hash(plan) != sidecar.plan_sha256:
        raise _other_bytes(plan)


def read_written(plan: Path, sidecar: Sidecar) -> bytes:
    """Read a plan that is not in place yet.

    Raises:
        EngineBuildError: where the bytes are not those that were built.
    """
    data = plan.read_bytes()
    if hashlib.sha256(data).hexdigest() != sidecar.plan_sha256:
        raise _other_bytes(plan)
    return data


def _other_bytes(plan: Path) -> EngineBuildError:
    return EngineBuildError(
        f"{plan.parent.parent} gave back other bytes than were written", "a disk keeps what it is given",
        "check the disk",
    )  # fmt: skip
