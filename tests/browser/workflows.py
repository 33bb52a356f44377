"""Workflows of toy nodes as the editor saves them, drawn by hypothesis: subgraphs in subgraphs and used twice, widgets
that their nodes show in every known form, bypassed and muted nodes, reroutes, primitives and damaged links.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from ostinato.nodes.shared.comfy import io

from ..unit.cli.toy_nodes import TOYS

Toy = io.Custom("TOY")


class ToyJoin(io.ComfyNode):
    """Takes unions and anything, and hands on a union: what a bypass may pick from."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        many = io.MultiType.Input
        return io.Schema(
            node_id="ToyJoin",
            inputs=[
                many(io.Float.Input("amount", default=0.5, min=0.0, max=1.0), types=[Toy]),
                many("either", types=[Toy, io.Int], optional=True),
                io.AnyType.Input("any", optional=True),
                io.Int.Input("number", force_input=True, optional=True),
            ],
            outputs=[io.Int.Output("number"), Toy.Output("toy"), io.AnyType.Output("any")],
        )


NODES = [*TOYS, ToyJoin]
# Inputs that may be linked: name, type, and whether it is a widget too.
INPUTS = {
    "ToyKnobs": [
        *[("sides", "INT", False), ("toy", "TOY", False), ("seed", "INT", True), ("steps", "INT", True)],
        *[("tags", "STRING", True), ("mode", "COMBO", True), ("live", "BOOLEAN", True), ("volume", "FLOAT", True)],
    ],
    "ToyShow": [("toy", "TOY", False), ("lines", "INT", True)],
    "ToyJoin": [
        *[("either", "TOY,INT", False), ("any", "*", False), ("number", "INT", False), ("amount", "FLOAT,TOY", True)]
    ],
}
OUTPUTS = {"ToyKnobs": ["TOY", "INT", "STRING"], "ToyShow": ["TOY"], "ToyJoin": ["INT", "TOY", "*"]}
WIDGETS = {"ToyKnobs": ["seed", "steps", "tags", "mode", "live", "volume"], "ToyShow": ["lines"], "ToyJoin": ["amount"]}
VALUES = {
    "seed": st.integers(0, 99),
    "steps": st.integers(1, 64),
    "tags": st.sampled_from(["techno", "fixed", "", "a, b", "1"]),
    "mode": st.sampled_from(["ode", "sde"]),
    "live": st.booleans(),
    "volume": st.integers(0, 10).map(lambda tenths: tenths / 10),
    "lines": st.integers(0, 9),
    "amount": st.integers(0, 10).map(lambda tenths: tenths / 10),
}
PROXIES = ("-1", "proxies", "text")  # forms of a subgraph's node that list the widgets
MODES = st.sampled_from([0, 0, 0, 0, 0, 2, 4])


@dataclass
class Drawn:
    """A graph that is being drawn.

    Attributes:
        made: outputs that later nodes may take: node, slot and type.
        shown: inner widgets that a node around may show: inner node and widget, and a strategy of its values.
    """

    inside: bool
    nodes: list[dict[str, Any]] = field(default_factory=list)
    links: list[dict[str, Any]] = field(default_factory=list)
    made: list[tuple[int, int, str]] = field(default_factory=list)
    inputs: list[dict[str, Any]] = field(default_factory=list)
    outputs: list[dict[str, Any]] = field(default_factory=list)
    shown: list[tuple[str, str, Any]] = field(default_factory=list)
    held: list[tuple[int, Any]] = field(default_factory=list)  # slots of widgets, and a strategy of their values


def fits(made: str, wanted: str) -> bool:
    return "*" in (made, wanted) or not set(made.split(",")).isdisjoint(wanted.split(","))


class Drawing:
    """Draws one workflow; `held` is whether nodes of subgraphs hold values of their own."""

    def __init__(self, draw: Any, held: bool) -> None:
        self.draw, self.held, self.last, self.definitions = draw, held, 0, dict[str, tuple[dict[str, Any], Drawn]]()
        self.shared = set[str]()  # the definitions that may be used again

    def number(self) -> int:
        self.last += 1
        return self.last

    def guid(self) -> str:
        return str(uuid.UUID(int=self.number()))

    def workflow(self) -> dict[str, Any]:
        sheet = Drawn(inside=False)
        for _ in range(self.draw(st.integers(2, 6))):
            self.node(sheet, 0)
        if toys := [end for end in sheet.made if fits(end[2], "TOY")]:
            self.toy(sheet, "ToyShow", {"toy": self.draw(st.sampled_from(toys[-3:]))}, mode=0)
        links = [
            [link[name] for name in ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")]
            for link in sheet.links
        ]
        made = {"id": str(uuid.UUID(int=1)), "revision": 0, "last_node_id": self.last, "last_link_id": self.last}
        made |= {"nodes": sheet.nodes, "links": links, "groups": [], "config": {}, "extra": {}, "version": 0.4}
        return made | {"definitions": {"subgraphs": [subgraph for subgraph, _ in self.definitions.values()]}}

    def node(self, sheet: Drawn, depth: int) -> None:
        kinds = ["ToyKnobs", "ToyKnobs", "ToyShow", "ToyJoin", "Reroute", "Primitive", "Note"]
        kind = self.draw(st.sampled_from(kinds + ["subgraph"] * 3 * (depth < 2)))
        if kind == "subgraph":
            self.use(sheet, depth)
        elif kind == "Reroute":
            if sheet.made:
                self.reroute(sheet)
        elif kind == "Primitive":
            self.primitive(sheet)
        elif kind == "Note":
            sheet.nodes.append(self.raw("Note", [], [], ["text"]))
        else:
            self.toy(sheet, kind, {}, self.draw(MODES))

    def raw(
        self, kind: str, inputs: list[Any], outputs: list[str], values: list[Any] | None, mode: int = 0
    ) -> dict[str, Any]:
        made = {
            "id": self.number(),
            "type": kind,
            "pos": [0, 0],
            "size": [200, 100],
            "flags": {},
            "order": 0,
            "mode": mode,
        }
        made |= {"inputs": inputs, "outputs": [{"name": name, "type": name, "links": []} for name in outputs]}
        return made | {"properties": {}} | ({} if values is None else {"widgets_values": values})

    def link(self, sheet: Drawn, origin: tuple[int, int, str], node: dict[str, Any], slot: int) -> None:
        number = self.number()
        fields = {
            "id": number,
            "origin_id": origin[0],
            "origin_slot": origin[1],
            "target_id": node["id"],
            "target_slot": slot,
        }
        sheet.links.append(fields | {"type": origin[2]})
        node["inputs"][slot]["link"] = number
        for other in sheet.nodes:
            if other["id"] == origin[0]:
                other["outputs"][origin[1]]["links"].append(number)
        for put in sheet.inputs if origin[0] == -10 else ():
            if put is sheet.inputs[origin[1]]:
                put["linkIds"].append(number)

    def lead(self, sheet: Drawn, name: str, type_: str, values: Any) -> tuple[int, int, str]:
        """Return an input of the subgraph, as the origin of a link: one that leads elsewhere already, or a new one."""
        slots = dict(sheet.held)
        same = [slot for slot, put in enumerate(sheet.inputs) if put["type"] == type_ and slots.get(slot) is values]
        if same and self.draw(st.booleans()):
            return -10, self.draw(st.sampled_from(same)), type_
        named = (
            name
            if name not in [put["name"] for put in sheet.inputs] and self.draw(st.booleans())
            else f"{name}_{self.number()}"
        )
        sheet.inputs.append({"id": self.guid(), "name": named, "type": type_, "linkIds": []})
        if values is not None:
            sheet.held.append((len(sheet.inputs) - 1, values))
        return -10, len(sheet.inputs) - 1, type_

    def toy(self, sheet: Drawn, kind: str, given: dict[str, Any], mode: int) -> dict[str, Any]:
        """Draw a node whose inputs take what there is, or lead out of the subgraph."""
        inputs = [
            {"name": name, "type": type_, "link": None} | ({"widget": {"name": name}} if widget else {})
            for name, type_, widget in INPUTS[kind]
        ]
        values = [self.draw(VALUES[name]) for name in WIDGETS[kind]]
        stored = (
            [values[0], self.draw(st.sampled_from(["fixed", "randomize"])), *values[1:]]
            if kind == "ToyKnobs"
            else values
        )
        node = self.raw(kind, inputs, OUTPUTS[kind], stored, mode)
        sheet.nodes.append(node)
        for slot, (name, type_, widget) in enumerate(INPUTS[kind]):
            fitting = [end for end in sheet.made if fits(end[2], type_)]
            if name in given:
                self.link(sheet, given[name], node, slot)
            elif fitting and self.draw(st.integers(0, 2)) == 0:
                self.link(sheet, self.draw(st.sampled_from(fitting)), node, slot)
            elif sheet.inside and self.draw(st.integers(0, 3)) == 0:
                self.link(sheet, self.lead(sheet, name, type_, VALUES[name] if widget else None), node, slot)
            elif widget:
                sheet.shown.append((str(node["id"]), name, VALUES[name]))
        sheet.made += [(node["id"], slot, type_) for slot, type_ in enumerate(OUTPUTS[kind])]
        return node

    def reroute(self, sheet: Drawn) -> None:
        origin = self.draw(st.sampled_from(sheet.made))
        node = self.raw("Reroute", [{"name": "", "type": "*", "link": None}], [origin[2]], None, self.draw(MODES))
        sheet.nodes.append(node)
        self.link(sheet, origin, node, 0)
        sheet.made.append((node["id"], 0, origin[2]))

    def primitive(self, sheet: Drawn) -> None:
        name = self.draw(st.sampled_from(["seed", "steps", "tags", "mode", "volume"]))
        type_ = next(type_ for one, type_, _ in INPUTS["ToyKnobs"] if one == name)
        value = self.draw(VALUES[name])
        node = self.raw(
            "PrimitiveNode", [], [type_], [value, "fixed"] if type_ != "STRING" else [value], self.draw(MODES)
        )
        node["outputs"][0]["widget"] = {"name": name}
        sheet.nodes.append(node)
        self.toy(sheet, "ToyKnobs", {name: (node["id"], 0, type_)}, 0)
        sheet.shown.append((str(node["id"]), "value", VALUES[name]))
        if self.draw(st.booleans()):
            sheet.made.append((node["id"], 0, type_))

    def use(self, sheet: Drawn, depth: int) -> None:
        """Draw a node of a subgraph, of an earlier one or of its own."""
        known = [key for key in self.definitions if key in self.shared]
        fresh = not known or self.draw(st.booleans())
        key = self.define(depth + 1) if fresh else self.draw(st.sampled_from(known))
        if key == "":
            return
        subgraph, inner = self.definitions[key]
        held = dict(inner.held)
        inputs = [
            {"name": put["name"], "type": put["type"], "link": None}
            | ({"widget": {"name": put["name"]}} if slot in held else {})
            for slot, put in enumerate(subgraph["inputs"])
        ]
        node = self.raw(key, inputs, [put["type"] for put in subgraph["outputs"]], [], self.draw(MODES))
        sheet.nodes.append(node)
        for slot, put in enumerate(subgraph["inputs"]):
            fitting = [end for end in sheet.made if fits(end[2], put["type"])]
            if fitting and self.draw(st.integers(0, 2)) == 0:
                self.link(sheet, self.draw(st.sampled_from(fitting)), node, slot)
            elif sheet.inside and self.draw(st.integers(0, 2)) == 0:
                self.link(sheet, self.lead(sheet, put["name"], put["type"], held.get(slot)), node, slot)
            elif slot in held:
                sheet.shown.append((str(node["id"]), put["name"], held[slot]))
        sheet.made += [(node["id"], slot, put["type"]) for slot, put in enumerate(subgraph["outputs"])]
        if self.held:
            self.hold(node, subgraph, inner, fresh)

    def hold(self, node: dict[str, Any], subgraph: dict[str, Any], inner: Drawn, alone: bool) -> None:
        """Draw the values that a subgraph's node holds, in one of the forms that editors have written.

        Widgets that no input leads to are shown only where a subgraph is used once: 1.58 makes inputs of them as it
        loads one node, and the others then take their values in the wrong order, and forget primitives.
        """
        form = self.draw(st.sampled_from(["none", "values", "values", "-1", "proxies", "text"]))
        own = [("-1", subgraph["inputs"][slot]["name"], values) for slot, values in inner.held]
        if form in ("proxies", "text") and inner.shown and alone:
            own += self.draw(st.lists(st.sampled_from(inner.shown), unique_by=lambda one: one[:2], max_size=3))
            self.shared.discard(subgraph["id"])
        proxies = [[inner_node, name] for inner_node, name, _ in own]
        values = [self.draw(values) for _, _, values in own]
        if odd := self.draw(st.sampled_from([None, None, None, "short", "gone", "preview", "prefix"])):
            at = self.draw(st.integers(0, len(own)))
            if odd == "short":
                del values[at:]
            elif odd == "gone":
                proxies[at:at], values[at:at] = [["999", "seed"]], [1] if form in PROXIES else []
            elif odd == "preview":
                proxies[at:at], values[at:at] = [["1", "$$canvas-image-preview"]], [None] if form in PROXIES else []
            elif at < len(proxies) and proxies[at][0] != "-1":
                proxies[at][1] = f"{proxies[at][0]}: {proxies[at][1]}"
        if form != "none":
            node["widgets_values"] = values
        if form in PROXIES:
            node["properties"]["proxyWidgets"] = json.dumps(proxies) if form == "text" else proxies

    def define(self, depth: int) -> str:
        sheet = Drawn(inside=True)
        for _ in range(self.draw(st.integers(1, 3))):
            self.node(sheet, depth)
        if not sheet.made:
            return ""
        for end in self.draw(st.lists(st.sampled_from(sheet.made), min_size=1, max_size=2)):
            number = self.number()
            slot = len(sheet.outputs)
            sheet.links.append(
                {
                    "id": number,
                    "origin_id": end[0],
                    "origin_slot": end[1],
                    "target_id": -20,
                    "target_slot": slot,
                    "type": end[2],
                }
            )
            next(node for node in sheet.nodes if node["id"] == end[0])["outputs"][end[1]]["links"].append(number)
            sheet.outputs.append({"id": self.guid(), "name": f"out_{slot}", "type": end[2], "linkIds": [number]})
        key = str(uuid.UUID(int=(1 << 120) + len(self.definitions)))
        ends = {"inputNode": {"id": -10, "bounding": [0, 0, 1, 1]}, "outputNode": {"id": -20, "bounding": [0, 0, 1, 1]}}
        subgraph = {
            "id": key,
            "version": 1,
            "revision": 0,
            "name": f"Sub {len(self.definitions)}",
            "config": {},
            **ends,
        }
        state = {"lastGroupId": 0, "lastNodeId": self.last, "lastLinkId": self.last, "lastRerouteId": 0}
        subgraph |= {"state": state, "inputs": sheet.inputs, "outputs": sheet.outputs, "widgets": [], "groups": []}
        self.shared.add(key)
        self.definitions[key] = subgraph | {"nodes": sheet.nodes, "links": sheet.links}, sheet
        return key


@st.composite
def workflows(draw: Any, held: bool) -> dict[str, Any]:
    return Drawing(draw, held).workflow()


# Kinds of damage that files have: each is done to a graph or a subgraph, and to a node of it.
def lose_link(sheet: dict[str, Any], node: dict[str, Any], at: int) -> None:
    """A socket names a link that is not there."""
    if sheet["links"]:
        del sheet["links"][at % len(sheet["links"])]


def forget_link(sheet: dict[str, Any], node: dict[str, Any], at: int) -> None:
    """A link that its socket does not name."""
    if node.get("inputs"):
        node["inputs"][at % len(node["inputs"])]["link"] = None


def short_values(sheet: dict[str, Any], node: dict[str, Any], at: int) -> None:
    if node.get("widgets_values"):
        del node["widgets_values"][at % len(node["widgets_values"]) :]


def no_values(sheet: dict[str, Any], node: dict[str, Any], at: int) -> None:
    node.pop("widgets_values", None)


def swap_sockets(sheet: dict[str, Any], node: dict[str, Any], at: int) -> None:
    """Sockets in another order, as a newer or older version of a node has them."""
    if node.get("inputs"):
        node["inputs"].append(node["inputs"].pop(at % len(node["inputs"])))


def no_sockets(sheet: dict[str, Any], node: dict[str, Any], at: int) -> None:
    """Only sockets that are linked, as editors before 2025 wrote them."""
    node["inputs"] = [
        socket for socket in node.get("inputs") or [] if socket["link"] is not None or "widget" not in socket
    ]


def twice_fed(sheet: dict[str, Any], node: dict[str, Any], at: int) -> None:
    """Two links into one input."""
    if sheet["links"]:
        link = sheet["links"][at % len(sheet["links"])]
        more = dict(link, id=9000) if isinstance(link, dict) else [9000, *link[1:]]
        sheet["links"].append(more)


def no_origin(sheet: dict[str, Any], node: dict[str, Any], at: int) -> None:
    """A link from a node that is not there."""
    sheet["nodes"] = [one for one in sheet["nodes"] if one is not node]


def wrong_type(sheet: dict[str, Any], node: dict[str, Any], at: int) -> None:
    """Sockets of types that the node does not have any more."""
    for socket in [*(node.get("inputs") or []), *(node.get("outputs") or [])]:
        socket["type"] = ["*", "TOY", "INT", "OLD"][at % 4]


def unknown(sheet: dict[str, Any], node: dict[str, Any], at: int) -> None:
    if len(node["type"]) < 30:
        node["type"] = "Of another pack"


def odd_title(sheet: dict[str, Any], node: dict[str, Any], at: int) -> None:
    node["title"] = "Mine" if at % 2 else ""


DAMAGE = [
    twice_fed,
    no_origin,
    lose_link,
    forget_link,
    short_values,
    no_values,
    swap_sockets,
    no_sockets,
    wrong_type,
    unknown,
    odd_title,
]


@st.composite
def damaged(draw: Any, held: bool) -> dict[str, Any]:
    workflow = draw(workflows(held))
    sheet = draw(st.sampled_from([workflow, *workflow["definitions"]["subgraphs"]]))
    node = draw(st.sampled_from(sheet["nodes"])) if sheet["nodes"] else {"type": "", "inputs": []}
    draw(st.sampled_from(DAMAGE))(sheet, node, draw(st.integers(0, 99)))
    return workflow
