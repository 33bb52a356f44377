"""What stands beside an engine: NAME.plan.json says what NAME.plan is and whether it fits, before it is opened."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..errors import EngineFileError, InputError
from .profiles import Profile
from .spec import BuildSpec, is_name

SCHEMA = 1  # raise it when a sidecar written now would be misread by an older Ostinato
MAX_BYTES = 64 << 20  # of a sidecar; the 2B decoder's has 0.3 MB
_HASH = re.compile("[0-9a-f]{64}")
_VERSION = re.compile(r"\d{1,4}(\.\w{1,12}){1,6}", re.ASCII)


@dataclass(frozen=True)
class Sidecar:
    """The sidecar of one engine.

    Attributes:
        flavor, library, bindings: the library's module, its full version, the version of its Python bindings.
        plan_sha256, plan_bytes: of the plan file.
        export: the export record of the graph it was built from.
        profiles: shapes it takes, in the engine's own order.
        refittable: whether its weights can be exchanged in place.
        target: where it runs: `compute_capabilities` as `[[8, 0], ...]` for TensorRT-RTX; else `sm`, `device`,
            `driver` and `cuda` of the GPU that built it.
        flags: builder settings, by name.
        io: name, mode and dtype of each input and output.
        spec: what was asked for, to build it again.
        random_weights: the weights are random and play noise.
        built: ISO date. peak_bytes: the largest resident set of the building processes; None where unknown.
        seconds: of the whole; of its parts in `stages`, by name.
        proof: figures of the check against eager; None until it has passed on some GPU.
    """

    flavor: str
    library: str
    bindings: str
    plan_sha256: str
    plan_bytes: int
    export: dict[str, Any]
    profiles: tuple[Profile, ...]
    refittable: bool
    target: dict[str, Any]
    flags: dict[str, Any]
    io: tuple[dict[str, str], ...]
    spec: BuildSpec
    random_weights: bool
    built: str
    seconds: float
    peak_bytes: int | None = None
    proof: dict[str, Any] | None = None
    stages: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON; `compute_capabilities` or the GPU's keys stand at the top, as in `target`."""
        data = {"schema": SCHEMA, **{f.name: getattr(self, f.name) for f in fields(self) if f.name != "target"}}
        data |= {"profiles": [p.as_json() for p in self.profiles], "io": list(self.io), "spec": self.spec.as_json()}
        return {**data, **self.target}

    def identity(self) -> str:
        """Hash of everything but the proof, which comes later."""
        return digest({name: value for name, value in self.as_json().items() if name != "proof"})

    def command(self, plan: Path | None = None) -> str:
        """The exact command that builds it again; in the place and under the name of `plan`, where it is given."""
        name = plan.name.removesuffix(".plan") if plan is not None else ""
        spec = replace(self.spec, name=name) if is_name(name) else self.spec
        return spec.command(plan.parent if plan is not None else None)


@dataclass(frozen=True)
class Expect:
    """What an engine must be here; None is not asked about.

    Attributes:
        flavor, library: the library's module and its full version.
        capability: of the GPU, such as `(8, 9)`. device: its name.
        kind: `decoder`, `vae_decoder` or `vae_encoder`.
        weights, recipe: hashes of the export record.
        header_problem: says what is wrong with a plan's first bytes, or None (TensorRT-RTX has such a check).
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
    """sha256 of JSON data, whatever the order of its keys."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sidecar_path(plan: Path) -> Path:
    return plan.with_name(plan.name + ".json")


def generic_command(plan: Path) -> str:
    """What builds an engine of this name where no sidecar says with which settings."""
    return shlex.join(["ostinato", "build", "--name", plan.name.removesuffix(".plan"), "--engines", str(plan.parent)])


def read_sidecar(plan: Path) -> Sidecar:
    """Read the sidecar of a plan, checked field by field.

    Raises:
        EngineFileError: when it is missing, unreadable, damaged, or of a newer Ostinato.
    """
    path = sidecar_path(plan)
    rebuild = f"run {generic_command(plan)} with its settings"
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise EngineFileError(
            f"{path.name} is not there",
            "an engine without its sidecar may be anything, for the sidecar is written last",
            rebuild,
            "sidecar",
        ) from None
    except OSError as error:
        raise EngineFileError(
            f"{path} could not be read: {error.strerror or error}", "it must be readable", "check it", "unreadable"
        ) from error
    try:
        data = json.loads(raw) if len(raw) <= MAX_BYTES else None
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise EngineFileError(f"{path.name} is no JSON object", "allowed is one as it was built", rebuild, "sidecar")
    newer = data.get("schema")
    if type(newer) is int and newer > SCHEMA:
        raise EngineFileError(
            f"{path.name} has schema {newer}, of a newer Ostinato",
            f"this one reads up to {SCHEMA}",
            "update Ostinato",
            "sidecar",
        )
    try:
        return parse(data)
    except (InputError, ValueError, TypeError, KeyError, RecursionError) as error:
        what = error.given if isinstance(error, InputError) else _first(error)
        raise EngineFileError(
            f"{path.name} is damaged: {what}", "allowed is one as it was built", rebuild, "sidecar"
        ) from error


def _first(error: Exception) -> str:
    text = " ".join(str(error).split())[:200].rstrip(".")
    return f"{text} is missing" if isinstance(error, KeyError) else text or type(error).__name__


def parse(data: Mapping[str, Any]) -> Sidecar:
    """A sidecar out of JSON data. Raises `ValueError` or `InputError` naming the first field that is wrong."""
    wrong = next((name for name, good in _FIELDS.items() if name not in data or not good(data[name])), None)
    if wrong is not None:
        raise ValueError(f"{wrong} is {'not there' if wrong not in data else 'not what it should be'}")
    names = {f.name for f in fields(Sidecar)} - {"target"}
    target = {name: value for name, value in data.items() if name not in names and name != "schema"}
    _check_target(data["flavor"], target)
    given = {name: data[name] for name in names}
    given["profiles"] = tuple(Profile.of(profile) for profile in data["profiles"])
    given["io"] = tuple(dict(one) for one in data["io"])
    given["spec"] = BuildSpec.of(data["spec"])
    return Sidecar(**given, target=target)


def _check_target(flavor: str, target: Mapping[str, Any]) -> None:
    if flavor == "tensorrt_rtx":
        found = target.get("compute_capabilities")
        if set(target) != {"compute_capabilities"} or not isinstance(found, list) or not found:
            raise ValueError("compute_capabilities is not what it should be")
        if not all(isinstance(c, list) and len(c) == 2 and all(type(n) is int for n in c) for c in found):
            raise ValueError("compute_capabilities is not what it should be")
        return
    sm = target.get("sm")
    if set(target) != {"sm", "device", "driver", "cuda"} or not isinstance(sm, list) or len(sm) != 2:
        raise ValueError("sm, device, driver and cuda are not what they should be")
    if not all(type(n) is int for n in sm) or not all(isinstance(target[k], str) for k in ("device", "driver", "cuda")):
        raise ValueError("sm, device, driver and cuda are not what they should be")


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and bool(_HASH.fullmatch(value))


def _is_version(value: Any) -> bool:
    return isinstance(value, str) and bool(_VERSION.fullmatch(value))


def _is_positive(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_seconds(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf


def _is_export(value: Any) -> bool:
    """The parts of an export record that decide something here; the rest is kept as it is."""
    if not isinstance(value, dict) or value.get("kind") not in ("decoder", "vae_decoder", "vae_encoder"):
        return False
    hashes = all(_is_hash(value.get(name)) for name in ("onnx_sha256", "weights", "recipe"))
    return hashes and isinstance(value.get("precision"), str) and _is_io(value.get("inputs"), ("name", "dtype"))


def _is_io(value: Any, keys: tuple[str, ...] = ("name", "mode", "dtype")) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(one, dict) and all(isinstance(one.get(key), str) for key in keys) for one in value)


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "schema": lambda value: type(value) is int and value == SCHEMA,
    "flavor": lambda value: value in ("tensorrt", "tensorrt_rtx"),
    "library": _is_version,
    "bindings": _is_version,
    "plan_sha256": _is_hash,
    "plan_bytes": _is_positive,
    "export": _is_export,
    "profiles": lambda value: isinstance(value, list) and bool(value),
    "refittable": lambda value: isinstance(value, bool),
    "flags": lambda value: isinstance(value, dict),
    "io": _is_io,
    "spec": lambda value: isinstance(value, dict),
    "random_weights": lambda value: isinstance(value, bool),
    "built": lambda value: isinstance(value, str) and len(value) < 64,
    "seconds": _is_seconds,
    "stages": lambda value: isinstance(value, dict) and all(_is_seconds(one) for one in value.values()),
    "peak_bytes": lambda value: value is None or _is_positive(value),
    "proof": lambda value: value is None or isinstance(value, dict),
}


def check_fit(sidecar: Sidecar, expect: Expect, plan: Path | None = None) -> None:
    """Compare a sidecar with what is needed here, in the order flavor, version, GPU, kind, weights, recipe.

    Raises:
        EngineFileError: for the first that differs; it says what was found and needed, and the rebuild command.
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
    """The sidecar's file contents with some fields changed."""
    data = {**sidecar.as_json(), **changes}
    return (json.dumps(data, indent=1, allow_nan=False) + "\n").encode()
