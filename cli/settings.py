"""Applies --set: values of a node's inputs, and knobs that move while music plays."""

from __future__ import annotations

from typing import Any

from ..engine_runtime.controls.knobs import KNOBS, check_names
from ..engine_runtime.files import parse_json
from ..nodes.shared.comfy import io
from ..nodes.shared.run import widget_of
from ..nodes.shared.widget_value import WIDGET_VALUES, options_of
from .graph import Catalogue, Graph, Node, WorkflowError, check_input_name

TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


def split_knobs(settings: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Split settings into hot knobs by name (those of the form knob.NAME=VALUE) and all others.

    Raises:
        InputError: for an unknown knob or a value out of its range.
    """
    knobs: dict[str, Any] = {}
    others = []
    for setting in settings:
        name, equals, text = setting.partition("=")
        if equals and name.strip().startswith("knob."):
            name = name.strip().removeprefix("knob.")
            check_names([name])
            knobs[name] = KNOBS[name].parse(text.strip())
        else:
            others.append(setting)
    return knobs, others


def apply_settings(graph: Graph, types: Catalogue, settings: list[str]) -> None:
    """Apply settings of the form NODE.INPUT=VALUE to the graph; NODE is an id, a title or a class type.

    Raises:
        WorkflowError: for an unknown node or input, an ambiguous name, or a value that does not parse.
    """
    for setting in settings:
        target, equals, text = setting.partition("=")
        name, dot, input_name = target.strip().rpartition(".")
        if not equals or not dot or not name or not input_name:
            raise WorkflowError(f"--set {setting!r} is incomplete", "the form is NODE.INPUT=VALUE", "write it that way")
        node = find_node(graph, name, "--set")
        node_type = types[node.class_type]
        check_input_name(node, node_type, input_name)
        spec = node_type.input(input_name)
        if spec is None:
            known = ", ".join(i.id for i in node_type.schema.inputs)
            raise WorkflowError(f"{node.name} has no input {input_name!r}", f"its inputs are {known}", "correct --set")
        node.inputs[input_name] = parse_value(node, spec, text)
        node.muted.pop(input_name, None)


def find_node(graph: Graph, name: str, option: str) -> Node:
    """Return the node of this id, title or class type; raises `WorkflowError`, which names the option it is from."""
    if name in graph.nodes:
        return graph.nodes[name]
    for attribute in ("title", "class_type"):
        found = [node for node in graph.nodes.values() if getattr(node, attribute) == name]
        if len(found) > 1:
            raise WorkflowError(
                f"{option} names {name!r}, which {len(found)} nodes are called",
                f"allowed are their ids {', '.join(node.id for node in found)}",
                "use one of those",
            )
        if found:
            return found[0]
    titles = ", ".join(f"{node.id} {node.title!r}" for node in graph.nodes.values())
    raise WorkflowError(
        f"{option} names an unknown node {name!r}", f"the nodes are {titles}", "use an id, title or type"
    )


def parse_value(node: Node, spec: io.Input, text: str) -> Any:
    """Parse `text` as the type of the input's widget.

    Raises:
        WorkflowError: for text that does not parse, or an input that takes only a link.
    """
    spec = widget_of(spec)
    kind = spec.get_io_type()
    try:
        if kind == "INT":
            return int(text)
        if kind == "FLOAT":
            return float(text)
        if kind == "CURVE":
            return parse_json(text, "the curve")
    except ValueError:
        allowed = "a number" if kind == "FLOAT" else WIDGET_VALUES[kind]
        raise WorkflowError(f"{node.name} has {text!r} for {spec.id}", f"allowed is {allowed}", "correct it") from None
    if kind == "BOOLEAN":
        if text.lower() not in TRUE + FALSE:
            raise WorkflowError(f"{node.name} has {text!r} for {spec.id}", "allowed is true or false", "correct it")
        return text.lower() in TRUE
    if kind == "COMBO":
        return next((option for option in options_of(spec) if str(option) == text), text)
    if kind == "STRING":
        return text
    raise WorkflowError(
        f"{node.name} takes a {kind} for {spec.id}, not a value",
        f"allowed is a link from an output of type {kind}",
        "set an input that is a number, text, choice or switch",
    )
