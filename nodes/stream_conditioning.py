"""Prepares ComfyUI's CONDITIONING as a condition, with separate clips for timbre, structure and repaint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..engine_runtime.spec import ACE_STEP
from .shared import from_comfy, layout, sockets
from .shared.comfy import io

if TYPE_CHECKING:
    from .shared.given import Conditioning, Latent, Patcher


class StreamConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OstinatoStreamConditioning",
            display_name="Stream Conditioning (Ostinato)",
            category=sockets.CATEGORY,
            description="Prepare ComfyUI's CONDITIONING for the ring, by the model's own code. Timbre and structure "
            "may come from different clips, and a window of a clip can be made anew.",
            search_aliases=["ostinato", "reference audio", "cover", "repaint"],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL that the stream plays on."),
                io.Conditioning.Input("positive", tooltip="From Text Encode Ace Step Audio 1.5."),
                io.Latent.Input("latent", tooltip="Says how long the music is."),
                io.Conditioning.Input(
                    "negative", optional=True, tooltip="What guidance moves away from; none is the model's own null."
                ),
                io.Latent.Input("timbre", optional=True, tooltip="A clip whose sound is taken on."),
                io.Latent.Input("structure", optional=True, tooltip="A clip whose structure is kept, as in a cover."),
                io.Latent.Input(
                    "repaint", optional=True, tooltip="A clip that is kept outside the window, as long as the latent."
                ),
                io.Float.Input(
                    "repaint_start",
                    default=0.0,
                    min=0.0,
                    max=ACE_STEP.max_seconds,
                    step=0.04,
                    tooltip="The window's start in seconds.",
                ),
                io.Float.Input(
                    "repaint_end",
                    default=0.0,
                    min=0.0,
                    max=ACE_STEP.max_seconds,
                    step=0.04,
                    tooltip="The window's end in seconds; 0 is the clip's end.",
                ),
            ],
            outputs=[sockets.Condition.Output(display_name="condition", tooltip="For Stream Denoise.")],
        )

    @classmethod
    def execute(
        cls,
        model: Patcher,
        positive: Conditioning,
        latent: Latent,
        repaint_start: float,
        repaint_end: float,
        negative: Conditioning | None = None,
        timbre: Latent | None = None,
        structure: Latent | None = None,
        repaint: Latent | None = None,
    ) -> io.NodeOutput:
        from ..engine_runtime.models.comfy_condition import References, core_condition

        frames = layout.from_latent(latent, "the latent")[0].shape[0]
        references = References(
            None if timbre is None else layout.single(timbre, "the timbre"),
            None if structure is None else layout.single(structure, "the structure"),
            None if repaint is None else layout.single(repaint, "the repaint clip"),
            repaint_start,
            repaint_end,
        )
        return io.NodeOutput(core_condition(from_comfy.patcher_of(model), positive, negative, frames, references))
