"""Settings of a request beside its condition, one node for each kind; they chain, and Stream Denoise takes them all."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from .shared import layout, sockets
from .shared.comfy import io
from .shared.values import share_input, value_input

if TYPE_CHECKING:
    from ..engine_runtime.controls.curves import Curve
    from .shared.control_values import Fields
    from .shared.given import Latent

schema = partial(sockets.chained, sockets.Shape, "shape", "to ask for several things")


class PullTo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "OstinatoTarget",
            "Target (Ostinato)",
            "A clip that each prediction is pulled to, as far as the knob target_strength says.",
            ["x0 target", "morph"],
            [
                io.Latent.Input("latent", tooltip="The clip, as long as the music."),
                share_input("start", 0.0, "Part of the steps from which it pulls; 0 is the first."),
                share_input("end", 1.0, "Part of the steps up to which it pulls; 1 is the last."),
            ],
        )

    @classmethod
    def execute(cls, latent: Latent, start: float, end: float, shape: Fields | None = None) -> io.NodeOutput:
        from ..engine_runtime.stream.request import Target

        target = Target(layout.single(latent, "the target"), start, end)
        return io.NodeOutput({**(shape or {}), "target": target})


class KeepSource(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "OstinatoMask",
            "Mask (Ostinato)",
            "Which frames of the source are made anew: 1 is new, 0 is kept, before the decoder and after it.",
            ["inpaint", "repaint", "keep"],
            [
                value_input(
                    "mask",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="A number for all frames; a curve says it frame by frame.",
                ),
                share_input("strength_first", 1.0, "How far the mask is followed at the first step."),
                share_input("strength_last", 1.0, "And at the last; between them it moves in a line."),
            ],
        )

    @classmethod
    def execute(
        cls, mask: Curve | float, strength_first: float, strength_last: float, shape: Fields | None = None
    ) -> io.NodeOutput:
        return io.NodeOutput({**(shape or {}), "mask": mask, "mask_strength": (strength_first, strength_last)})


class InitialNoise(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "OstinatoInitialNoise",
            "Initial Noise (Ostinato)",
            "What the music starts from: noise, the source, or both; a curve says it frame by frame.",
            ["denoise curve", "start"],
            [
                value_input(
                    "noise", default=1.0, min=0.0, max=1.0, step=0.01, tooltip="Share of noise; the rest is the source."
                )
            ],
        )

    @classmethod
    def execute(cls, noise: Curve | float, shape: Fields | None = None) -> io.NodeOutput:
        return io.NodeOutput({**(shape or {}), "initial_noise": noise})
