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
from .editor import PRIMITIVE, SUBGRAPH_INPUT, value_place
from .graph import Catalogue, WorkflowError
from .schema import EditorNode
from .workflow import parse

PROPERTY = "ostinato"
Chain = list[tuple[dict[str, Any], dict[str, Any] | None]]  # sheets, and the node that uses each in the one before


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
            _set(made, types, node, name, value)
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
    prompt = data["prompt"] if isinstance(data.get("prompt"), dict) else data
    nodes = [node for node in prompt.values() if isinstance(node, dict)]
    live = next((node for node in nodes if node.get("class_type") == LIVE), next(iter(nodes), {}))
    return inner(live, "_meta")


def _raw_nodes(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    sheets = [data, *((data.get("definitions") or {}).get("subgraphs") or [])]
    for sheet in sheets:
        yield from (node for node in sheet.get("nodes") or [] if isinstance(node, dict))


def _set(data: dict[str, Any], types: Catalogue, path: str, name: str, value: Any) -> None:
    """Write one value where the file has it; what cannot be found is left, and noticed when the file is read again."""
    if not isinstance(data.get("nodes"), list):
        prompt = data["prompt"] if isinstance(data.get("prompt"), dict) else data
        prompt[path]["inputs"][name] = {"__value__": value} if isinstance(value, list) else value
        return
    *outer, last = path.split(":")
    subgraphs = {one["id"]: one for one in (data.get("definitions") or {}).get("subgraphs") or []}
    chain: Chain = [(data, None)]
    for part in outer:
        used_by = _node(chain[-1][0], part)
        chain.append((subgraphs[used_by["type"]], used_by))
    sheet, user = chain[-1]
    node = _node(sheet, last)
    linked = next((s for s in node.get("inputs") or [] if _socket_name(s) == name and s.get("link") is not None), None)
    if linked is not None:
        _set_source(chain, linked["link"], value)
        return
    if user is not None and _set_promoted(user, last, name, value):
        return
    kept = node.get("widgets_values")
    if isinstance(kept, dict):
        kept[name] = value
        return
    kept = node["widgets_values"] = kept or []
    at, filled = value_place(types[node["type"]], msgspec.convert(node, EditorNode).values, name)
    kept += filled[len(kept) :]
    kept[at] = value


def _set_promoted(user: dict[str, Any], inner: str, name: str, value: Any) -> bool:
    """Set a widget that a subgraph's node shows; returns false where it does not show it."""
    raw = msgspec.convert(user, EditorNode)
    for at, proxy in enumerate(raw.proxies):
        if (str(proxy.node), proxy.widget) == (inner, name) and at < len(raw.values):
            user["widgets_values"][at] = value
            return True
    return False


def _set_source(chain: Chain, link: Any, value: Any) -> None:
    """Set what a widget is linked to: a primitive, or a widget of the subgraph's node."""
    sheet, user = chain[-1]
    ends = [(e["id"], e["origin_id"], e["origin_slot"]) if isinstance(e, dict) else e[:3] for e in sheet["links"]]
    origin, slot = next(((str(origin), slot) for number, origin, slot in ends if number == link), ("", 0))
    if origin == SUBGRAPH_INPUT and user is not None:
        name = sheet["inputs"][slot]["name"]
        outer = next((s for s in user.get("inputs") or [] if s["name"] == name and s.get("link") is not None), None)
        if outer is None:
            _set_promoted(user, "-1", name, value)
        else:
            _set_source(chain[:-1], outer["link"], value)
    elif (node := _node(sheet, origin))["type"] == PRIMITIVE and node.get("widgets_values"):
        node["widgets_values"][0] = value


def _socket_name(socket: dict[str, Any]) -> str:
    widget = socket.get("widget")
    return widget["name"] if isinstance(widget, dict) else socket["name"]


def _node(sheet: dict[str, Any], number: str) -> dict[str, Any]:
    return next((node for node in sheet["nodes"] if str(node["id"]) == number), {"type": "", "inputs": []})
