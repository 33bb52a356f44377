"""The editor's workflow JSON: widget values by position, links by number, and nodes that exist only in the editor.

A link is followed to the node that really makes the value: through reroutes, bypassed nodes, primitives and the two
boundaries of a subgraph (its inputs are slots of node -10, its outputs slots of node -20). What lies inside subgraph
node 5 gets ids like "5:2", as in ComfyUI's own API export.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .workflow import (
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
    widget_default,
)

NEVER, BYPASS = 2, 4  # node modes
NOTES = ("Note", "MarkdownNote")
REROUTE, PRIMITIVE = "Reroute", "PrimitiveNode"
SUBGRAPH_INPUT, SUBGRAPH_OUTPUT = "-10", "-20"
CONTROLS = (None, "fixed", "increment", "decrement", "randomize", "increment-wrap")
MAX_DEPTH = 32  # nested subgraphs


@dataclass(frozen=True)
class Constant:
    value: Any


@dataclass(frozen=True)
class Muted:
    title: str


Source = Link | Constant | Muted | None  # None: nothing is connected


@dataclass
class Scope:
    """The root graph, or one subgraph as one node uses it."""

    prefix: str
    nodes: dict[str, dict[str, Any]]
    links: dict[Any, tuple[str, int]]  # link number -> (origin node, origin slot)
    parent: Scope | None = None
    instance: dict[str, Any] = field(default_factory=dict)
    input_names: list[str] = field(default_factory=list)
    output_links: dict[int, tuple[str, int]] = field(default_factory=dict)
    promoted: dict[tuple[str, str], Any] = field(default_factory=dict)  # (inner node or "-1", widget) -> value
    children: dict[str, Scope] = field(default_factory=dict)


def parse_editor(data: dict[str, Any], types: Catalogue) -> Graph:
    definitions = {s["id"]: s for s in (data.get("definitions") or {}).get("subgraphs") or []}
    graph = Graph()
    _convert(_scope(data, definitions, ""), types, graph)
    return graph


def _scope(data: dict[str, Any], definitions: dict[str, Any], prefix: str, parent: Scope | None = None) -> Scope:
    if prefix.count(":") > MAX_DEPTH:
        raise WorkflowError(
            f"subgraphs are nested deeper than {MAX_DEPTH} levels",
            "a subgraph must not contain itself",
            "unpack it in ComfyUI",
        )
    nodes = {str(node["id"]): node for node in data["nodes"]}
    scope = Scope(prefix, nodes, {}, parent)
    for link in data.get("links") or []:
        number, origin, slot, target, target_slot = _link_fields(link)
        scope.links[number] = (origin, slot)
        if target == SUBGRAPH_OUTPUT:
            scope.output_links[target_slot] = (origin, slot)
    for node_id, node in nodes.items():
        definition = definitions.get(node["type"])
        if definition is not None:
            child = _scope(definition, definitions, f"{prefix}{node_id}:", scope)
            child.instance = node
            child.input_names = [i["name"] for i in definition.get("inputs") or []]
            child.promoted = _promoted(node)
            scope.children[node_id] = child
    return scope


def _link_fields(link: Any) -> tuple[Any, str, int, str, int]:
    """Number, origin, origin slot, target, target slot, from the list form or the object form."""
    if isinstance(link, dict):
        names = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
        number, origin, slot, target, target_slot = (link[name] for name in names)
    else:
        number, origin, slot, target, target_slot = link[:5]
    return number, str(origin), int(slot), str(target), int(target_slot)


def _promoted(instance: dict[str, Any]) -> dict[tuple[str, str], Any]:
    """Widget values kept on the subgraph node itself; its "proxyWidgets" says whose they are. Null: the inner one."""
    proxies = (instance.get("properties") or {}).get("proxyWidgets") or []
    values = instance.get("widgets_values") or []
    if not isinstance(values, list):
        return {}
    pairs = zip(proxies, values, strict=False)
    return {(str(proxy[0]), proxy[1]): value for proxy, value in pairs if value is not None}


def _convert(scope: Scope, types: Catalogue, graph: Graph) -> None:
    for node_id, raw in scope.nodes.items():
        if raw.get("mode", 0) in (NEVER, BYPASS) or raw["type"] in (*NOTES, REROUTE, PRIMITIVE):
            continue
        if node_id in scope.children:
            _convert(scope.children[node_id], types, graph)
            continue
        full_id = scope.prefix + node_id
        node_type = known_type(types, full_id, raw["type"], raw.get("title"))
        node = Node(full_id, raw["type"], raw.get("title") or node_type.title)
        node.inputs = _widget_values(node, node_type, raw.get("widgets_values"))
        for (owner, name), value in scope.promoted.items():
            if owner == node_id and name in node.inputs:
                node.inputs[name] = value
        _connect(node, node_type, raw, scope)
        graph.nodes[full_id] = node


def _connect(node: Node, node_type: NodeType, raw: dict[str, Any], scope: Scope) -> None:
    for socket in raw.get("inputs") or []:
        if socket.get("link") is None:
            continue
        name = (socket.get("widget") or {}).get("name") or socket["name"]
        if not check_input_name(node, node_type, name):
            continue
        source = _follow(scope, socket["link"])
        if isinstance(source, Muted):
            node.inputs.pop(name, None)
            node.muted[name] = source.title
        elif isinstance(source, Constant):
            node.inputs[name] = source.value
        elif isinstance(source, Link):
            node.inputs[name] = source


def _widget_values(node: Node, node_type: NodeType, values: Any) -> dict[str, Any]:
    """Values by input name; what the file does not have gets the widget's default, as in the editor."""
    widgets = [spec for spec in node_type.inputs if is_widget(spec)]
    if isinstance(values, dict):
        extra = {f"{w.id}_control_after_generate" for w in widgets} | {"control_after_generate", "control_filter_list"}
        given = {k: v for k, v in values.items() if k not in extra and check_input_name(node, node_type, k)}
    else:
        given = _by_position(node, node_type, widgets, list(values or []))
    found = {w.id: given[w.id] if given.get(w.id) is not None else widget_default(w) for w in widgets}
    return {name: value for name, value in found.items() if value is not None}


def _by_position(node: Node, node_type: NodeType, widgets: list[Any], values: list[Any]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    at = 0
    for widget in widgets:
        if at >= len(values):
            break
        given[widget.id] = values[at]
        at += 1
        extra = control_widgets(widget)
        # a file saved before the input had a control does not have the control's value
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


@dataclass(frozen=True)
class _Wire:
    """Still on the way to a source: at link `number` of a scope."""

    scope: Scope
    number: Any


@dataclass(frozen=True)
class _Socket:
    """Still on the way to a source: at an output of a node."""

    scope: Scope
    origin: str
    slot: int


def _follow(scope: Scope, number: Any) -> Source:
    """What is at the other end of link `number`."""
    at: Source | _Wire | _Socket = _Wire(scope, number)
    seen = set()
    while isinstance(at, _Wire | _Socket):
        here = (at.scope.prefix, at.number) if isinstance(at, _Wire) else (at.scope.prefix, at.origin, at.slot)
        if here in seen:
            raise WorkflowError(
                f"link {number} runs in a circle of reroutes, bypassed nodes or subgraphs",
                "a workflow must not feed itself",
                "remove one of the links",
            )
        seen.add(here)
        if isinstance(at, _Socket):
            at = _step(at.scope, at.origin, at.slot)
        else:
            at = _Socket(at.scope, *at.scope.links[at.number]) if at.number in at.scope.links else None
    return at


def _step(scope: Scope, origin: str, slot: int) -> Source | _Wire | _Socket:
    if origin == SUBGRAPH_INPUT and scope.parent is not None:
        return _leave_subgraph(scope, slot)
    raw = scope.nodes.get(origin)
    if raw is None:
        return None
    if raw.get("mode", 0) == NEVER:
        return Muted(raw.get("title") or raw["type"])
    if raw["type"] == REROUTE:
        return _next(scope, (raw.get("inputs") or [{}])[0])
    if raw.get("mode", 0) == BYPASS:
        return _next(scope, _bypass_input(raw, slot))
    if raw["type"] == PRIMITIVE:
        values = raw.get("widgets_values") or []
        return Constant(values[0]) if values else None
    if origin in scope.children:
        child = scope.children[origin]
        return _Socket(child, *child.output_links[slot]) if slot in child.output_links else None
    return Link(scope.prefix + origin, slot)


def _next(scope: Scope, socket: dict[str, Any]) -> _Wire | None:
    return None if socket.get("link") is None else _Wire(scope, socket["link"])


def _leave_subgraph(scope: Scope, slot: int) -> Source | _Wire:
    name = scope.input_names[slot]
    socket = next((s for s in scope.instance.get("inputs") or [] if s["name"] == name), {})
    if socket.get("link") is not None:
        return _Wire(scope.parent, socket["link"])
    return Constant(scope.promoted[("-1", name)]) if ("-1", name) in scope.promoted else None


def _bypass_input(raw: dict[str, Any], slot: int) -> dict[str, Any]:
    """The input whose value a bypassed node hands on: the one beside the output if the types agree, else the first."""
    inputs, outputs = raw.get("inputs") or [], raw.get("outputs") or []
    if slot >= len(outputs):
        return {}
    wanted = outputs[slot]["type"]
    beside = inputs[slot : slot + 1]
    return next((i for i in [*beside, *inputs] if i["type"] == wanted), {})
