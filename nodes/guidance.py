"""Guidance for base and SFT models."""

from typing import Any

from ..engine_runtime.config import MODES, Guidance
from ..engine_runtime.constants import MAX_STEPS
from ..engine_runtime.controls.knobs import KNOBS
from .shared import control_values, sockets
from .shared.comfy import io
from .shared.values import share_input, value_input

DEFAULT = Guidance()


class Guide(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OstinatoGuidance",
            display_name="Guidance (Ostinato)",
            category=sockets.CATEGORY,
            description="Adaptive projected guidance over time, as the ACE-Step base model does it. Turbo models have "
            "guidance built in and take only mode self. Mode full doubles the rows of a tick.",
            search_aliases=["ostinato", "cfg", "apg"],
            inputs=[
                value_input(
                    "scale",
                    default=float(DEFAULT.scale),
                    min=KNOBS["guidance_scale"].low,
                    max=KNOBS["guidance_scale"].high,
                    step=0.1,
                    tooltip="How strongly the prompt is followed; 1 is off.",
                ),
                share_input("start", DEFAULT.start, "Acts from here; 0 is noise."),
                share_input("end", DEFAULT.end, "Acts up to here; 1 is the end."),
                value_input(
                    "momentum",
                    default=float(DEFAULT.momentum),
                    min=KNOBS["momentum"].low,
                    max=KNOBS["momentum"].high,
                    step=0.05,
                    tooltip="Carried from step to step; below 0 it damps repeated pushes.",
                    advanced=True,
                ),
                io.Float.Input(
                    "eta",
                    default=DEFAULT.eta,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Share kept of the part parallel to the prediction, which mostly makes it louder.",
                    advanced=True,
                ),
                io.Float.Input(
                    "norm_limit",
                    default=DEFAULT.norm_limit,
                    min=0.001,
                    max=1_000_000.0,
                    step=0.1,
                    tooltip="Longest guidance step per channel.",
                    advanced=True,
                ),
                value_input(
                    "rescale",
                    default=float(DEFAULT.rescale),
                    min=KNOBS["rescale"].low,
                    max=KNOBS["rescale"].high,
                    step=0.05,
                    tooltip="1 brings the guided step back to the length it had without guidance.",
                    optional=True,  # as is mode: graphs saved in the API form before these existed still play
                    advanced=True,
                ),
                io.Combo.Input(
                    "mode",
                    options=list(reversed(MODES)),
                    default=DEFAULT.mode,
                    optional=True,
                    tooltip="Where the negative comes from: full decodes it at every step, initialize at the first and "
                    "keeps it, self takes the initial noise and decodes nothing, off is none.",
                ),
                io.Int.Input(
                    "every",
                    default=DEFAULT.every,
                    min=1,
                    max=MAX_STEPS,
                    optional=True,
                    tooltip="In mode full: decodes the negative at every so many steps and holds the guidance between; "
                    "2 saves a quarter of the rows.",
                ),
            ],
            outputs=[sockets.Guidance.Output(display_name="guidance", tooltip="For Stream Denoise.")],
        )

    @classmethod
    def execute(cls, **fields: Any) -> io.NodeOutput:
        return io.NodeOutput(control_values.check_guidance(fields))
