"""Finds the order to run in, and checks every value and link, before anything runs."""

from __future__ import annotations

from contextlib import suppress
from math import isfinite
from typing import Any

from ..engine_runtime.errors import LONGEST, plain
from ..nodes.shared.comfy import io
from ..nodes.shared.run import checker_arguments, widget_of
from ..nodes.shared.widget_value import NotTaken, check_limits, converted
from .graph import (
    Catalogue,
    Graph,
    Link,
    Node,
    NodeType,
    WorkflowError,
    is_widget,
)

LONGEST_NUMBER = 400  # characters of a number that is given as text


def running_order(graph: Graph, types: Catalogue) -> list[Node]:
    """Return the nodes that output nodes need, each after those it depends on.

    Raises:
        WorkflowError: for a circle, a node that is missing or cannot be run, or no output node.
    """
    order: list[Node] = []
    done: set[str] = set()
    for node in graph.nodes.values():
        if types[node.class_type].schema.is_output_node:
            _visit(graph, node, order, done)
    if not order and graph.faults:
        raise next(iter(graph.faults.values()))
    if not order:
        outputs = ", ".join(name for name, t in types.items() if t.schema.is_output_node)
        raise WorkflowError(
            "the workflow has no active output node", f"output nodes are {outputs}", "add one, or un-mute it"
        )
    return order


def _visit(graph: Graph, root: Node, order: list[Node], done: set[str]) -> None:
    """Walk depth first with an explicit stack: a long chain must not hit Python's recursion limit."""
    if root.id in done:
        return
    path = {root.id: (root, root.links())}
    while path:
        node, links = path[next(reversed(path))]
        name, link = next(links, (None, None))
        if link is None:
            del path[node.id]
            done.add(node.id)
            order.append(node)
        elif link.node in graph.faults:
            raise graph.faults[link.node]
        elif link.node not in graph.nodes:
            raise WorkflowError(
                f"{node.name} takes {name} from node {link.node}, which is not there",
                "a link needs both of its nodes",
                "connect the input again in ComfyUI",
            )
        elif link.node in path:
            ids = list(path)
            circle = " -> ".join([*ids[ids.index(link.node) :], link.node])
            raise WorkflowError(
                f"nodes {circle} feed each other in a circle",
                "a workflow must not feed itself",
                "remove one of the links",
            )
        elif link.node not in done:
            target = graph.nodes[link.node]
            path[target.id] = (target, target.links())


def validate(graph: Graph, types: Catalogue, order: list[Node]) -> None:
    """Check every input of the nodes and convert constants to their input's type.

    Raises:
        WorkflowError: at the first input that is wrong.
    """
    for node in order:
        node_type = types[node.class_type]
        # as in ComfyUI, the limits of these are left to the node
        unchecked, arguments = checker_arguments(node_type.cls)
        received: dict[str, str] = {}
        for spec in node_type.schema.inputs:
            value = node.inputs.get(spec.id)
            if spec.id not in node.inputs:
                if not spec.optional:
                    raise _missing(node, spec)
            elif isinstance(value, Link):
                received[spec.id] = _check_link(graph, types, node, spec, value, "input_types" in arguments)
            else:
                limits = not unchecked and spec.id not in arguments
                node.inputs[spec.id] = check_value(node, spec, value, limits)
        _ask_node(node, node_type, arguments, unchecked, received)


def _missing(node: Node, spec: io.Input) -> WorkflowError:
    if spec.id in node.muted:
        return WorkflowError(
            f"{node.name} needs {spec.id}, which comes from the muted node {node.muted[spec.id]!r}",
            "a muted node makes nothing",
            f"un-mute that node, or mute {node.title!r} too",
        )
    what = "a value" if is_widget(spec) else "a link"
    return WorkflowError(
        f"{node.name} is missing its input {spec.id}", f"it needs {what} of type {spec.get_io_type()}", "give it one"
    )


def _check_link(graph: Graph, types: Catalogue, node: Node, spec: io.Input, link: Link, node_checks_types: bool) -> str:
    source = graph.nodes[link.node]
    outputs = types[source.class_type].schema.outputs
    if not 0 <= link.slot < len(outputs):
        raise WorkflowError(
            f"{node.name} takes {spec.id} from output {link.slot} of {source.name}",
            f"that node has {len(outputs)} outputs, counted from 0",
            "connect the input again in ComfyUI",
        )
    made, wanted = outputs[link.slot].get_io_type(), spec.get_io_type()
    if not node_checks_types and not types_match(made, wanted):
        raise WorkflowError(
            f"{node.name} is given {made} from {source.name} for {spec.id}",
            f"allowed is {wanted}",
            "connect an output of that type",
        )
    return made


def types_match(made: str, wanted: str) -> bool:
    """Return whether an output fits an input. Types may be unions like "INT,FLOAT": the input must take every type that
    the output may have; "*" is anything."""
    if "*" in (made, wanted):
        return True
    return {t.strip() for t in made.split(",")} <= {t.strip() for t in wanted.split(",")}


def check_value(node: Node, spec: io.Input, value: Any, limits: bool = True) -> Any:
    """Convert a value to its input's type, and check its limits.

    Raises:
        WorkflowError: for a value that the input does not take.
    """
    value = _as_prompt(widget_of(spec).get_io_type(), value)
    try:
        value = converted(spec, value)
        if limits:
            check_limits(spec, value)
    except NotTaken as error:
        given = f"{node.name} has {_short(value)} for {spec.id}"
        raise WorkflowError(given, f"allowed is {error}", "correct it") from None
    return value


def _as_prompt(kind: str, value: Any) -> Any:
    """Convert what ComfyUI's /prompt takes of another type: numbers as text, 0 and 1 for a switch, numbers for text.

    Text is no switch here: /prompt takes "false" for true.
    """
    if kind in ("INT", "FLOAT") and isinstance(value, str) and len(value) <= LONGEST_NUMBER:
        with suppress(ValueError):
            number = int(value) if kind == "INT" else float(value)
            return number if isfinite(number) else value
    if kind == "BOOLEAN" and isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    if kind == "STRING" and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value


def _ask_node(node: Node, node_type: NodeType, arguments: list[str], takes_all: bool, received: dict[str, str]) -> None:
    """Call `validate_inputs` with the inputs it names. As in ComfyUI, a linked input has no value yet and is None.

    Raises:
        NodeRefusal: with the node's own sentence.
    """
    values = {name: None if isinstance(value, Link) else value for name, value in node.inputs.items()}
    given = {name: value for name, value in values.items() if takes_all or name in arguments}
    if "input_types" in arguments:
        given["input_types"] = received
    if not given:
        return
    answer = node_type.cls.validate_inputs(**given)
    if answer is not True:
        reason = answer if isinstance(answer, str) else f"it refuses {', '.join(given)}"
        raise NodeRefusal(node, reason)


class NodeRefusal(WorkflowError):
    """The refusal of a node's own `validate_inputs`; its sentence is kept whole."""

    def __init__(self, node: Node, reason: str) -> None:
        reason = plain(reason, 3 * LONGEST)
        Exception.__init__(self, f"{node.name}: {reason}")
        self.given, self.allowed, self.remedy = node.name, reason, ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
