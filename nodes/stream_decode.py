"""Decodes latents to audio."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..engine_runtime.spec import ACE_STEP
from .shared import host, layout, rescue, sockets
from .shared.comfy import io

if TYPE_CHECKING:
    from ..engine_runtime.models.loading import Model
    from ..engine_runtime.trt.play.vae import TrtVae
    from .shared.given import Latent


class StreamDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OstinatoStreamDecode",
            display_name="Stream Decode (Ostinato)",
            category=sockets.CATEGORY,
            description="Decode latents to 48 kHz stereo at the level the model gives; no clip is made louder.",
            search_aliases=["ostinato", "vae decode audio"],
            inputs=[
                sockets.Model.Input("model", tooltip="From Load Model; its VAE is used."),
                io.Latent.Input("latents", tooltip="From Stream Denoise."),
                sockets.Vae.Input(
                    "vae", optional=True, tooltip="From Load VAE Engine; decodes in place of the model's VAE."
                ),
                io.Float.Input(
                    "window",
                    default=0.0,
                    min=0.0,
                    max=ACE_STEP.max_seconds,
                    step=0.04,
                    tooltip="Seconds decoded at a time, which bounds the memory; 0 decodes each clip whole. "
                    "The sound is the same.",
                ),
            ],
            outputs=[io.Audio.Output(display_name="audio", tooltip="One clip per latent.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: Model, latents: Latent, window: float, vae: TrtVae | None = None) -> io.NodeOutput:
        from ..engine_runtime.audio.decode import decode_clips

        (vae or model).ready()
        spec = model.spec
        clips = layout.from_latent(latents, "the latent", spec)
        frames = spec.frames_of(window) if window else 0
        node, rate = cls.hidden.unique_id, spec.sample_rate
        audio = decode_clips(
            vae or model.pipe.vae,
            clips,
            frames,
            host.check_cancelled,
            lambda finished: rescue.keep_audio(finished, rate, node),
        )
        return io.NodeOutput(layout.to_audio(audio, rate))
