"""Hot knobs, one node for each kind; they chain, and Stream Denoise takes them all."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ..engine_runtime.controls.knobs import KNOBS, Knob
from ..engine_runtime.spec import ACE_STEP
from .shared import control_values, sockets
from .shared.comfy import io
from .shared.values import is_curve, value_input

if TYPE_CHECKING:
    from ..engine_runtime.controls.curves import Curve
    from .shared.control_values import Fields

schema = partial(sockets.chained, sockets.Knobs, "knobs", "to turn several")


def knob_input(name: str, **more: Any) -> io.Input:
    """Make the widget of a knob from its entry in `KNOBS`."""
    knob = KNOBS[name]
    if knob.options:
        return io.Combo.Input(name, options=list(knob.options), default=knob.default, tooltip=knob.help)
    default = knob.default if knob.default is not None else more.pop("default")
    return value_input(name, default=default, min=knob.low, max=knob.high, step=0.01, tooltip=knob.help, **more)


def is_plain(knob: Knob) -> bool:
    """Return true for a knob of the node Knobs: one number a frame, and no part of guidance."""
    return knob.buffer == "frame" and knob.place != "guidance"


class TurnKnobs(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "OstinatoKnobs",
            "Knobs (Ostinato)",
            "How every step goes: its length, fresh noise, the source under the sde solver, the pull of a target. What "
            "stands at its default leaves an earlier node's.",
            ["velocity", "sde", "noise injection", "x0 target"],
            [knob_input(name) for name, knob in KNOBS.items() if is_plain(knob)],
        )

    @classmethod
    def execute(cls, knobs: Fields | None = None, **values: Any) -> io.NodeOutput:
        at_rest = {name for name, value in values.items() if not is_curve(value) and value == KNOBS[name].default}
        moved = {name: value for name, value in values.items() if name not in at_rest}
        return io.NodeOutput(control_values.add_knobs(knobs, moved))


class Dcw(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "OstinatoDcw",
            "DCW (Ostinato)",
            "Differential correction in the wavelet domain (arXiv 2604.16044): after each step the bands of the state "
            "are pushed away from those of the prediction.",
            ["wavelet", "correction"],
            [knob_input(name) for name, knob in KNOBS.items() if knob.place == "correction" and name != "dcw"],
        )

    @classmethod
    def execute(cls, knobs: Fields | None = None, **values: Any) -> io.NodeOutput:
        return io.NodeOutput(control_values.add_knobs(knobs, {"dcw": True, **values}))


class Blend(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "OstinatoBlend",
            "Blend (Ostinato)",
            "Cross-fade between the conditions that Combine Conditions put together.",
            ["crossfade", "morph", "prompt"],
            [knob_input("blend", default=0.5)],
        )

    @classmethod
    def execute(cls, blend: Curve | float, knobs: Fields | None = None) -> io.NodeOutput:
        return io.NodeOutput(control_values.add_knobs(knobs, {"blend": blend}))


class ChannelGain(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        last = ACE_STEP.channels - 1
        return schema(
            "OstinatoChannelGain",
            "Channel Gain (Ostinato)",
            "Gain of some latent channels in what the decoder sees; the state itself is left alone. Several multiply.",
            ["channel", "gain", "timbre"],
            [
                value_input(
                    "gain",
                    default=1.0,
                    min=KNOBS["channel_gain"].low,
                    max=KNOBS["channel_gain"].high,
                    step=0.01,
                    tooltip="1 changes nothing.",
                ),
                io.Int.Input("first", default=0, min=0, max=last, tooltip="First channel, counted from 0."),
                io.Int.Input("last", default=last, min=0, max=last, tooltip="Last channel."),
            ],
        )

    @classmethod
    def execute(cls, gain: Curve | float, first: int, last: int, knobs: Fields | None = None) -> io.NodeOutput:
        return io.NodeOutput(control_values.add_channel_gain(knobs, gain, first, last))
