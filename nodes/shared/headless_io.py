"""Stands in for `comfy_api.latest.io` where ComfyUI is not installed, as far as the pack's nodes use it.

Names, arguments and defaults are ComfyUI's, so a node reads the same in both places. A keyword that is not defined here
raises TypeError: a node that needs more must have it added here first.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any, ClassVar


class NumberDisplay(StrEnum):
    number = "number"
    slider = "slider"
    gradient_slider = "gradientslider"


class ControlAfterGenerate(StrEnum):
    fixed = "fixed"
    increment = "increment"
    decrement = "decrement"
    randomize = "randomize"


class UploadType(StrEnum):
    image = "image_upload"
    audio = "audio_upload"
    video = "video_upload"
    model = "file_upload"


class FolderType(StrEnum):
    input = "input"
    output = "output"
    temp = "temp"


class Hidden(StrEnum):
    unique_id = "UNIQUE_ID"
    prompt = "PROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"


@dataclass
class Input:
    """A socket. Only `id` and `display_name` may be given by position."""

    io_type: ClassVar[str] = ""

    id: str
    display_name: str | None = None
    optional: bool = field(default=False, kw_only=True)
    tooltip: str | None = field(default=None, kw_only=True)
    lazy: bool | None = field(default=None, kw_only=True)
    extra_dict: dict[str, Any] = field(default_factory=dict, kw_only=True)
    raw_link: bool | None = field(default=None, kw_only=True)
    advanced: bool | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.lazy or self.raw_link:
            raise NotImplementedError(
                f"Input {self.id!r} asks for lazy or raw_link, which only ComfyUI's executor has: drop it."
            )

    def get_io_type(self) -> str:
        return self.io_type


@dataclass
class WidgetInput(Input):
    """An input the user types into: a widget, and a socket beside it unless `socketless`."""

    default: Any = field(default=None, kw_only=True)
    socketless: bool | None = field(default=None, kw_only=True)
    force_input: bool | None = field(default=None, kw_only=True)


@dataclass
class Output:
    io_type: ClassVar[str] = ""

    id: str | None = None
    display_name: str | None = None
    tooltip: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self.display_name = self.display_name or self.id

    def get_io_type(self) -> str:
        return self.io_type


class ComfyType:
    """A socket type: `io_type`, and the Input and Output classes that carry it."""

    io_type: ClassVar[str]
    Input: ClassVar[type[Input]]
    Output: ClassVar[type[Output]]


def Custom(io_type: str) -> type[ComfyType]:
    """Make a socket type; also used for the standard types that have no widget."""
    return _bind(type(io_type.title(), (ComfyType,), {}), io_type)


def _bind(holder: type[ComfyType], io_type: str) -> type[ComfyType]:
    holder.io_type = io_type
    holder.Input = type("Input", (holder.__dict__.get("Input", Input),), {"io_type": io_type})
    holder.Output = type("Output", (holder.__dict__.get("Output", Output),), {"io_type": io_type})
    return holder


class Boolean(ComfyType):
    @dataclass
    class Input(WidgetInput):
        default: bool | None = field(default=None, kw_only=True)
        label_on: str | None = field(default=None, kw_only=True)
        label_off: str | None = field(default=None, kw_only=True)


class Int(ComfyType):
    @dataclass
    class Input(WidgetInput):
        default: int | None = field(default=None, kw_only=True)
        min: int | None = field(default=None, kw_only=True)
        max: int | None = field(default=None, kw_only=True)
        step: int | None = field(default=None, kw_only=True)
        control_after_generate: bool | ControlAfterGenerate | None = field(default=None, kw_only=True)
        display_mode: NumberDisplay | None = field(default=None, kw_only=True)


class Float(ComfyType):
    @dataclass
    class Input(WidgetInput):
        default: float | None = field(default=None, kw_only=True)
        min: float | None = field(default=None, kw_only=True)
        max: float | None = field(default=None, kw_only=True)
        step: float | None = field(default=None, kw_only=True)
        round: float | None = field(default=None, kw_only=True)
        display_mode: NumberDisplay | None = field(default=None, kw_only=True)
        gradient_stops: list[dict[str, Any]] | None = field(default=None, kw_only=True)


class String(ComfyType):
    @dataclass
    class Input(WidgetInput):
        default: str | None = field(default=None, kw_only=True)
        multiline: bool = field(default=False, kw_only=True)
        placeholder: str | None = field(default=None, kw_only=True)
        dynamic_prompts: bool | None = field(default=None, kw_only=True)


@dataclass
class _ComboInput(WidgetInput):
    # differs from ComfyUI: no force_input there, and `options` before `display_name`, so pass both by keyword
    force_input: bool | None = field(default=None, init=False)
    default: str | int | Enum | None = field(default=None, kw_only=True)
    options: list[str] | list[int] | type[Enum] = field(default_factory=list, kw_only=True)
    control_after_generate: bool | ControlAfterGenerate | None = field(default=None, kw_only=True)
    upload: UploadType | None = field(default=None, kw_only=True)
    image_folder: FolderType | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.options, type):
            self.options = [member.value for member in self.options]
        if isinstance(self.default, Enum):
            self.default = self.default.value


class Combo(ComfyType):
    Input = _ComboInput


class Curve(ComfyType):
    """ComfyUI's curve widget. `default` is given as points and kept as the widget's value."""

    @dataclass
    class Input(WidgetInput):
        force_input: bool | None = field(default=None, init=False)
        socketless: bool | None = field(default=True, kw_only=True)

        def __post_init__(self) -> None:
            super().__post_init__()
            points = self.default or [(0.0, 0.0), (1.0, 1.0)]
            self.default = {"points": [list(point) for point in points], "interpolation": "monotone_cubic"}


@dataclass
class _MultiInput(Input):
    """A socket for several types. Given an input with a widget as `id`, it has that widget too."""

    id: str | Input
    types: list[type[ComfyType]] = field(default_factory=list, kw_only=True)
    input_override: Input | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if isinstance(self.id, Input):
            self.input_override = given = copy.copy(self.id)
            self.id, self.optional = given.id, given.optional or self.optional
            self.tooltip = given.tooltip if given.tooltip is not None else self.tooltip
            self.display_name = given.display_name if given.display_name is not None else self.display_name
        super().__post_init__()

    def get_io_type(self) -> str:
        own = [self.input_override.get_io_type()] if self.input_override else []
        return ",".join(dict.fromkeys([*own, *(kind.io_type for kind in self.types)]))


class MultiType(ComfyType):
    Input = _MultiInput


_bind(Boolean, "BOOLEAN")
_bind(Int, "INT")
_bind(Float, "FLOAT")
_bind(String, "STRING")
_bind(Combo, "COMBO")
_bind(Curve, "CURVE")
_bind(MultiType, "COMFY_MULTITYPED_V3")

Audio = Custom("AUDIO")
Clip = Custom("CLIP")
Conditioning = Custom("CONDITIONING")
Guider = Custom("GUIDER")
Image = Custom("IMAGE")
Latent = Custom("LATENT")
Mask = Custom("MASK")
Model = Custom("MODEL")
Noise = Custom("NOISE")
Sampler = Custom("SAMPLER")
Sigmas = Custom("SIGMAS")
Vae = Custom("VAE")
AnyType = Custom("*")


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

    def validate(self) -> None:
        """Raise ValueError for repeated ids, which ComfyUI refuses when it loads the pack."""
        for what, ids in (("input", [i.id for i in self.inputs]), ("output", [o.id for o in self.outputs])):
            repeated = sorted({name for name in ids if ids.count(name) > 1})
            if repeated:
                raise ValueError(f"Node {self.node_id} has the {what} id {repeated[0]!r} twice: rename one.")

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
    """Base of every node. Its methods are class methods and it keeps no state."""

    hidden: ClassVar[HiddenHolder] = HiddenHolder()

    @classmethod
    def define_schema(cls) -> Schema:
        raise NotImplementedError(f"{cls.__name__} has no define_schema.")

    @classmethod
    def execute(cls, **kwargs: Any) -> NodeOutput:
        raise NotImplementedError(f"{cls.__name__} has no execute.")

    @classmethod
    def validate_inputs(cls, **kwargs: Any) -> bool | str:
        raise NotImplementedError(f"{cls.__name__} has no validate_inputs.")

    @classmethod
    def fingerprint_inputs(cls, **kwargs: Any) -> Any:
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
