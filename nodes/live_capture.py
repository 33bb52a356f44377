"""Brings the last moments of a live session into the graph."""

from __future__ import annotations

from .shared import folders, live_files, sockets
from .shared.comfy import io


class LiveCapture(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OstinatoLiveCapture",
            display_name="Live Capture (Ostinato)",
            category=sockets.CATEGORY,
            description="The last moments of a live session, as they were heard: sound, latent and take. A live "
            "session writes a capture into the output folder at one key press.",
            search_aliases=["ostinato", "live", "capture", "keep", "resample", "loop"],
            inputs=[
                io.Combo.Input(
                    "capture",
                    options=live_files.capture_names() or [folders.NOTHING],
                    tooltip="A capture in the folder live of the output folder, the newest first.",
                )
            ],
            outputs=[
                io.Audio.Output(display_name="audio", tooltip="What was heard, at 48 kHz."),
                io.Latent.Output(display_name="latent", tooltip="The frames that were heard: a source, or a target."),
                sockets.Take.Output(
                    display_name="take",
                    tooltip="For Save Take: `ostinato replay` makes the same latents again, bit by bit.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, capture: str | None = None) -> bool | str:
        from ..engine_runtime.errors import InputError

        try:
            if capture is not None:  # a linked input has no value yet
                live_files.capture_path(capture)
        except InputError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, capture: str | None = None) -> str:
        """Change when the file changes."""
        return "" if capture is None else folders.file_stamp(live_files.capture_path(capture))

    @classmethod
    def execute(cls, capture: str) -> io.NodeOutput:
        kept = live_files.read_capture(capture)
        return io.NodeOutput(kept.audio, kept.latent, kept.take)
