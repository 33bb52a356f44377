"""Inputs, outputs and socket types of nodes: a part of `headless_io`, which takes the place of `comfy_api.latest.io`.

Names, arguments and defaults are ComfyUI's. A keyword that is not defined here raises TypeError: a node that needs more
must have it added here first.
"""

from __future__ import annotations

import copy
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


@dataclass(init=False)
class _MultiInput(Input):
    """A socket for several types. Given an input with a widget in place of an id, it has that widget too."""

    types: list[type[ComfyType]] = field(default_factory=list)
    input_override: Input | None = None

    def __init__(
        self, id: str | Input, *, types: list[type[ComfyType]], optional: bool = False, tooltip: str | None = None
    ) -> None:
        given = copy.copy(id) if isinstance(id, Input) else None
        name, title = (given.id, given.display_name) if given is not None else (str(id), None)
        if given is not None:
            optional = given.optional or optional
            tooltip = given.tooltip if given.tooltip is not None else tooltip
        super().__init__(name, title, optional=optional, tooltip=tooltip)
        self.types, self.input_override = types, given

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
