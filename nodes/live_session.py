"""Plays the graph live: sound that goes on while its widgets turn."""

from __future__ import annotations

from typing import Any

from ..engine_runtime.constants import LIVE_MODES
from .shared import sockets
from .shared.comfy import HEADLESS, io, ui
from .shared.live_score import LIVE
from .shared.ring_inputs import ring_inputs


class LiveSession(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=LIVE,
            display_name="Live Session (Ostinato)",
            category=sockets.CATEGORY,
            description="Play the graph live, beside the queue: widgets of the nodes before it act while they are "
            "moved. Queue it to start, and again after other nodes or links have changed.",
            search_aliases=["ostinato", "live", "play", "real time", "stream"],
            inputs=ring_inputs(
                sockets.Model.Input("model", tooltip="From Load Model; its VAE makes the sound."),
                sockets.Vae.Input(
                    "vae", optional=True, tooltip="From Load VAE Engine; makes the sound in place of the model's VAE."
                ),
                io.Combo.Input(
                    "mode",
                    options=list(LIVE_MODES),
                    default=LIVE_MODES[0],
                    tooltip="loop goes round, and each new generation takes the place of what is about to be heard. "
                    "endless goes on from what was heard, without repeating.",
                ),
                seed_step=0,  # the same noise each time round, so that what a knob does is heard
                seed_control=io.ControlAfterGenerate.fixed,
            ),
            is_output_node=True,
            accept_all_inputs=True,  # the values of the nodes before it, see live_queue.py
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> float:
        """Differ from every other: a run always reaches the session, which may have ended or been turned."""
        return float("nan")

    @classmethod
    def execute(cls, **given: Any) -> io.NodeOutput:
        if HEADLESS:
            return io.NodeOutput(ui=ui.PreviewText("It plays with: ostinato live WORKFLOW.json"))
        from .shared import live_queue

        return io.NodeOutput(ui={"ostinato_live": [{"session": live_queue.play(cls.hidden, given)}]})
