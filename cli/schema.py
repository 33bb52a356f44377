"""The fields of workflow files that are read; a value of the wrong type is refused with its place.

All other fields are ignored: the editor and other packs store much more in their files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field

from ..engine_runtime.errors import InputError
from ..engine_runtime.files import parse_json

Id = int | Annotated[str, Meta(max_length=100)]
MAX_SOCKETS = 1000  # of one node


class Titled(Struct):
    title: str | None = None


class ApiNode(Struct):
    """A node of the API form: `{id: {class_type, inputs}}`."""

    class_type: str
    inputs: dict[str, Any] | None = None
    meta: Titled | None = field(default=None, name="_meta")


class Named(Struct):
    name: str


class Input(Struct):
    """A socket of the editor's form; `widget` names the widget it belongs to."""

    name: str
    type: Any = None
    link: Id | None = None
    widget: Named | None = None


class Output(Struct):
    type: Any = None


class Slot(Struct):
    """An input or output of a subgraph."""

    name: str
    type: Any = None


class Proxy(Struct, array_like=True):
    """A widget that a subgraph node shows: `[inner node or "-1", widget, node further inside]`."""

    node: Id
    widget: str
    source: Id | None = None


class Properties(Struct):
    proxyWidgets: Any = None


class EditorNode(Struct):
    id: Id
    type: str
    title: str | None = None
    mode: int = 0
    inputs: Annotated[list[Input], Meta(max_length=MAX_SOCKETS)] | None = None
    outputs: Annotated[list[Output], Meta(max_length=MAX_SOCKETS)] | None = None
    widgets_values: list[Any] | dict[str, Any] | None = None
    properties: Properties | None = None

    @property
    def values(self) -> list[Any]:
        """Return widget values by position; empty where the file keeps them by name."""
        return self.widgets_values if isinstance(self.widgets_values, list) else []

    @property
    def proxies(self) -> list[Proxy | None]:
        """Return the widgets that a subgraph node shows, from a list or its JSON; None in the place of what is none."""
        found = self.properties and self.properties.proxyWidgets
        if isinstance(found, str):
            try:
                found = parse_json(found, "proxyWidgets")
            except InputError:
                return []
        return [_proxy(entry) for entry in found] if isinstance(found, list) else []

    @property
    def parts(self) -> int:
        """Count the node's sockets and values, and itself."""
        return 1 + sum(len(many or ()) for many in (self.inputs, self.outputs, self.widgets_values, self.proxies))


def _proxy(entry: Any) -> Proxy | None:
    try:
        return msgspec.convert(entry, Proxy)
    except msgspec.ValidationError:
        return None


class ListedLink(Struct, array_like=True):
    """A link in the root graph: `[id, origin, its slot, target, its slot, type]`."""

    id: Id
    origin_id: Id
    origin_slot: int
    target_id: Id
    target_slot: int


@dataclass
class Link:
    """A link in a subgraph. A dataclass, because msgspec allows only one Struct in a union."""

    id: Id
    origin_id: Id
    origin_slot: int
    target_id: Id
    target_slot: int


class Subgraph(Struct):
    id: str
    nodes: list[EditorNode | None]
    links: list[Any] | None = None
    inputs: list[Slot] | None = None
    outputs: list[Slot] | None = None
    definitions: Definitions | None = None


class Definitions(Struct):
    subgraphs: list[Subgraph] | None = None


class EditorWorkflow(Struct):
    nodes: list[EditorNode | None]
    links: list[Any] | None = None
    definitions: Definitions | None = None
