"""The sidecar NAME.plan.json: describes the engine NAME.plan, so that a misfit is found before the plan is opened."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from ...engines.profiles import Profile
from ...errors import EngineFileError, InputError
from ...files import parse_json, read_bytes, typed
from .spec import BuildSpec, Kind, is_name

SCHEMA = 1  # raise it when an older Ostinato would misread a sidecar written now
MAX_BYTES = 4 << 20  # of a sidecar, an export record or a manifest; the 2B decoder's take 0.3 MB

Hash = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]  # sha256
Count = Annotated[int, Meta(gt=0)]
Seconds = Annotated[float, Meta(ge=0)]
Flavor = Annotated[str, Meta(pattern=r"^tensorrt(_rtx)?\Z")]
Version = Annotated[str, Meta(pattern=r"^[0-9]{1,4}(\.[0-9A-Za-z_]{1,12}){1,6}\Z")]


@dataclass(frozen=True)
class Sidecar:
    """The sidecar of one engine.

    Attributes:
        flavor, library, bindings: the library's module, its full version, the version of its Python bindings.
        plan_sha256, plan_bytes: of the plan file.
        export: the export record of the graph it was built from.
        profiles: shapes it takes, in the engine's own order.
        refittable: whether its weights can be exchanged in place.
        target: where it runs: `compute_capabilities` as `[[8, 0], ...]` for TensorRT-RTX; else `sm`, `device`, `driver`
            and `cuda` of the GPU that built it.
        flags: builder settings, by name.
        io: name, mode and dtype of each input and output.
        spec: the request it was built from, to build it again.
        random_weights: the weights are random and play noise.
        built: ISO date.
        peak_bytes: the largest resident set of the building processes; None where unknown.
        seconds: of the whole build; `stages` has those of its parts, by name.
        proof: figures of the check against eager; None until it has passed on some GPU.
    """

    flavor: Flavor
    library: Version
    bindings: Version
    plan_sha256: Hash
    plan_bytes: Count
    export: dict[str, Any]
    profiles: Annotated[tuple[Profile, ...], Meta(min_length=1)]
    refittable: bool
    target: dict[str, Any]
    flags: dict[str, Any]
    io: tuple[dict[str, str], ...]
    spec: BuildSpec
    random_weights: bool
    built: Annotated[str, Meta(max_length=63)]
    seconds: Seconds
    peak_bytes: Count | None = None
    proof: dict[str, Any] | None = None
    stages: dict[str, Seconds] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON data; the entries of `target` stand at the top level."""
        data: dict[str, Any] = msgspec.to_builtins(self)
        return {"schema": SCHEMA, **data.pop("target"), **data}

    def identity(self) -> str:
        """Hash everything but the proof, which is added later."""
        return digest({name: value for name, value in self.as_json().items() if name != "proof"})

    def command(self, plan: Path | None = None) -> str:
        """Return the exact command that builds it again, under the name and in the folder of `plan` where given."""
        name = plan.name.removesuffix(".plan") if plan is not None else ""
        spec = replace(self.spec, name=name) if is_name(name) else self.spec
        return spec.command(plan.parent if plan is not None else None)


@dataclass(frozen=True)
class Expect:
    """The requirements of an engine that plays here; None accepts anything.

    Attributes:
        flavor, library: the library's module and its full version.
        capability, device: compute capability of the GPU, such as `(8, 9)`, and its name.
        kind: `decoder`, `vae_decoder` or `vae_encoder`.
        weights, recipe: hashes of the export record.
        header_problem: returns what is wrong with a plan's first bytes, or None (only TensorRT-RTX has such a check).
    """

    flavor: str | None = None
    library: str | None = None
    capability: tuple[int, int] | None = None
    device: str | None = None
    kind: str | None = None
    weights: str | None = None
    recipe: str | None = None
    header_problem: Callable[[bytes], str | None] | None = None


def digest(data: Any) -> str:
    """Hash JSON data with sha256, independent of key order."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sidecar_path(plan: Path) -> Path:
    return plan.with_name(plan.name + ".json")


def generic_command(plan: Path) -> str:
    """Return the build command for an engine of this name whose settings are unknown."""
    return shlex.join(["ostinato", "build", "--name", plan.name.removesuffix(".plan"), "--engines", str(plan.parent)])


def read_sidecar(plan: Path) -> Sidecar:
    """Read the sidecar of a plan and check its fields.

    Raises:
        EngineFileError: when it is missing, unreadable, damaged, or of a newer Ostinato.
    """
    path = sidecar_path(plan)
    rebuild = f"run {generic_command(plan)} with its settings"
    try:
        raw = read_bytes(path, MAX_BYTES)
    except FileNotFoundError:
        raise EngineFileError(
            f"{path.name} is not there",
            "an engine without its sidecar may be anything, for the sidecar is written last",
            rebuild,
            "sidecar",
        ) from None
    except (OSError, InputError) as error:
        raise unreadable(path, error) from error
    try:
        data = parse_json(raw, path.name, dict[str, Any])
        newer = data.get("schema")
        if type(newer) is not int or newer <= SCHEMA:
            return parse(data, path.name)
    except InputError as error:
        raise EngineFileError(error.given, "allowed is one as it was built", rebuild, "sidecar") from error
    raise EngineFileError(
        f"{path.name} has schema {newer}, of a newer Ostinato",
        f"this one reads up to {SCHEMA}",
        "update Ostinato",
        "sidecar",
    )


def unreadable(path: Path, error: Exception) -> EngineFileError:
    """Make the error for a file that cannot be read, or is of the wrong kind or size."""
    why = error.given if isinstance(error, InputError) else getattr(error, "strerror", None) or error
    return EngineFileError(f"{path} could not be read: {why}", "it must be a readable file", "check it", "unreadable")


def parse(data: Mapping[str, Any], what: str = "the sidecar") -> Sidecar:
    """Make a sidecar from JSON data. Raises `InputError` with the place of the first wrong field."""
    names = {f.name for f in fields(Sidecar)} - {"target"}
    target = {name: value for name, value in data.items() if name not in names and name != "schema"}
    sidecar = typed({**data, "target": target}, what, Sidecar)
    typed(data, what, _Kept)
    typed(target, what, _ForRtx if sidecar.flavor == "tensorrt_rtx" else _ForGpu)
    return sidecar


class Port(Struct):
    """An input or output in an export record, as `record.Port` writes it."""

    name: str
    dtype: str
    dims: list[int | str]


class ExportRecord(Struct):
    """The fields of an export record that are checked; a sidecar keeps the others unchanged."""

    kind: Kind
    precision: str
    onnx_sha256: Hash
    weights: Hash
    recipe: Hash
    inputs: Annotated[list[Port], Meta(min_length=1)]
    outputs: list[Port]
    data_sha256: Hash | None = None
    lora: dict[str, Any] | None = None


class _Binding(Struct):
    name: str
    mode: str
    dtype: str


class _Kept(Struct):
    """Fields that a sidecar keeps unchanged, so that its hash stays the same; checked here."""

    schema: Annotated[int, Meta(ge=SCHEMA, le=SCHEMA)]
    export: ExportRecord
    io: Annotated[list[_Binding], Meta(min_length=1)]


class _ForRtx(Struct, forbid_unknown_fields=True):
    compute_capabilities: Annotated[list[tuple[int, int]], Meta(min_length=1)]


class _ForGpu(Struct, forbid_unknown_fields=True):
    sm: tuple[int, int]
    device: str
    driver: str
    cuda: str


def check_fit(sidecar: Sidecar, expect: Expect, plan: Path | None = None) -> None:
    """Compare a sidecar with what is needed here, in the order flavor, version, GPU, kind, weights, recipe.

    Raises:
        EngineFileError: for the first difference, with what was found and needed, and the rebuild command.
    """
    rebuild = f"run {sidecar.command(plan)}"
    found = {
        "flavor": ("library", sidecar.flavor, expect.flavor),
        "version": (f"{sidecar.flavor} version", sidecar.library, expect.library),
    }
    for reason, (what, given, needed) in found.items():
        if needed is not None and given != needed:
            raise EngineFileError(
                f"the engine was built with {what} {given}", f"here it is {needed}, and no other can load it",
                rebuild, reason,
            )  # fmt: skip
    _check_gpu(sidecar, expect, rebuild)
    record = {"kind": sidecar.export["kind"], "weights": sidecar.export["weights"], "recipe": sidecar.export["recipe"]}
    needs = {"kind": expect.kind, "weights": expect.weights, "recipe": expect.recipe}
    means = {
        "kind": "part of the model",
        "weights": "weights",
        "recipe": "recipe (graph, precision or exporter)",
    }
    for reason, given in record.items():
        if needs[reason] is not None and given != needs[reason]:
            raise EngineFileError(
                f"the engine was made from another {means[reason]}: {_short(given)}",
                f"needed is {_short(needs[reason])}",
                rebuild if reason != "kind" else "choose an engine of that kind",
                reason,
            )


def _check_gpu(sidecar: Sidecar, expect: Expect, rebuild: str) -> None:
    if expect.capability is None:
        return
    here = ".".join(map(str, expect.capability))
    if sidecar.flavor == "tensorrt_rtx":
        built = sidecar.target["compute_capabilities"]
        if list(expect.capability) not in built:
            raise EngineFileError(
                f"the engine is for compute capability {', '.join(f'{a}.{b}' for a, b in built)}",
                f"this GPU has {here}",
                "use an engine of TensorRT, or the compiled or eager engine, on this GPU",
                "gpu",
            )
        return
    sm, device = sidecar.target["sm"], sidecar.target["device"]
    if tuple(sm) != expect.capability or expect.device not in (None, device):
        raise EngineFileError(
            f"the engine was built on {device} (compute capability {sm[0]}.{sm[1]})",
            f"this GPU is {expect.device or 'another'} ({here})",
            f"{rebuild} on this GPU",
            "gpu",
        )


def _short(text: Any) -> str:
    return str(text)[:12]


def rewritten(sidecar: Sidecar, **changes: Any) -> bytes:
    """Return the sidecar's file contents with some fields changed."""
    data = {**sidecar.as_json(), **changes}
    return (json.dumps(data, indent=1, allow_nan=False) + "\n").encode()
