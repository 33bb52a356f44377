"""A workflow as a set to share: the settings of its live session are in it, and it is written with the values of now.

In the editor's form they are a property of the Live Session node, or of the workflow's `extra` where it has none; in
the API form they are beside the node's title.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import msgspec

from ..engine_runtime.errors import InputError
from ..engine_runtime.serve.messages import Settings
from ..nodes.shared.live_graph import SESSION
from ..nodes.shared.live_score import LIVE
from .graph import Catalogue, Node, WorkflowError
from .widgets import value_place
from .workflow import parse, prompt_of

PROPERTY = "ostinato"


def read_settings(data: dict[str, Any]) -> Settings:
    """Return the settings that a workflow has, or those of one that has none.

    Raises:
        WorkflowError: for settings that are damaged.
    """
    holder = _holder(data)
    given = holder.get(PROPERTY) if isinstance(holder, dict) else None
    if given is None:
        return Settings()
    try:
        return msgspec.convert({"type": "settings", **given} if isinstance(given, dict) else given, Settings)
    except msgspec.ValidationError as error:
        raise WorkflowError(
            f"the workflow's settings of its live session are damaged: {error}",
            "allowed are `when` and `midi`, as the page saves them",
            f"remove {PROPERTY!r} from the node's properties, or save the workflow again",
        ) from None


def write_workflow(
    data: dict[str, Any], types: Catalogue, widgets: list[dict[str, Any]], settings: Settings
) -> dict[str, Any]:
    """Return a workflow with other values of its widgets, in the form that it has.

    Raises:
        InputError: for values that it cannot hold, as where one subgraph is used twice with different ones.
    """
    made = copy.deepcopy(data)
    values = {(w["node"], w["input"]): w["value"] for w in widgets if w["node"] != SESSION}
    before = parse(data, types)
    for (node, name), value in values.items():
        if node in before.nodes and before.nodes[node].inputs.get(name) != value:
            _set(made, types, before.nodes[node], name, value)
    after = parse(made, types)
    lost = [
        f"{name} of node {node}"
        for (node, name), value in values.items()
        if node in after.nodes and after.nodes[node].inputs.get(name) != value
    ]
    if lost:
        raise InputError(
            f"the workflow cannot hold the value of now of {', '.join(lost[:5])}",
            "a subgraph that is used twice has one value for both unless it shows the widget",
            "show the widget on the subgraph's node, or unpack it, in ComfyUI",
        )
    _holder(made, make=True)[PROPERTY] = _plain(settings)
    return made


def _plain(settings: Settings) -> dict[str, Any]:
    return {name: value for name, value in msgspec.to_builtins(settings).items() if name != "type"}


def _holder(data: dict[str, Any], make: bool = False) -> dict[str, Any]:
    """Return the part of a workflow that has the settings, a part of it or, for reading alone, an empty one."""

    def inner(owner: dict[str, Any], name: str) -> dict[str, Any]:
        if make and not isinstance(owner.get(name), dict):
            owner[name] = {}
        found = owner.get(name)
        return found if isinstance(found, dict) else {}

    if isinstance(data.get("nodes"), list):
        live = next((node for node in _raw_nodes(data) if node.get("type") == LIVE), None)
        return inner(data, "extra") if live is None else inner(live, "properties")
    nodes = [node for node in prompt_of(data).values() if isinstance(node, dict)]
    live = next((node for node in nodes if node.get("class_type") == LIVE), next(iter(nodes), {}))
    return inner(live, "_meta")


def _raw_nodes(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for sheet in (data, *_subgraphs(data)):
        yield from (node for node in sheet.get("nodes") or [] if isinstance(node, dict))


def _subgraphs(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for subgraph in (data.get("definitions") or {}).get("subgraphs") or []:
        yield subgraph
        yield from _subgraphs(subgraph)


def _set(data: dict[str, Any], types: Catalogue, node: Node, name: str, value: Any) -> None:
    """Write one value where the file has it; what cannot be found is left, and noticed when the file is read again."""
    if not isinstance(data.get("nodes"), list):
        prompt = prompt_of(data)
        prompt[node.id]["inputs"][name] = {"__value__": value} if isinstance(value, list) else value
        return
    place = node.places.get(name)
    if place is not None:
        values = _node(data, place.sheet, place.node).setdefault("widgets_values", [])
        if isinstance(values, list) and place.at <= len(values):
            values[place.at : place.at + 1] = [value]
            return
    *outer, last = node.id.split(":")
    sheet = ""
    for part in outer:
        sheet = _node(data, sheet, part)["type"]
    own = _node(data, sheet, last)
    kept = own.get("widgets_values")
    if isinstance(kept, dict):
        kept[name] = value
        return
    kept = own["widgets_values"] = kept or []
    at, filled = value_place(types[own["type"]], kept, name)
    kept += filled[len(kept) :]
    kept[at] = value


def _node(data: dict[str, Any], sheet: str, number: str) -> dict[str, Any]:
    """Return a node of the workflow's own graph or of a subgraph."""
    nodes = data["nodes"]
    if sheet:
        nodes = next(one["nodes"] for one in _subgraphs(data) if one["id"] == sheet)
    return next(node for node in nodes if node is not None and str(node["id"]) == number)
