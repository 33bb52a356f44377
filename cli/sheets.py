"""The editor's graphs, indexed: a workflow's own and its subgraphs, and what the nodes that use them hold for them.

A subgraph's inputs are slots of node -10 inside it, its outputs slots of node -20. A node that uses it may hold values
of widgets inside ("promoted" ones): one for each of its inputs that leads to a widget, or one for each entry of
"proxyWidgets". Read as frontend 1.58 does (`SubgraphNode`, `proxyWidgetMigration`); 1.43 passes over the first kind.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .graph import Catalogue, Place, WorkflowError, is_widget, typed
from .schema import Definitions, EditorNode, EditorWorkflow, Input, Link, ListedLink, Proxy, Slot, Subgraph

SUBGRAPH_INPUT, SUBGRAPH_OUTPUT = "-10", "-20"
PRIMITIVE = "PrimitiveNode"
AnyLink = ListedLink | Link
Inner = tuple[str | None, str]  # a node, or any, and its widget
MAX_DEPTH = 32  # nested subgraphs
MAX_PARTS = 100_000  # nodes, links, sockets and values, a subgraph per use; the examples have about 300
_PREFIX = re.compile(r"\s*\d+\s*:\s*(.+)", re.DOTALL)  # "5: steps", as older editors named a widget of node 5


@dataclass(frozen=True)
class Constant:
    """A widget's value and where the file has it; None is the value of the widget that takes it."""

    value: Any
    place: Place | None = None


@dataclass(frozen=True)
class Port:
    """An input of a node as the editor makes it, and the number of the link in it."""

    name: str
    type: Any
    link: int | str | None


class Sheet:
    """The content of a graph or a subgraph.

    Attributes:
        key: the subgraph's id; "" for the workflow's own graph.
        links: by number.
        names: slots of a subgraph's inputs by name.
        fed: the link in each input, by node and slot.
        results: origin node and slot of each of a subgraph's outputs.
        leads: the links from each of a subgraph's inputs.
        parts: its nodes, links, sockets and values, counted.
    """

    def __init__(self, graph: EditorWorkflow | Subgraph) -> None:
        inside = isinstance(graph, Subgraph)
        self.key = graph.id if isinstance(graph, Subgraph) else ""
        self.nodes: dict[str, EditorNode] = {}
        for node in graph.nodes:
            if node is not None:
                self.nodes.setdefault(str(node.id), node)
        self.links: dict[int | str, AnyLink] = {}
        self.fed: dict[tuple[str, int], int | str] = {}
        self.results: dict[int, tuple[str, int]] = {}
        self.leads: dict[int, list[AnyLink]] = defaultdict(list)
        for link in _links(graph.links or [], self.key):
            self._add(link)
        self.inputs: list[Slot] = (graph.inputs or []) if isinstance(graph, Subgraph) else []
        self.names = {put.name: slot for slot, put in reversed(list(enumerate(self.inputs)))}
        self.outputs: list[Slot] = (graph.outputs or []) if isinstance(graph, Subgraph) else []
        slots = len(self.inputs) + len(self.outputs) if inside else 0
        self.parts = len(graph.links or []) + slots + sum(node.parts for node in self.nodes.values())

    def _add(self, link: AnyLink) -> None:
        """Index a link; of two with one number, or into one input, the first counts."""
        if self.links.setdefault(link.id, link) is not link:
            return
        self.fed.setdefault((str(link.target_id), link.target_slot), link.id)
        if str(link.origin_id) == SUBGRAPH_INPUT:
            self.leads[link.origin_slot].append(link)
        if str(link.target_id) == SUBGRAPH_OUTPUT:
            self.results.setdefault(link.target_slot, (str(link.origin_id), link.origin_slot))

    def linked(self, node: str, sockets: list[Input]) -> list[int | str | None]:
        """Return the link in each socket of a node: the one it names if that ends at the node, else what ends at
        its slot if none of them names that.

        Frontend 1.43 goes by the names alone, 1.58 by the links.
        """
        named = [self._named(node, socket) for socket in sockets]
        fed = [self.fed.get((node, slot)) for slot in range(len(sockets))]
        taken = set(named)
        return [by_name if by_name is not None or at in taken else at for by_name, at in zip(named, fed, strict=True)]

    def _named(self, node: str, socket: Input) -> int | str | None:
        link = self.links.get(socket.link) if socket.link is not None else None
        return link.id if link is not None and str(link.target_id) == node else None


def _links(links: list[Any], key: str) -> Iterator[AnyLink]:
    """Yield the links of a file; entries without two ends are passed over."""
    for number, entry in enumerate(links):
        if entry is None or isinstance(entry, list) and len(entry) < len(ListedLink.__struct_fields__):
            continue
        what = f"links[{number}] of {f'subgraph {key}' if key else 'the workflow'}"
        yield typed(entry, ListedLink, what) if isinstance(entry, list) else typed(entry, Link, what)


@dataclass(eq=False)
class Scope:
    """The root graph, or one use of a subgraph.

    Attributes:
        used_by: the scope around a subgraph, and the node there that uses it; None for the root graph.
        held: values that this node holds for the subgraph's inputs, by slot.
        promoted: values that it holds for widgets which no input leads to, by inner node and widget.
        deeper: the same for widgets that subgraphs inside it show, by their node, and node and widget in there.
        children: the subgraphs used inside it, by the node that uses them.
    """

    sheet: Sheet
    prefix: str = ""
    used_by: tuple[Scope, EditorNode] | None = None
    held: dict[int, Constant] = field(default_factory=dict)
    promoted: dict[tuple[str, str], Constant] = field(default_factory=dict)
    deeper: dict[str, dict[Inner, Constant]] = field(default_factory=dict)
    children: dict[str, Scope] = field(default_factory=dict)


class Sheets:
    """The graphs of a workflow."""

    def __init__(self, workflow: EditorWorkflow, types: Catalogue) -> None:
        self.root, self.types = Sheet(workflow), types
        self.subgraphs: dict[str, Sheet] = {}
        for subgraph in _definitions(workflow.definitions):
            self.subgraphs.setdefault(subgraph.id, Sheet(subgraph))
        self.parts = 0
        # found so far: what `target`, `slots` and `ports` return
        self.targets: dict[tuple[str, int], tuple[str, str] | None] = {}
        self.shown: dict[str, dict[tuple[str, str], int]] = {}
        self.made: dict[tuple[str, str], list[Port]] = {}

    def unpack(self) -> Scope:
        """Make the scope of the root graph and, recursively, of the subgraphs used in it.

        Raises:
            WorkflowError: for too deep a nesting, or more than `MAX_PARTS` parts.
        """
        root = Scope(self.root)
        self._fill(root, 0)
        return root

    def _fill(self, scope: Scope, depth: int) -> None:
        self.parts += scope.sheet.parts
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
        for node_id, node in scope.sheet.nodes.items():
            if node.type in self.subgraphs:
                child = Scope(self.subgraphs[node.type], f"{scope.prefix}{node_id}:", (scope, node))
                self._hold(child, scope, node_id, node)
                scope.children[node_id] = child
                self._fill(child, depth + 1)

    def _hold(self, child: Scope, scope: Scope, node_id: str, node: EditorNode) -> None:
        """Find the values that a subgraph's node holds; those that the node around it holds for it come first."""
        values, key = node.values, scope.sheet.key
        slots = [slot for slot in range(len(child.sheet.inputs)) if self.target(child.sheet, slot)]
        for at, (slot, value) in enumerate(zip(slots, values, strict=False)):
            child.held[slot] = Constant(value, Place(key, node_id, at))
        proxies = node.proxies
        found = [proxy for proxy in proxies if proxy is not None]
        # an editor that could not read an entry may have left out its value too
        for at, proxy in enumerate(found if len(values) == len(found) else proxies):
            if proxy is not None:
                value = values[at] if at < len(values) else None
                self._promote(child, proxy, Constant(value, Place(key, node_id, at)))
        if node_id in scope.deeper:
            self._promote_through(child, scope.deeper[node_id])

    def _promote(self, child: Scope, proxy: Proxy, constant: Constant) -> None:
        """Take in one widget that a subgraph's node shows."""
        inner, name = str(proxy.node), _plain(proxy.widget)
        slot = self.slots(child.sheet).get((inner, name))
        node = child.sheet.nodes.get(inner)
        if slot is not None:
            if constant.value is not None:
                child.held[slot] = constant
        elif node is not None and node.type in self.subgraphs:
            source = None if proxy.source is None else str(proxy.source)
            child.deeper.setdefault(inner, {})[source, name] = constant
        elif node is not None and node.type == PRIMITIVE:
            child.promoted.setdefault((inner, ""), constant)
        elif node is not None:
            child.promoted[inner, name] = constant

    def _promote_through(self, child: Scope, shown: dict[Inner, Constant]) -> None:
        """Take in widgets of a subgraph's node that the node around it shows: inputs, and what that shows itself."""
        places: dict[Inner, tuple[dict[Any, Constant], Any]] = {}
        for (inner, name), slot in self.slots(child.sheet).items():
            places.setdefault((None, name), (child.held, slot))
            places.setdefault((inner, name), (child.held, slot))
        for inner, name in child.promoted:
            places.setdefault((None, name), (child.promoted, (inner, name)))
            places.setdefault((inner, name), (child.promoted, (inner, name)))
        for inner, further in child.deeper.items():
            for source, name in further:
                places.setdefault((None, name), (further, (source, name)))
                places.setdefault((inner, name), (further, (source, name)))
        for key, constant in shown.items():
            if key in places and constant.value is not None:
                values, at = places[key]
                values[at] = constant

    def slots(self, sheet: Sheet) -> dict[tuple[str, str], int]:
        """Return the inputs of a subgraph that lead to a widget: their slots, by inner node and its input, and by
        node "-1" and their own names."""
        if sheet.key not in self.shown:
            found = [(self.target(sheet, slot), slot) for slot in range(len(sheet.inputs))]
            named = [(("-1", sheet.inputs[slot].name), slot) for target, slot in found if target]
            self.shown[sheet.key] = {target: slot for target, slot in reversed([*named, *found]) if target}
        return self.shown[sheet.key]

    def target(self, sheet: Sheet, slot: int) -> tuple[str, str] | None:
        """Return the first inner node with a widget that a subgraph's input leads to, and the name of its input."""
        at = (sheet.key, slot)
        if at not in self.targets:
            self.targets[at] = None  # of a subgraph that contains itself
            found = (self._widget_at(sheet, link) for link in sheet.leads.get(slot, ()))
            self.targets[at] = next((target for target in found if target), None)
        return self.targets[at]

    def _widget_at(self, sheet: Sheet, link: AnyLink) -> tuple[str, str] | None:
        node = sheet.nodes.get(str(link.target_id))
        inputs = (node and node.inputs) or []
        if node is None or not 0 <= link.target_slot < len(inputs):
            return None
        socket = inputs[link.target_slot]
        if node.type in self.subgraphs:
            inner = self.subgraphs[node.type]
            slot = inner.names.get(socket.name)
            shown = slot is not None and self.target(inner, slot) is not None
        elif node.type in self.types:
            spec = self.types[node.type].input(socket.widget.name if socket.widget else socket.name)
            shown = spec is not None and is_widget(spec)
        else:
            shown = socket.widget is not None
        return (str(link.target_id), socket.name) if shown else None

    def ports(self, sheet: Sheet, node: EditorNode) -> list[Port]:
        """Return a node's inputs in the order and of the types that the editor gives them, whatever the file has."""
        at = (sheet.key, str(node.id))
        if at not in self.made:
            self.made[at] = self._ports(sheet, node)
        return self.made[at]

    def _ports(self, sheet: Sheet, node: EditorNode) -> list[Port]:
        node_id, known = str(node.id), self.types.get(node.type)
        wanted: list[tuple[str, Any]] = []
        if node.type in self.subgraphs:
            wanted = [(put.name, put.type) for put in self.subgraphs[node.type].inputs]
        elif known is not None:
            wanted = [(spec.id, spec.get_io_type()) for spec in sorted(known.inputs, key=is_widget)]
        given: dict[str, list[Port]] = {}
        sockets = node.inputs or []
        for socket, link in zip(sockets, sheet.linked(node_id, sockets), strict=True):
            name = socket.widget.name if socket.widget and known is not None else socket.name
            given.setdefault(name, []).append(Port(name, socket.type, link))
        found = []
        for name, kind in wanted:
            same = given.get(name)
            found.append(Port(name, kind, same.pop(0).link if same else None))
        if node.type in self.subgraphs:
            return found
        return found + [port for ports in given.values() for port in ports]


def _plain(widget: str) -> str:
    while match := _PREFIX.fullmatch(widget):
        widget = match[1]
    return widget


def _definitions(definitions: Definitions | None) -> Iterator[Subgraph]:
    """Yield a workflow's subgraphs, also those that are defined inside others."""
    for subgraph in (definitions and definitions.subgraphs) or []:
        yield subgraph
        yield from _definitions(subgraph.definitions)
