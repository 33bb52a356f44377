"""Shows a curve over the waveform of a clip."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..engine_runtime.spec import ACE_STEP
from .curves import CURVES, number
from .shared import layout, sockets
from .shared.comfy import io, ui

if TYPE_CHECKING:
    from ..engine_runtime.controls.curves import Curve
    from .shared.given import Audio

SECONDS = 10.0  # drawn of a curve without a length of its own


class CurvePreview(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OstinatoCurvePreview",
            display_name="Curve Preview (Ostinato)",
            category=CURVES,
            description="A picture of a curve over time, and of a clip's waveform behind it.",
            search_aliases=["ostinato", "plot", "graph"],
            is_output_node=True,
            inputs=[
                sockets.Curve.Input("curve", tooltip="Any curve."),
                io.Audio.Input("audio", optional=True, tooltip="A clip whose waveform is drawn behind."),
                number(
                    "seconds",
                    0.0,
                    f"Length to draw; 0 is the curve's own, else the clip's, else {SECONDS:g}.",
                    0.0,
                    ACE_STEP.max_seconds,
                ),
            ],
            outputs=[io.Image.Output(display_name="plot", tooltip="The picture.")],
        )

    @classmethod
    def execute(cls, curve: Curve, seconds: float, audio: Audio | None = None) -> io.NodeOutput:
        from ..engine_runtime.controls.curves import frames_in
        from ..engine_runtime.controls.from_audio import checked, frames_of
        from ..engine_runtime.plots.curve import plot_curve

        samples, rate = None, 0
        if audio is not None:
            waveform, rate = layout.from_audio(audio, "the audio")
            samples = checked(waveform.numpy(force=True), rate)
        clip = SECONDS * ACE_STEP.frame_rate if samples is None else frames_of(samples.shape[1], rate)
        frames = frames_in(seconds) or curve.frames or int(clip)
        image = plot_curve(curve.values(frames), samples, rate)
        return io.NodeOutput(image, ui=ui.PreviewImage(image, cls=cls))
