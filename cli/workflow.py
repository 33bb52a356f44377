"""Reads a workflow file as a plain graph.

ComfyUI writes two kinds of JSON: the editor's (`nodes`, `links`, widget values by position), read in `editor.py`, and
the API form (`{id: {class_type, inputs}}`), read here. Both become the same `Graph`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..engine_runtime.errors import InputError
from ..engine_runtime.files import read_json
from .graph import Catalogue, Graph, Link, Node, WorkflowError, check_input_name, known_type, not_a_workflow, typed
from .schema import ApiNode

MAX_BYTES = 8 << 20  # of a file; parsed, it takes up to 300 MB


def load_json(path: Path) -> dict[str, Any]:
    """Read a workflow file of at most `MAX_BYTES`. Raises `WorkflowError`."""
    try:
        data = read_json(path, MAX_BYTES)
    except OSError as error:
        raise WorkflowError(
            f"{path} cannot be read ({error.strerror})", "allowed is a workflow's JSON file", "check the path"
        ) from None
    except InputError as error:
        raise WorkflowError(
            error.given,
            "allowed is a workflow saved or exported by ComfyUI",
            "save it again with Workflow > Save or Export (API)",
        ) from None
    if not isinstance(data, dict):
        raise not_a_workflow(f"{path} holds a JSON {type(data).__name__}")
    return data


def parse(data: dict[str, Any], types: Catalogue) -> Graph:
    """Convert either form into a graph. Raises `WorkflowError`."""
    from .editor import parse_editor

    if isinstance(data.get("nodes"), list):
        return parse_editor(data, types)
    if isinstance(data.get("prompt"), dict):
        data = data["prompt"]
    if data and all(isinstance(node, dict) and "class_type" in node for node in data.values()):
        return parse_api(data, types)
    raise not_a_workflow("the JSON has neither 'nodes' nor entries with a 'class_type'")


def parse_api(data: dict[str, Any], types: Catalogue) -> Graph:
    graph = Graph()
    for node_id, entry in data.items():
        raw = typed(entry, ApiNode, f"node {node_id}")
        title = raw.meta.title if raw.meta else None
        node_type = known_type(types, node_id, raw.class_type, title)
        node = Node(node_id, raw.class_type, title or node_type.title)
        for name, value in (raw.inputs or {}).items():
            if check_input_name(node, node_type, name):
                node.inputs[name] = _unwrap(value)
        graph.nodes[node.id] = node
    return graph


def _unwrap(value: Any) -> Any:
    """Return a link or a constant. A constant list comes wrapped, because a bare [text, number] is a link."""
    if isinstance(value, dict) and "__value__" in value:
        return value["__value__"]
    if isinstance(value, list):
        if len(value) == 2 and isinstance(value[0], str | int) and type(value[1]) is int:
            return Link(str(value[0]), value[1])
    return value
