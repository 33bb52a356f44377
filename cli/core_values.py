"""ComfyUI's nodes that hold one value or show one, as far as shared workflows need them on the command line."""

from __future__ import annotations

import json
from typing import Any

from ..nodes.shared.comfy import io, ui

MOST = 2**63 - 1  # ComfyUI's limits of its numbers
SHOWN = 2000  # characters of a value


class _Value(io.ComfyNode):
    @classmethod
    def execute(cls, value: Any) -> io.NodeOutput:
        return io.NodeOutput(value)


def _schema(name: str, title: str, value: io.Input, output: io.Output) -> io.Schema:
    return io.Schema(
        node_id=name,
        display_name=title,
        category="utils/primitive",
        description="Holds one value.",
        inputs=[value],
        outputs=[output],
    )


class PrimitiveInt(_Value):
    @classmethod
    def define_schema(cls) -> io.Schema:
        value = io.Int.Input("value", min=-MOST, max=MOST, control_after_generate=True)
        return _schema("PrimitiveInt", "Int", value, io.Int.Output())


class PrimitiveFloat(_Value):
    @classmethod
    def define_schema(cls) -> io.Schema:
        value = io.Float.Input("value", min=-MOST, max=MOST, step=0.1)
        return _schema("PrimitiveFloat", "Float", value, io.Float.Output())


class PrimitiveString(_Value):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema("PrimitiveString", "Text String", io.String.Input("value"), io.String.Output())


class PrimitiveStringMultiline(_Value):
    @classmethod
    def define_schema(cls) -> io.Schema:
        value = io.String.Input("value", multiline=True)
        return _schema("PrimitiveStringMultiline", "Text String (Multiline)", value, io.String.Output())


class PrimitiveBoolean(_Value):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema("PrimitiveBoolean", "Boolean", io.Boolean.Input("value"), io.Boolean.Output())


class PreviewAny(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PreviewAny",
            display_name="Preview as Text",
            category="utils",
            description="Shows a value as text.",
            inputs=[io.AnyType.Input("source")],
            outputs=[io.String.Output()],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, source: Any = None) -> io.NodeOutput:
        text = _text(source)
        return io.NodeOutput(text, ui=ui.PreviewText(text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."))


def _text(source: Any) -> str:
    """Return a value as ComfyUI words it: text and numbers as they are, data as JSON, all else as Python shows it."""
    if isinstance(source, str | int | float) or source is None:
        return str(source)
    try:
        return json.dumps(source, indent=4)
    except (TypeError, ValueError, RecursionError):
        return str(source)


VALUES: list[type[io.ComfyNode]] = [
    PrimitiveInt,
    PrimitiveFloat,
    PrimitiveString,
    PrimitiveStringMultiline,
    PrimitiveBoolean,
    PreviewAny,
]
