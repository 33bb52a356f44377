"""Reads a workflow file as a plain graph.

ComfyUI writes two kinds of JSON: the editor's (`nodes`, `links`, widget values by position), read in `editor.py`, and
the API form (`{id: {class_type, inputs}}`), read here. Both become the same `Graph`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..engine_runtime.errors import InputError
from ..engine_runtime.files import parse_json, read_bytes
from .editor import NOTES, parse_editor
from .embedded import embedded
from .graph import Catalogue, Graph, Link, Node, WorkflowError, check_input_name, known_type, not_a_workflow, typed
from .schema import ApiNode

MAX_BYTES = 8 << 20  # of a file; parsed, it takes up to 300 MB


def load_json(path: Path) -> dict[str, Any]:
    """Read a workflow of at most `MAX_BYTES`: JSON in UTF-8, 16 or 32, or a picture or sound that ComfyUI put it into.

    Raises:
        WorkflowError: where there is none.
    """
    try:
        text = embedded(path)
        if text is None:
            given = read_bytes(path, MAX_BYTES)
            data = parse_json(given.decode(json.detect_encoding(given)), path.name)
        elif len(text) > MAX_BYTES:
            raise InputError(
                f"the workflow in {path} has {len(text)} characters", f"at most {MAX_BYTES} are read", "check it"
            )
        else:
            data = _with_null(text, path.name)
    except WorkflowError:
        raise
    except OSError as error:
        raise WorkflowError(
            f"{path} cannot be read ({error.strerror})", "allowed is a workflow's JSON file", "check the path"
        ) from None
    except (InputError, UnicodeError) as error:
        raise WorkflowError(
            error.given if isinstance(error, InputError) else f"{path.name} is no JSON: {error}",
            "allowed is a workflow saved or exported by ComfyUI",
            "save it again with Workflow > Save or Export (API)",
        ) from None
    if not isinstance(data, dict):
        raise not_a_workflow(f"{path} holds a JSON {type(data).__name__}")
    return data


def _with_null(text: str, what: str) -> Any:
    """Parse JSON in which NaN may stand, as null: ComfyUI writes it into the prompts of files, as `is_changed`."""
    try:
        return parse_json(text, what)
    except InputError:
        if "NaN" not in text:
            raise
        try:
            strict = json.dumps(json.loads(text, parse_constant=lambda name: None))
        except (ValueError, RecursionError):
            strict = text  # whose fault is told as that of any other
        return parse_json(strict, what)


def parse(data: dict[str, Any], types: Catalogue) -> Graph:
    """Convert either form into a graph. Raises `WorkflowError`."""
    if isinstance(data.get("nodes"), list):
        return parse_editor(data, types)
    prompt = prompt_of(data)
    if any(_is_node(entry) for entry in prompt.values()):
        return parse_api(prompt, types)
    raise not_a_workflow("the JSON has neither 'nodes' nor entries with a 'class_type'")


def prompt_of(data: dict[str, Any]) -> dict[str, Any]:
    """Return the API form inside the body of a POST to /prompt, or inside what the editor's `graphToPrompt` gives."""
    return next((data[name] for name in ("prompt", "output") if isinstance(data.get(name), dict)), data)


def parse_api(data: dict[str, Any], types: Catalogue) -> Graph:
    """Convert the API form into a graph; notes, and entries that are no nodes, are passed over.

    Raises:
        WorkflowError: for nodes that are damaged, and for output nodes that cannot be used.
    """
    graph = Graph()
    for node_id, entry in data.items():
        if not _is_node(entry) or entry["class_type"] in NOTES:
            continue
        raw = typed(entry, ApiNode, f"node {node_id}")
        title = raw.meta.title if raw.meta else None
        try:
            node_type = known_type(types, node_id, raw.class_type, title)
            node = Node(node_id, raw.class_type, title or node_type.title)
            for name, value in (raw.inputs or {}).items():
                if check_input_name(node, node_type, name):
                    node.inputs[name] = _unwrap(value)
            graph.nodes[node.id] = node
        except WorkflowError as error:
            graph.set_aside(node_id, raw.class_type, error, types)
    return graph


def _is_node(entry: Any) -> bool:
    return isinstance(entry, dict) and "class_type" in entry


def _unwrap(value: Any) -> Any:
    """Return a link or a constant. A constant list comes wrapped, because a bare [text, number] is a link."""
    if isinstance(value, dict) and "__value__" in value:
        return value["__value__"]
    if isinstance(value, list):
        if len(value) == 2 and isinstance(value[0], str | int) and type(value[1]) is int:
            return Link(str(value[0]), value[1])
    return value
