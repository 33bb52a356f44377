"""Wraps ComfyUI's MODEL as an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..engine_runtime.constants import MAX_ROWS, ROWS
from .shared import host, sockets
from .shared.comfy import io

if TYPE_CHECKING:
    from .shared.given import Patcher


class StreamModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OstinatoStreamModel",
            display_name="Stream Model (Ostinato)",
            category=sockets.CATEGORY,
            description="Play ComfyUI's own ACE-Step 1.5 MODEL, with its LoRAs, in the ring. Its weights are shared, "
            "not copied, and ComfyUI goes on managing their memory.",
            search_aliases=["ostinato", "model to engine", "lora"],
            inputs=[
                io.Model.Input("model", tooltip="From Load Checkpoint or Load Diffusion Model, through any LoRA."),
                io.Int.Input(
                    "max_rows",
                    default=ROWS,
                    min=1,
                    max=MAX_ROWS,
                    tooltip="Rows the engine takes in one pass. A slot needs one, or two with guidance.",
                ),
            ],
            outputs=[
                sockets.Engine.Output(display_name="engine", tooltip="For Stream Denoise."),
                io.String.Output(display_name="info", tooltip="What the engine is, and its largest depths."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: Patcher, max_rows: int) -> io.NodeOutput:
        from ..engine_runtime.models.comfy_model import CoreEngine

        engine = CoreEngine(model, max_rows)
        host.show_text(engine.summary(), cls.hidden.unique_id)
        return io.NodeOutput(engine, engine.summary())
