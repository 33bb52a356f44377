"""Encodes audio into a source latent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .shared import layout, sockets
from .shared.comfy import io

if TYPE_CHECKING:
    from ..engine_runtime.models.loading import Model
    from .shared.given import Audio


class SourceAudio(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OstinatoSourceAudio",
            display_name="Source Audio (Ostinato)",
            category=sockets.CATEGORY,
            description="Encode audio of any rate and up to 7.1 into a latent for covers, repaints and denoise < 1.",
            search_aliases=["ostinato", "vae encode audio"],
            inputs=[
                sockets.Model.Input("model", tooltip="From Load Model."),
                io.Audio.Input("audio", tooltip="One clip, mono, stereo or surround, any sample rate, at most 600 s."),
                io.Int.Input(
                    "encode_seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    tooltip="The encoder draws a little noise; the same seed gives the same latent.",
                ),
            ],
            outputs=[io.Latent.Output(display_name="source", tooltip="25 frames a second, 64 channels.")],
        )

    @classmethod
    def execute(cls, model: Model, audio: Audio, encode_seed: int) -> io.NodeOutput:
        from ..engine_runtime.audio.encode import encode_audio

        waveform, rate = layout.from_audio(audio, "the audio")
        return io.NodeOutput(layout.to_latent([encode_audio(model, waveform, rate, encode_seed)]))
