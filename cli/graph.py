"""A workflow as a plain graph, and what the types of its nodes say of their inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from ..engine_runtime.errors import InputError, plain
from ..nodes.shared.comfy import io

WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "CURVE")
MAX_NAME = 120  # characters of what an error calls a node
SEED_NAMES = ("seed", "noise_seed")  # the editor gives these a "control after generate" widget unasked
T = TypeVar("T")


class WorkflowError(InputError):
    """A workflow, or a --set, that cannot be run as it stands."""


@dataclass(frozen=True)
class Link:
    node: str
    slot: int


@dataclass
class Node:
    """`inputs` holds a Link or a constant; `muted` names the muted node that an input came from."""

    id: str
    class_type: str
    title: str
    inputs: dict[str, Any] = field(default_factory=dict)
    muted: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return plain(f"node {self.id} {self.title!r}", MAX_NAME)

    def links(self) -> Iterator[tuple[str, Link]]:
        for name, value in self.inputs.items():
            if isinstance(value, Link):
                yield name, value


@dataclass
class Graph:
    nodes: dict[str, Node] = field(default_factory=dict)

    def to_api(self) -> dict[str, Any]:
        """The API form: what a node reads as `cls.hidden.prompt`."""
        prompt = {}
        for node in self.nodes.values():
            inputs = {k: [v.node, v.slot] if isinstance(v, Link) else _wrap(v) for k, v in node.inputs.items()}
            prompt[node.id] = {"class_type": node.class_type, "inputs": inputs, "_meta": {"title": node.title}}
        return prompt


@dataclass(frozen=True)
class NodeType:
    """A node class and its schema, taken once."""

    cls: type[io.ComfyNode]
    schema: io.Schema
    lenient: bool = False  # a core node: inputs that ComfyUI's own version has beside ours are passed over

    @property
    def inputs(self) -> list[io.Input]:
        """Required before optional: the order in which the editor makes the widgets."""
        return sorted(self.schema.inputs, key=lambda i: bool(i.optional))

    def input(self, name: str) -> io.Input | None:
        return next((i for i in self.schema.inputs if i.id == name), None)

    @property
    def title(self) -> str:
        return self.schema.display_name or self.schema.node_id


Catalogue = dict[str, NodeType]


def catalogue(node_classes: Iterable[type[io.ComfyNode]], core: Iterable[type[io.ComfyNode]] = ()) -> Catalogue:
    """The node types a workflow may use, by node id."""
    types = [NodeType(cls, cls.GET_SCHEMA(), lenient=True) for cls in core]
    types += [NodeType(cls, cls.GET_SCHEMA()) for cls in node_classes]
    return {t.schema.node_id: t for t in types}


def typed(data: Any, kind: type[T], what: str) -> T:
    """Plain data as one of the types in `schema.py`; raises `WorkflowError` with the place of what does not fit."""
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise not_a_workflow(f"{what} is damaged: {error}") from None


def known_type(types: Catalogue, node_id: str, class_type: str, title: str | None) -> NodeType:
    if class_type in types:
        return types[class_type]
    core = [name for name, node_type in types.items() if node_type.lenient]
    raise WorkflowError(
        f"{Node(node_id, class_type, title or class_type).name} is of the unknown type {class_type!r}",
        f"allowed are the Ostinato nodes (`ostinato nodes` lists them) and {', '.join(core)}",
        "remove or mute it, or run the workflow in ComfyUI",
    )


def check_input_name(node: Node, node_type: NodeType, name: str) -> bool:
    """Whether `name` is an input of the node. An unknown one is an error, except on a core node."""
    if node_type.input(name) is not None:
        return True
    if node_type.lenient:
        return False
    known = ", ".join(i.id for i in node_type.schema.inputs) or "none"
    raise WorkflowError(
        f"{node.name} has no input {name!r}",
        f"its inputs are {known}",
        "correct the name, or update Ostinato if the workflow comes from a newer version",
    )


def widget_of(spec: io.Input) -> io.Input:
    """The input that makes the widget: of a socket for several types the one it was made from, else the input."""
    return getattr(spec, "input_override", None) or spec


def is_widget(spec: io.Input) -> bool:
    spec = widget_of(spec)
    return spec.get_io_type() in WIDGET_TYPES and not getattr(spec, "force_input", None)


def control_widgets(spec: io.Input) -> int:
    """How many values the editor keeps after this widget's own: the control, and a filter for a combo."""
    spec = widget_of(spec)
    control = getattr(spec, "control_after_generate", None)
    if spec.get_io_type() == "COMBO":
        return 2 if control else 0
    if spec.get_io_type() == "INT":
        return 1 if (spec.id in SEED_NAMES if control is None else control) else 0
    return 0


def widget_default(spec: io.Input) -> Any:
    """What the editor shows in a widget nobody has touched; None where nothing can be said."""
    spec = widget_of(spec)
    if spec.default is not None:
        return spec.default
    if spec.get_io_type() == "COMBO":
        return spec.options[0] if spec.options else None
    return {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False}[spec.get_io_type()]


def _wrap(value: Any) -> Any:
    return {"__value__": value} if isinstance(value, list) else value


def not_a_workflow(given: str) -> WorkflowError:
    return WorkflowError(given, "allowed is a workflow in the editor's or the API form", "save it again from ComfyUI")
