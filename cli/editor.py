"""Reads the editor's workflow JSON: widget values by position, links by number, and nodes that exist only in the
editor.

A link is followed to the node that makes the value: through reroutes, bypassed nodes, primitives and the two boundaries
of a subgraph (its inputs are slots of node -10, its outputs slots of node -20). Nodes inside subgraph node 5 get ids
like "5:2", as in ComfyUI's own API export.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from .graph import (
    Catalogue,
    Graph,
    Link,
    Node,
    NodeType,
    WorkflowError,
    check_input_name,
    control_widgets,
    is_widget,
    known_type,
    typed,
    widget_default,
)
from .schema import EditorNode, EditorWorkflow, Input, Subgraph

NEVER, BYPASS = 2, 4  # node modes
NOTES = ("Note", "MarkdownNote")
REROUTE, PRIMITIVE = "Reroute", "PrimitiveNode"
SUBGRAPH_INPUT, SUBGRAPH_OUTPUT = "-10", "-20"
CONTROLS = (None, "fixed", "increment", "decrement", "randomize", "increment-wrap")
MAX_DEPTH = 32  # nested subgraphs
MAX_PARTS = 100_000  # nodes, links, sockets and values, a subgraph per use; the examples have about 300


@dataclass(frozen=True)
class Constant:
    value: Any


@dataclass(frozen=True)
class Muted:
    title: str


Source = Link | Constant | Muted | None  # None where nothing is connected


class Sheet:
    """The content of a graph or a subgraph, indexed by name and number.

    Attributes:
        origins: origin node and slot of each link.
        results: origin node and slot of each of a subgraph's outputs.
        parts: its nodes, links, sockets and values, counted.
    """

    def __init__(self, graph: EditorWorkflow | Subgraph) -> None:
        links = [(link, (str(link.origin_id), link.origin_slot)) for link in graph.links or []]
        self.nodes = {str(node.id): node for node in graph.nodes}
        self.origins = {link.id: origin for link, origin in links}
        self.results = {link.target_slot: origin for link, origin in links if str(link.target_id) == SUBGRAPH_OUTPUT}
        self.inputs = [put.name for put in graph.inputs or []] if isinstance(graph, Subgraph) else []
        self.parts = len(links) + len(self.inputs) + sum(node.parts for node in graph.nodes)


@dataclass(eq=False)
class Scope:
    """The root graph, or one use of a subgraph.

    Attributes:
        used_by: the scope around a subgraph, and the node there that uses it; None for the root graph.
        promoted: values of widgets that are kept on that node, by inner node (or "-1") and widget.
        children: the subgraphs used inside it, by the node that uses them.
    """

    sheet: Sheet
    prefix: str = ""
    used_by: tuple[Scope, EditorNode] | None = None
    promoted: dict[str, dict[str, Any]] = field(default_factory=dict)
    children: dict[str, Scope] = field(default_factory=dict)


@dataclass(frozen=True)
class _Wire:
    """A link that is being followed: number `number` of a scope."""

    scope: Scope
    number: int | str


@dataclass(frozen=True)
class _Socket:
    """A node's output that is being followed."""

    scope: Scope
    origin: str
    slot: int


def parse_editor(data: dict[str, Any], types: Catalogue) -> Graph:
    """Convert the editor's form into a graph.

    Raises:
        WorkflowError: for a file that is damaged or too large, and for nodes that cannot be used.
    """
    workflow = typed(data, EditorWorkflow, "the workflow")
    reader = _Reader(workflow, types)
    reader.convert(reader.unpack(Sheet(workflow)))
    return reader.graph


class _Reader:
    def __init__(self, workflow: EditorWorkflow, types: Catalogue) -> None:
        subgraphs = (workflow.definitions and workflow.definitions.subgraphs) or []
        self.sheets = {subgraph.id: Sheet(subgraph) for subgraph in subgraphs}
        self.types = types
        self.graph = Graph()
        self.parts = 0
        self.sources: dict[_Wire | _Socket, Source] = {}  # sources found so far

    def unpack(
        self, sheet: Sheet, prefix: str = "", used_by: tuple[Scope, EditorNode] | None = None, depth: int = 0
    ) -> Scope:
        """Make the scope of a graph and, recursively, of the subgraphs used in it.

        Raises:
            WorkflowError: for too deep a nesting, or more than `MAX_PARTS` parts.
        """
        self.parts += sheet.parts
        if depth > MAX_DEPTH:
            raise WorkflowError(
                f"subgraphs are nested deeper than {MAX_DEPTH} levels",
                "a subgraph must not contain itself",
                "unpack it in ComfyUI",
            )
        if self.parts > MAX_PARTS:
            raise WorkflowError(
                f"the workflow has more than {MAX_PARTS} nodes, links and values",
                "subgraphs count as often as they are used",
                "remove what is not needed",
            )
        scope = Scope(sheet, prefix, used_by, _promoted(used_by[1]) if used_by else {})
        for node_id, node in sheet.nodes.items():
            inner = self.sheets.get(node.type)
            if inner is not None:
                scope.children[node_id] = self.unpack(inner, f"{prefix}{node_id}:", (scope, node), depth + 1)
        return scope

    def convert(self, scope: Scope) -> None:
        for node_id, raw in scope.sheet.nodes.items():
            if raw.mode in (NEVER, BYPASS) or raw.type in (*NOTES, REROUTE, PRIMITIVE):
                continue
            if node_id in scope.children:
                self.convert(scope.children[node_id])
                continue
            full_id = scope.prefix + node_id
            node_type = known_type(self.types, full_id, raw.type, raw.title)
            node = Node(full_id, raw.type, raw.title or node_type.title)
            node.inputs = _widget_values(node, node_type, raw)
            kept = scope.promoted.get(node_id, {})
            node.inputs |= {name: value for name, value in kept.items() if name in node.inputs}
            self._connect(node, node_type, raw, scope)
            self.graph.nodes[full_id] = node

    def _connect(self, node: Node, node_type: NodeType, raw: EditorNode, scope: Scope) -> None:
        for socket in raw.inputs or []:
            if socket.link is None:
                continue
            name = socket.widget.name if socket.widget else socket.name
            if not check_input_name(node, node_type, name):
                continue
            source = self._follow(_Wire(scope, socket.link))
            if isinstance(source, Muted):
                node.inputs.pop(name, None)
                node.muted[name] = source.title
            elif isinstance(source, Constant):
                node.inputs[name] = source.value
            elif isinstance(source, Link):
                node.inputs[name] = source

    def _follow(self, wire: _Wire) -> Source:
        """Find what is at the other end of a link. Results are cached: thousands of links may pass the same reroutes.

        Raises:
            WorkflowError: for a circle.
        """
        at: Source | _Wire | _Socket = wire
        passed: dict[_Wire | _Socket, None] = {}
        while isinstance(at, _Wire | _Socket) and at not in self.sources:
            if at in passed:
                raise WorkflowError(
                    f"link {wire.number} runs in a circle of reroutes, bypassed nodes or subgraphs",
                    "a workflow must not feed itself",
                    "remove one of the links",
                )
            passed[at] = None
            at = _step(at)
        source = self.sources[at] if isinstance(at, _Wire | _Socket) else at
        self.sources.update(dict.fromkeys(passed, source))
        return source


def _promoted(instance: EditorNode) -> dict[str, dict[str, Any]]:
    """Return the widget values kept on a subgraph node; "proxyWidgets" names their owners. Null means the inner
    value."""
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for proxy, value in zip(instance.proxies, instance.values, strict=False):
        if value is not None:
            found[str(proxy.node)][proxy.widget] = value
    return found


def _widget_values(node: Node, node_type: NodeType, raw: EditorNode) -> dict[str, Any]:
    """Return widget values by input name; those missing in the file get the widget's default, as in the editor."""
    widgets = [spec for spec in node_type.inputs if is_widget(spec)]
    if isinstance(raw.widgets_values, dict):
        extra = {f"{w.id}_control_after_generate" for w in widgets} | {"control_after_generate", "control_filter_list"}
        given = {k: v for k, v in raw.widgets_values.items() if k not in extra and check_input_name(node, node_type, k)}
    else:
        given = _by_position(node, node_type, widgets, raw.values)
    found = {w.id: given[w.id] if given.get(w.id) is not None else widget_default(w) for w in widgets}
    return {name: value for name, value in found.items() if value is not None}


def value_place(node_type: NodeType, values: list[Any], name: str) -> tuple[int, list[Any]]:
    """Return where a node's list of values has that of a widget, and the list, with defaults up to there.

    Raises:
        KeyError: for no widget.
    """
    filled, at = list(values), 0
    for widget in (spec for spec in node_type.inputs if is_widget(spec)):
        if at >= len(filled):
            filled.append(widget_default(widget))
        if widget.id == name:
            return at, filled
        at += 1
        extra = control_widgets(widget)
        if extra and at < len(filled) and filled[at] in CONTROLS:
            at += extra
        elif extra and at >= len(filled):
            filled += ["fixed", *[""] * (extra - 1)]
            at += extra
    raise KeyError(name)


def _by_position(node: Node, node_type: NodeType, widgets: list[Any], values: list[Any]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    at = 0
    for widget in widgets:
        if at >= len(values):
            break
        given[widget.id] = values[at]
        at += 1
        extra = control_widgets(widget)
        # files saved before the input had a control have no value for it
        if extra and at < len(values) and values[at] in CONTROLS:
            at += extra
    surplus = [value for value in values[at:] if value not in (None, "")]
    if surplus and not node_type.lenient:
        raise WorkflowError(
            f"{node.name} has {len(surplus)} widget values more than this version of {node.class_type} has widgets",
            f"its widgets are {', '.join(w.id for w in widgets) or 'none'}",
            "update Ostinato, or open the workflow in ComfyUI, check the node and save it again",
        )
    return given


def _step(at: _Wire | _Socket) -> Source | _Wire | _Socket:
    """Go one step towards the source."""
    scope = at.scope
    if isinstance(at, _Wire):
        return _Socket(scope, *scope.sheet.origins[at.number]) if at.number in scope.sheet.origins else None
    if at.origin == SUBGRAPH_INPUT and scope.used_by is not None:
        return _leave_subgraph(scope, *scope.used_by, at.slot)
    raw = scope.sheet.nodes.get(at.origin)
    if raw is None:
        return None
    if raw.mode == NEVER:
        return Muted(raw.title or raw.type)
    if raw.type == REROUTE:
        return _next(scope, raw.inputs[0] if raw.inputs else None)
    if raw.mode == BYPASS:
        return _next(scope, _bypass_input(raw, at.slot))
    if raw.type == PRIMITIVE:
        return Constant(raw.values[0]) if raw.values else None
    if at.origin in scope.children:
        child = scope.children[at.origin]
        return _Socket(child, *child.sheet.results[at.slot]) if at.slot in child.sheet.results else None
    return Link(scope.prefix + at.origin, at.slot)


def _next(scope: Scope, socket: Input | None) -> _Wire | None:
    return None if socket is None or socket.link is None else _Wire(scope, socket.link)


def _leave_subgraph(scope: Scope, outer: Scope, instance: EditorNode, slot: int) -> Source | _Wire:
    if not 0 <= slot < len(scope.sheet.inputs):
        return None
    name = scope.sheet.inputs[slot]
    wire = _next(outer, next((s for s in instance.inputs or [] if s.name == name), None))
    kept = scope.promoted.get("-1", {})
    return wire or (Constant(kept[name]) if name in kept else None)


def _bypass_input(raw: EditorNode, slot: int) -> Input | None:
    """Return the input that a bypassed node passes on: the one at the output's position if the types agree, else the
    first."""
    inputs, outputs = raw.inputs or [], raw.outputs or []
    if not 0 <= slot < len(outputs):
        return None
    beside = inputs[slot : slot + 1]
    return next((i for i in [*beside, *inputs] if i.type == outputs[slot].type), None)
