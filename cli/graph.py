"""A workflow as a plain graph, and what its node types say about their inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from ..engine_runtime.errors import InputError, plain
from ..nodes.shared.comfy import io
from ..nodes.shared.run import widget_of
from ..nodes.shared.widget_value import WIDGET_VALUES, options_of

MAX_NAME = 120  # characters of a node's name in an error
SEED_NAMES = ("seed", "noise_seed")  # the editor gives these a "control after generate" widget by default
T = TypeVar("T")


class WorkflowError(InputError):
    """A workflow, or a --set, that cannot be run as it is."""


@dataclass(frozen=True)
class Link:
    node: str
    slot: int


@dataclass(frozen=True)
class Place:
    """Points at a value in the editor's file: number `at` of a node, of subgraph `sheet` or ("") of the workflow."""

    sheet: str
    node: str
    at: int


@dataclass
class Node:
    """A node of the graph.

    Attributes:
        inputs: a Link or a constant by input name.
        muted: the title of the muted node that an input is linked to, by input name.
        places: where the file keeps a constant that is none of the node's own values, by input name.
    """

    id: str
    class_type: str
    title: str
    inputs: dict[str, Any] = field(default_factory=dict)
    muted: dict[str, str] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return plain(f"node {self.id} {self.title!r}", MAX_NAME)

    def links(self) -> Iterator[tuple[str, Link]]:
        for name, value in self.inputs.items():
            if isinstance(value, Link):
                yield name, value


@dataclass
class Graph:
    """Nodes by id.

    Attributes:
        faults: what is wrong with nodes that cannot be run, by id; it counts where an output needs one.
    """

    nodes: dict[str, Node] = field(default_factory=dict)
    faults: dict[str, WorkflowError] = field(default_factory=dict, compare=False)

    def set_aside(self, node: str, class_type: str, error: WorkflowError, types: Catalogue) -> None:
        """Keep what is wrong with a node for the case that an output needs it; raise it if the node is an output."""
        if class_type in types and types[class_type].schema.is_output_node:
            raise error
        self.faults[node] = error

    def to_api(self) -> dict[str, Any]:
        """Return the API form, which nodes read as `cls.hidden.prompt`."""
        prompt = {}
        for node in self.nodes.values():
            inputs = {k: [v.node, v.slot] if isinstance(v, Link) else _wrap(v) for k, v in node.inputs.items()}
            prompt[node.id] = {"class_type": node.class_type, "inputs": inputs, "_meta": {"title": node.title}}
        return prompt


@dataclass(frozen=True)
class NodeType:
    """A node class and its schema."""

    cls: type[io.ComfyNode]
    schema: io.Schema
    lenient: bool = False  # a core node: inputs that only ComfyUI's own version has are ignored

    @property
    def inputs(self) -> list[io.Input]:
        """Return required inputs before optional ones, the order in which the editor makes the widgets."""
        return sorted(self.schema.inputs, key=lambda i: bool(i.optional))

    def input(self, name: str) -> io.Input | None:
        return next((i for i in self.schema.inputs if i.id == name), None)

    @property
    def title(self) -> str:
        return self.schema.display_name or self.schema.node_id


Catalogue = dict[str, NodeType]


def catalogue(node_classes: Iterable[type[io.ComfyNode]], core: Iterable[type[io.ComfyNode]] = ()) -> Catalogue:
    """Return the node types a workflow may use, by node id."""
    types = [NodeType(cls, cls.GET_SCHEMA(), lenient=True) for cls in core]
    types += [NodeType(cls, cls.GET_SCHEMA()) for cls in node_classes]
    return {t.schema.node_id: t for t in types}


def typed(data: Any, kind: type[T], what: str) -> T:
    """Convert plain data to a type of `schema.py`.

    Raises:
        WorkflowError: with the place of what does not fit.
    """
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
    """Return whether the node has the input; False only where unknown inputs are ignored: on a core node, and on one
    whose schema takes all.

    Raises:
        WorkflowError: for an unknown input of any other node.
    """
    if node_type.input(name) is not None:
        return True
    if node_type.lenient or node_type.schema.accept_all_inputs:
        return False
    known = ", ".join(i.id for i in node_type.schema.inputs) or "none"
    raise WorkflowError(
        f"{node.name} has no input {name!r}",
        f"its inputs are {known}",
        "correct the name, or update Ostinato if the workflow comes from a newer version",
    )


def is_widget(spec: io.Input) -> bool:
    spec = widget_of(spec)
    return spec.get_io_type() in WIDGET_VALUES and not getattr(spec, "force_input", None)


def control_widgets(spec: io.Input) -> int:
    """Return how many values the editor stores after this widget's own: the control, and for a combo its filter."""
    spec = widget_of(spec)
    control = getattr(spec, "control_after_generate", None)
    if spec.get_io_type() == "COMBO":
        return 2 if control else 0
    if spec.get_io_type() == "INT":
        return 1 if (spec.id in SEED_NAMES if control is None else control) else 0
    return 0


def widget_default(spec: io.Input) -> Any:
    """Return what the editor shows in an untouched widget; None for a combo without options."""
    spec = widget_of(spec)
    default = getattr(spec, "default", None)
    if default is not None:
        return default
    if spec.get_io_type() == "COMBO":
        return next(iter(options_of(spec)), None)
    return {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False}[spec.get_io_type()]


def _wrap(value: Any) -> Any:
    return {"__value__": value} if isinstance(value, list) else value


def not_a_workflow(given: str) -> WorkflowError:
    return WorkflowError(given, "allowed is a workflow in the editor's or the API form", "save it again from ComfyUI")
