"""Curves measured from a clip: its loudness and its beats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .curves import number, schema
from .shared import layout
from .shared.comfy import io

if TYPE_CHECKING:
    from .shared.given import Audio

DECAY = "Milliseconds in which a pulse falls to about a third; 0 is one frame."


class CurveEnvelope(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [
            io.Audio.Input("audio", tooltip="One clip, any number of channels, any sample rate, at most 600 s."),
            number("attack", 10.0, "Milliseconds in which it follows what gets louder; 0 is at once.", 0.0, 60_000.0),
            number("release", 200.0, "Milliseconds in which it follows what gets quieter.", 0.0, 60_000.0),
            number("low", 0.0, "Value at silence."),
            number("high", 1.0, "Value where the clip is loudest."),
        ]
        text = "How loud a clip is, frame by frame. It has the length of the clip; Curve Resample makes it fit others."
        return schema("Envelope", "Envelope", text, inputs, "loudness", "rms", "follower")

    @classmethod
    def execute(cls, audio: Audio, attack: float, release: float, low: float, high: float) -> io.NodeOutput:
        from ..engine_runtime.controls import curves, from_audio

        waveform, rate = layout.from_audio(audio, "the audio")
        curve = from_audio.envelope(waveform.numpy(force=True), rate, attack, release)
        return io.NodeOutput(curves.between(curve, low, high))


class CurveBeats(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        text = (
            "A pulse on every beat: of a clip, whose tempo is found or given, or of a steady tempo with no clip. "
            "Beats of a clip have its length; a steady tempo fits music of any length."
        )
        inputs = [
            io.Audio.Input("audio", optional=True, tooltip="One clip with a steady beat, 2 to 600 s."),
            number("bpm", 0.0, "Beats a minute, 40 to 240; 0 finds them, at times twice or half as many.", 0.0, 240.0),
            io.Int.Input("every", default=1, min=1, max=64, tooltip="A pulse on every so many beats."),
            number("offset", 0.0, "Seconds by which all pulses come later.", -600.0, 600.0),
            number("decay", 200.0, DECAY, 0.0, 60_000.0),
            number("low", 0.0, "Value between the pulses."),
            number("high", 1.0, "Value at a pulse."),
        ]
        made = schema("Beats", "Beats", text, inputs, "pulse", "tempo", "rhythm", "bpm")
        made.outputs.append(io.Float.Output(display_name="bpm", tooltip="Beats a minute, found or given."))
        return made

    @classmethod
    def execute(
        cls,
        bpm: float,
        every: int,
        offset: float,
        decay: float,
        low: float,
        high: float,
        audio: Audio | None = None,
    ) -> io.NodeOutput:
        from ..engine_runtime.controls import curves, from_audio
        from ..engine_runtime.errors import InputError

        if audio is not None:
            waveform, rate = layout.from_audio(audio, "the audio")
            samples = waveform.numpy(force=True)
            beats = from_audio.find_beats(samples, rate, bpm)
            frames = from_audio.frames_of(samples.shape[1], rate)
            curve, bpm = from_audio.beat_curve(beats, frames, every, offset, decay), beats.bpm
        elif bpm:
            curve = from_audio.beat_grid(bpm, every, offset, decay)
        else:
            raise InputError("there is neither audio nor a tempo", "one of them is needed", "connect audio or set bpm")
        return io.NodeOutput(curves.between(curve, low, high), bpm)
