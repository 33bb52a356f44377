"""Curves made from numbers: constant, ramp, oscillator, points; and nodes that turn curves into curves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..engine_runtime.spec import ACE_STEP
from .shared import sockets
from .shared.comfy import io
from .shared.values import value_input

if TYPE_CHECKING:
    from ..engine_runtime.controls.curves import Curve
    from .shared.given import DrawnCurve, Points

CURVES = f"{sockets.CATEGORY}/curves"
MAX_SECONDS = ACE_STEP.max_seconds
WIDE = 1_000_000.0
SHAPES = ["sine", "triangle", "square", "random"]
UNITS = ["Hz", "cycles"]
OPERATIONS = ["add", "subtract", "multiply", "divide", "minimum", "maximum", "mix"]
EDGES = ["hold", "wrap"]
OUTPUT = "For any number that also takes a curve."


def number(id: str, default: float, tooltip: str, low: float = -WIDE, high: float = WIDE) -> io.Input:
    """Make a FLOAT widget with steps of 0.01."""
    return io.Float.Input(id, default=default, min=low, max=high, step=0.01, tooltip=tooltip)


def schema(name: str, title: str, description: str, inputs: list[io.Input], *aliases: str) -> io.Schema:
    """Make the schema of a node that outputs one curve."""
    return io.Schema(
        node_id=f"OstinatoCurve{name}",
        display_name=f"Curve {title} (Ostinato)",
        category=CURVES,
        description=description,
        search_aliases=["ostinato", "automation", *aliases],
        inputs=inputs,
        outputs=[sockets.Curve.Output(display_name="curve", tooltip=OUTPUT)],
    )


class CurveConstant(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        text = "The same number at every frame. It fits music of any length."
        return schema("Constant", "Constant", text, [number("value", 1.0, "The number.")])

    @classmethod
    def execute(cls, value: float) -> io.NodeOutput:
        from ..engine_runtime.controls import curves

        return io.NodeOutput(curves.constant(value))


class CurveRamp(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [
            number("start", 0.0, "Its value up to where it begins."),
            number("end", 1.0, "Its value from where it ends."),
            number("begin", 0.0, "Seconds into the music at which it leaves the start.", 0.0, MAX_SECONDS),
            number("until", 0.0, "Seconds at which it reaches the end; 0 is the last frame.", 0.0, MAX_SECONDS),
        ]
        text = "A straight line from one number to another, held before and after. It fits music of any length."
        return schema("Ramp", "Ramp", text, inputs, "fade", "line")

    @classmethod
    def execute(cls, **fields: Any) -> io.NodeOutput:
        from ..engine_runtime.controls import curves

        return io.NodeOutput(curves.ramp(**fields))


class CurveLfo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [
            io.Combo.Input(
                "shape",
                options=SHAPES,
                default=SHAPES[0],
                tooltip="sine and triangle start half-way and rise, square starts high, random wanders smoothly.",
            ),
            number("rate", 0.5, "How fast, in the unit below.", 0.0, ACE_STEP.max_frames / 2),
            io.Combo.Input(
                "unit",
                options=UNITS,
                default=UNITS[0],
                tooltip="Hz: cycles a second, 12.5 at most. cycles: over the whole length; whole numbers loop.",
            ),
            number("phase", 0.0, "Where in its cycle it starts.", 0.0, 1.0),
            number("low", 0.0, "Lowest value."),
            number("high", 1.0, "Highest value."),
            io.Int.Input(
                "seed",
                default=0,
                min=0,
                max=2**64 - 1,
                control_after_generate=False,
                tooltip="Of random; the same seed, the same walk.",
            ),
        ]
        text = "A slow oscillator between two numbers. It fits music of any length."
        return schema("Lfo", "LFO", text, inputs, "sine", "triangle", "square", "random walk")

    @classmethod
    def execute(cls, **fields: Any) -> io.NodeOutput:
        from ..engine_runtime.controls import curves

        return io.NodeOutput(curves.lfo(**fields))


class CurvePoints(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [
            io.Curve.Input("points", tooltip="From the start of the music to its end, and from low to high."),
            number("low", 0.0, "Value at the bottom."),
            number("high", 1.0, "Value at the top."),
        ]
        text = (
            "A curve drawn by hand over the whole length, over the sound of a Live Session while it plays. "
            "It fits music of any length."
        )
        return schema("Points", "Points", text, inputs, "draw", "envelope", "spline")

    @classmethod
    def execute(cls, points: DrawnCurve | Points | list[list[float]], low: float, high: float) -> io.NodeOutput:
        from ..engine_runtime.controls import curves
        from ..engine_runtime.controls.points import INTERPOLATIONS, through

        if isinstance(points, list):
            return io.NodeOutput(through(points, INTERPOLATIONS[0], low, high))
        if not isinstance(points, dict):  # a link from ComfyUI's own curve nodes
            return io.NodeOutput(curves.drawn(points.interp_array, low, high))
        mode = points.get("interpolation", INTERPOLATIONS[0])
        return io.NodeOutput(through(points["points"], mode, low, high))


class CurveMath(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [
            value_input("a", default=0.0, min=-WIDE, max=WIDE, step=0.01, tooltip="The first number."),
            value_input("b", default=0.0, min=-WIDE, max=WIDE, step=0.01, tooltip="The second number."),
            io.Combo.Input(
                "operation",
                options=OPERATIONS,
                default=OPERATIONS[0],
                tooltip="What is done at every frame. Dividing by 0 is an error.",
            ),
            value_input("amount", default=0.5, min=0.0, max=1.0, step=0.01, tooltip="Of mix alone: 0 is a, 1 is b."),
        ]
        text = "Two curves, or a curve and a number, become one: sum, difference, product, quotient, extremes or a mix."
        return schema("Math", "Math", text, inputs, "add", "multiply", "mix")

    @classmethod
    def execute(cls, a: Curve | float, b: Curve | float, operation: str, amount: Curve | float) -> io.NodeOutput:
        from ..engine_runtime.controls import curves

        return io.NodeOutput(curves.arithmetic(a, b, operation, amount))


class CurveResample(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        text = (
            "Stretches a curve over whatever length is asked for. A curve measured from audio has the length of its "
            "clip, and fits other music after this."
        )
        inputs = [
            sockets.Curve.Input("curve", tooltip="Any curve."),
            number(
                "seconds",
                0.0,
                "Length at which it is drawn before it is stretched; 0 is its own, if it has one.",
                0.0,
                MAX_SECONDS,
            ),
        ]
        return schema("Resample", "Resample", text, inputs, "stretch")

    @classmethod
    def execute(cls, curve: Curve, seconds: float) -> io.NodeOutput:
        from ..engine_runtime.controls import curves

        return io.NodeOutput(curves.resample(curve, curves.frames_in(seconds) or None))


class CurveShift(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [
            sockets.Curve.Input("curve", tooltip="Any curve."),
            number("seconds", 0.0, "How much later; below 0 earlier.", -MAX_SECONDS, MAX_SECONDS),
            io.Combo.Input(
                "edges",
                options=EDGES,
                default=EDGES[0],
                tooltip="What fills the gap: hold repeats the value at the edge, wrap brings what left at the other.",
            ),
        ]
        return schema("Shift", "Shift", "Moves a curve in time. Its length stays.", inputs, "delay", "offset")

    @classmethod
    def execute(cls, curve: Curve, seconds: float, edges: str) -> io.NodeOutput:
        from ..engine_runtime.controls import curves

        return io.NodeOutput(curves.shift(curve, seconds, edges))
