"""Shows what a stream did and how fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .shared import host, sockets
from .shared.comfy import io, ui

if TYPE_CHECKING:
    from ..engine_runtime.stream.stats import Stats


class StreamStats(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OstinatoStreamStats",
            display_name="Stream Stats (Ostinato)",
            category=sockets.CATEGORY,
            description="Ticks, milliseconds per tick, latents per second and times real time, as text and as a plot.",
            search_aliases=["ostinato", "benchmark", "fps"],
            is_output_node=True,
            inputs=[sockets.Stats.Input("stats", tooltip="From Stream Denoise.")],
            outputs=[
                io.String.Output(display_name="text", tooltip="The figures as text."),
                io.Image.Output(display_name="plot", tooltip="Milliseconds of each tick."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, stats: Stats) -> io.NodeOutput:
        from ..engine_runtime.plots.plot import plot_ticks

        text, image = stats.text(), plot_ticks(stats)
        host.show_text(text, cls.hidden.unique_id)
        shown = ui.PreviewText(text).as_dict() | ui.PreviewImage(image, cls=cls).as_dict()
        return io.NodeOutput(text, image, ui=shown)
