"""Lists what a workflow names and this machine does not have: models, LoRA files, engines, captures, clips."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...engine_runtime.errors import InputError, OstinatoError, plain
from . import folders, live_files

Check = Callable[[Mapping[str, Any]], Any]  # raises `OstinatoError` for inputs that name what is not there


@dataclass(frozen=True)
class Missing:
    """One thing that is not there.

    Attributes:
        node, title: who names it.
        kind: `model`, `LoRA`, `engine`, `capture` or `audio file`.
        name: as the workflow has it.
        reason: a sentence with what to do.
    """

    node: str
    title: str
    kind: str
    name: str
    reason: str


def missing(
    nodes: Iterable[tuple[str, str, str, Mapping[str, Any]]], more: Mapping[str, Named] | None = None
) -> list[Missing]:
    """List what nodes name and this machine does not have; nothing is loaded or fetched.

    Args:
        nodes: id, title, type and inputs of each; inputs that are links are passed over.
        more: further types that name files.
    """
    found = []
    for node, title, kind, inputs in nodes:
        named = (NAMED | dict(more or {})).get(kind)
        name = None if named is None else inputs.get(named.input)
        if named is None or not isinstance(name, str):
            continue
        try:
            named.check(inputs)
        except OstinatoError as error:
            found.append(Missing(node, title, named.kind, plain(name), str(error)))
    return found


@dataclass(frozen=True)
class Named:
    """An input that names a file, what kind of thing that is, and how to look for it."""

    input: str
    kind: str
    check: Check


def _check_model(inputs: Mapping[str, Any]) -> None:
    from ...engine_runtime.models.loading import check_there
    from .comfy import HEADLESS

    for part in folders.PARTS:
        folders.part_path(part, inputs.get(part, folders.AUTO))
    check_there(folders.model_source(inputs["model"]), HEADLESS, inputs.get("download") is True)


def _check_engine(inputs: Mapping[str, Any]) -> None:
    if inputs["engine"] not in folders.engine_names():
        raise InputError(
            f"the engine {inputs['engine']!r} is not there",
            "an engine plays where it was built",
            "build one with Build Engine; until then Load Engine plays on the torch engine, unless it is to stop",
        )


NAMED = {
    "OstinatoLoadModel": Named("model", "model", _check_model),
    "OstinatoLora": Named("adapter", "LoRA", lambda inputs: folders.adapter_path(inputs["adapter"])),
    "OstinatoLoadEngine": Named("engine", "engine", _check_engine),
    "OstinatoLiveCapture": Named("capture", "capture", lambda inputs: live_files.capture_path(inputs["capture"])),
}
