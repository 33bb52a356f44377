"""Stands in for `comfy_api.latest.io` where ComfyUI is not installed, as far as the pack's nodes use it.

Names, arguments and defaults are ComfyUI's, so a node reads the same in both places. Sockets and widgets are in
`headless_sockets`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from .headless_sockets import *  # noqa: F403 - one namespace, as in ComfyUI
from .headless_sockets import Input, Output


class Hidden(StrEnum):
    unique_id = "UNIQUE_ID"
    prompt = "PROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"


@dataclass
class Schema:
    """One node's inputs, outputs and metadata; each call of `define_schema` makes a new one."""

    node_id: str
    display_name: str | None = None
    category: str = "sd"
    inputs: list[Input] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    hidden: list[Hidden] = field(default_factory=list)
    description: str = ""
    search_aliases: list[str] = field(default_factory=list)
    is_output_node: bool = False
    is_deprecated: bool = False
    is_experimental: bool = False
    is_dev_only: bool = False
    not_idempotent: bool = False
    essentials_category: str | None = None
    has_intermediate_output: bool = False
    accept_all_inputs: bool = False

    def validate(self) -> None:
        """Raise ValueError for repeated ids, which ComfyUI refuses when it loads the pack."""
        for what, ids in (("input", [i.id for i in self.inputs]), ("output", [o.id for o in self.outputs])):
            for name, count in Counter(ids).items():
                if count > 1:
                    raise ValueError(f"Node {self.node_id} has the {what} id {name!r} twice: rename one.")

    def finalize(self) -> None:
        """Add what ComfyUI adds: ids for outputs without one, and the prompt for output nodes."""
        for index, output in enumerate(self.outputs):
            output.id = output.id or f"_{index}_{output.io_type}_"
        if self.is_output_node:
            self.hidden = self.hidden + [h for h in (Hidden.prompt, Hidden.extra_pnginfo) if h not in self.hidden]


@dataclass(frozen=True)
class HiddenHolder:
    """The hidden inputs of a running node, read as `cls.hidden`; those that the schema did not ask for are None."""

    unique_id: str | None = None
    prompt: dict[str, Any] | None = None
    extra_pnginfo: dict[str, Any] | None = None


class NodeOutput:
    """The return value of `execute`: one value per output, and what to show on the node."""

    def __init__(self, *args: Any, ui: Any = None) -> None:
        self.args = args
        self.ui = ui

    @property
    def result(self) -> tuple[Any, ...] | None:
        return self.args or None

    def __getitem__(self, index: int) -> Any:
        return self.args[index]


class ComfyNode:
    """Base of every node. Its methods are class methods and it keeps no state.

    The arguments of `execute`, `validate_inputs` and `fingerprint_inputs` are the inputs of the node's schema, by name.
    """

    hidden: ClassVar[HiddenHolder] = HiddenHolder()

    @classmethod
    def define_schema(cls) -> Schema:
        raise NotImplementedError(f"{cls.__name__} has no define_schema.")

    @classmethod
    def execute(cls, *args: Any, **kwargs: Any) -> NodeOutput:
        raise NotImplementedError(f"{cls.__name__} has no execute.")

    @classmethod
    def validate_inputs(cls, *args: Any, **kwargs: Any) -> bool | str:
        raise NotImplementedError(f"{cls.__name__} has no validate_inputs.")

    @classmethod
    def fingerprint_inputs(cls, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{cls.__name__} has no fingerprint_inputs.")

    @classmethod
    def GET_SCHEMA(cls) -> Schema:
        schema = cls.define_schema()
        schema.finalize()
        schema.validate()
        return schema

    @classmethod
    def PREPARE_CLASS_CLONE(cls, v3_data: dict[str, Any] | None) -> type[ComfyNode]:
        """Make a fresh subclass whose `hidden` is filled from v3_data["hidden_inputs"], as ComfyUI does for each
        run."""
        given = (v3_data or {}).get("hidden_inputs", {})
        return type(cls.__name__, (cls,), {"hidden": HiddenHolder(**{Hidden(k).name: v for k, v in given.items()})})


class ComfyExtension(ABC):
    """A node pack: its nodes, and a hook that runs once when it is loaded."""

    async def on_load(self) -> None:  # noqa: B027 - doing nothing is the default
        pass

    @abstractmethod
    async def get_node_list(self) -> list[type[ComfyNode]]: ...
