"""Saves what was played, so that it can be played again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .shared import file_names, host, sockets
from .shared.comfy import io

if TYPE_CHECKING:
    from ..engine_runtime.takes.take import Log


class SaveTake(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OstinatoSaveTake",
            display_name="Save Take (Ostinato)",
            category=sockets.CATEGORY,
            description="Save every request and knob change of a stream with its tick. `ostinato replay` makes the "
            "same music from the file again, bit by bit.",
            search_aliases=["ostinato", "log", "record", "replay"],
            is_output_node=True,
            inputs=[
                sockets.Take.Input("take", tooltip="From Stream Denoise."),
                io.String.Input(
                    "filename_prefix", default="takes/ostinato", tooltip="Folder and name below the output folder."
                ),
            ],
            outputs=[],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, take: Log, filename_prefix: str) -> io.NodeOutput:
        path = host.next_file(file_names.fill_in(filename_prefix, cls.hidden), ".safetensors")
        take.save(path)
        host.show_text(path.name, cls.hidden.unique_id)
        return io.NodeOutput(ui={"files": [str(path)]})
