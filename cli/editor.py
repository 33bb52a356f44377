"""Reads the editor's workflow JSON: widget values by position, links by number, and nodes that exist only in the
editor.

A link is followed to the node that makes the value, as the editor does where it exports the API form (`graphToPrompt`
and `ExecutableNodeDTO` of frontend 1.58): through reroutes, bypassed nodes and the two boundaries of a subgraph. Nodes
inside subgraph node 5 get ids like "5:2", as in that export.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .graph import (
    Catalogue,
    Graph,
    Link,
    Node,
    NodeType,
    Place,
    WorkflowError,
    check_input_name,
    is_widget,
    known_type,
    typed,
)
from .schema import EditorNode, EditorWorkflow
from .sheets import PRIMITIVE, SUBGRAPH_INPUT, Constant, Port, Scope, Sheet, Sheets
from .widgets import value_place, widget_values

NEVER, BYPASS = 2, 4  # node modes
REROUTES = ("Reroute", "Reroute (rgthree)")
NOTES = ("Note", "MarkdownNote")
GROUP_NODE = ("workflow>", "workflow/")  # how the types of group nodes begin


@dataclass(frozen=True)
class Muted:
    title: str


Source = Link | Constant | Muted | None  # None where nothing is connected


@dataclass(frozen=True)
class _Wire:
    """A link that is being followed: number `number` of a scope, into an input of type `kind`."""

    scope: Scope
    number: int | str
    kind: str


@dataclass(frozen=True)
class _Socket:
    """A node's output that is being followed, for an input of type `kind`."""

    scope: Scope
    origin: str
    slot: int
    kind: str


def parse_editor(data: dict[str, Any], types: Catalogue) -> Graph:
    """Convert the editor's form into a graph.

    Raises:
        WorkflowError: for a file that is damaged or too large, and for output nodes that cannot be used.
    """
    reader = _Reader(Sheets(typed(data, EditorWorkflow, "the workflow"), types), types)
    reader.convert(reader.sheets.unpack())
    return reader.graph


class _Reader:
    def __init__(self, sheets: Sheets, types: Catalogue) -> None:
        self.sheets, self.types = sheets, types
        self.graph = Graph()
        self.sources: dict[_Wire | _Socket, Source] = {}  # sources found so far

    def convert(self, scope: Scope) -> None:
        for node_id, raw in scope.sheet.nodes.items():
            off = raw.mode in (NEVER, BYPASS)
            if node_id in scope.children:
                # as the editor's export: the mode of a subgraph inside a subgraph is not looked at
                if not off or scope.used_by is not None:
                    self.convert(scope.children[node_id])
            elif not off and raw.type not in (*NOTES, *REROUTES, PRIMITIVE):
                self._convert(scope, node_id, raw)

    def _convert(self, scope: Scope, node_id: str, raw: EditorNode) -> None:
        """Convert a node; what is wrong with it is kept for the case that an output needs it."""
        full_id = scope.prefix + node_id
        if raw.type.startswith(GROUP_NODE):
            raise WorkflowError(
                f"{Node(full_id, raw.type, raw.title or raw.type).name} is a group node",
                "allowed are subgraphs, which have taken their place",
                "open the workflow in ComfyUI, convert the group node to a subgraph and save it again",
            )
        try:
            node_type = known_type(self.types, full_id, raw.type, raw.title)
            node = Node(full_id, raw.type, raw.title or node_type.title)
            node.inputs = widget_values(node, node_type, raw)
            self._connect(node, node_type, raw, scope)
            self.graph.nodes[full_id] = node
        except WorkflowError as error:
            if raw.inputs or raw.outputs:  # what has neither is a label or the like
                self.graph.set_aside(full_id, raw.type, error, self.types)

    def _connect(self, node: Node, node_type: NodeType, raw: EditorNode, scope: Scope) -> None:
        for port in self.sheets.ports(scope.sheet, raw):
            held = scope.promoted.get((str(raw.id), port.name))
            if held is None and port.link is None or not check_input_name(node, node_type, port.name):
                continue
            spec = node_type.input(port.name)
            widget = spec is not None and is_widget(spec)
            source: Source = held if widget else None
            if source is None and port.link is not None:
                primitive = self._primitive(scope, port.link) if widget else None
                source = primitive or self._follow(_Wire(scope, port.link, _kind(port.type)))
            if isinstance(source, Muted):
                node.muted[port.name] = source.title
            elif isinstance(source, Constant):
                if source.value is not None:
                    node.inputs[port.name] = source.value
                if source.place is not None:
                    node.places[port.name] = source.place
            elif isinstance(source, Link):
                node.inputs[port.name] = source

    def _primitive(self, scope: Scope, number: int | str) -> Constant | None:
        """Return the value of the primitive that a widget is linked to; the editor copies it to none but these."""
        raw = scope.sheet.nodes.get(str(scope.sheet.links[number].origin_id))
        if raw is None or raw.type != PRIMITIVE:
            return None
        held = scope.promoted.get((str(raw.id), ""))
        if held is not None and held.value is not None:
            return held
        value = raw.values[0] if raw.values else None
        return Constant(value, Place(scope.sheet.key, str(raw.id), 0))

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
            at = self._step(at)
        source = self.sources[at] if isinstance(at, _Wire | _Socket) else at
        self.sources.update(dict.fromkeys(passed, source))
        return source

    def _step(self, at: _Wire | _Socket) -> Source | _Wire | _Socket:
        """Go one step towards the source."""
        scope = at.scope
        if isinstance(at, _Wire):
            link = scope.sheet.links[at.number]
            origin = str(link.origin_id)
            if origin == SUBGRAPH_INPUT and scope.used_by is not None:
                return self._leave(scope, *scope.used_by, link.origin_slot)
            return _Socket(scope, origin, link.origin_slot, at.kind)
        raw = scope.sheet.nodes.get(at.origin)
        if raw is None or raw.type == PRIMITIVE:
            return None
        if raw.mode == NEVER:
            return Muted(raw.title or raw.type)
        ports = self.sheets.ports(scope.sheet, raw)
        if raw.mode == BYPASS:
            slot = self._bypass(ports, raw, at)
            return None if slot is None else _next(scope, ports[slot], _kind(ports[slot].type))
        if raw.type in REROUTES:
            return _next(scope, ports[0], at.kind) if ports else None
        if at.origin in scope.children:
            child = scope.children[at.origin]
            origin, slot = child.sheet.results.get(at.slot, ("", 0))
            if origin == SUBGRAPH_INPUT:
                return self._leave(child, scope, raw, slot)
            return _Socket(child, origin, slot, at.kind)
        return Link(scope.prefix + at.origin, at.slot)

    def _leave(self, scope: Scope, outer: Scope, instance: EditorNode, slot: int) -> Source | _Wire:
        """Go out of a subgraph, to what is linked to an input of its node or to the value that it holds for it."""
        ports = self.sheets.ports(outer.sheet, instance)
        if not 0 <= slot < len(ports):
            return None
        return _next(outer, ports[slot], _kind(ports[slot].type)) or self._held(scope, slot)

    def _held(self, scope: Scope, slot: int) -> Constant | None:
        """Return the value of a subgraph's input that nothing is linked to: what its node holds, else that of the first
        widget that it leads to."""
        while True:
            held = scope.held.get(slot)
            target = self.sheets.target(scope.sheet, slot)
            if held is not None and held.value is not None or target is None:
                return held
            inner, name = target
            if inner not in scope.children:
                return _own(scope.sheet, scope.sheet.nodes[inner], name, self.types)
            scope = scope.children[inner]
            slot = scope.sheet.names[name]

    def _bypass(self, ports: list[Port], raw: EditorNode, at: _Socket) -> int | None:
        """Return the input that a bypassed node hands on: the one beside the output if it fits the output and what is
        wanted, else one of exactly the wanted type, else the first that fits both."""
        made = self._made(raw, at.slot)
        if not ports or made is None:
            return None
        if at.kind in ("*", ""):
            return at.slot if at.slot < len(ports) else 0
        fits = [_fit(_kind(port.type), made) and _fit(_kind(port.type), at.kind) for port in ports]
        if at.slot < len(ports) and fits[at.slot]:
            return at.slot
        exact = (slot for slot, port in enumerate(ports) if _kind(port.type) == at.kind)
        return next(exact, fits.index(True) if True in fits else None)

    def _made(self, raw: EditorNode, slot: int) -> str | None:
        """Return the type of a node's output."""
        kinds: list[Any] = [output.type for output in raw.outputs or []]
        if raw.type in self.sheets.subgraphs:
            kinds = [output.type for output in self.sheets.subgraphs[raw.type].outputs]
        elif raw.type in self.types:
            kinds = [output.get_io_type() for output in self.types[raw.type].schema.outputs]
        return _kind(kinds[slot]) if 0 <= slot < len(kinds) else None


def _own(sheet: Sheet, raw: EditorNode, name: str, types: Catalogue) -> Constant | None:
    """Return the value that a node has for a widget of its own."""
    if raw.type not in types or not isinstance(raw.widgets_values, list):
        return None
    at, filled = value_place(types[raw.type], raw.values, name)
    return Constant(filled[at], Place(sheet.key, str(raw.id), at))


def _next(scope: Scope, port: Port, kind: str) -> _Wire | None:
    return None if port.link is None else _Wire(scope, port.link, kind)


def _kind(kind: Any) -> str:
    """Return a socket's type as text; some packs' are lists or numbers."""
    return ",".join(map(str, kind)) if isinstance(kind, list) else "*" if kind in (None, 0) else str(kind)


def _fit(a: str, b: str) -> bool:
    """Return whether the editor lets sockets be connected: types may be unions like "INT,FLOAT", "*" is anything."""
    if "*" in (a, b) or "" in (a, b):
        return True
    return not {kind.lower() for kind in a.split(",")}.isdisjoint(kind.lower() for kind in b.split(","))
