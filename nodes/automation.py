"""Lets a curve move a knob while a stream plays."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..engine_runtime.controls.automation import AUTOMATABLE, DEPTH, Track
from ..engine_runtime.spec import ACE_STEP
from .shared import sockets
from .shared.comfy import io

if TYPE_CHECKING:
    from ..engine_runtime.controls.curves import Curve


class Automation(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OstinatoAutomation",
            display_name="Automation (Ostinato)",
            category=sockets.CATEGORY,
            description="Lay a curve over the ticks of a stream: it turns one knob while the music is made.",
            search_aliases=["ostinato", "automate", "envelope", "knob track"],
            inputs=[
                io.Combo.Input(
                    "knob",
                    options=list(AUTOMATABLE),
                    default=AUTOMATABLE[1],
                    tooltip="What is turned. A switch is on from 0.5; depth is rounded to whole numbers.",
                ),
                sockets.Curve.Input("curve", tooltip="One value a tick, within what the knob allows."),
                io.Int.Input(
                    "ticks",
                    default=100,
                    min=1,
                    max=ACE_STEP.max_frames,
                    tooltip="How many ticks the curve is laid over; "
                    f"{ACE_STEP.frame_rate} are one second of the curve.",
                ),
                io.Int.Input(
                    "start", default=0, min=0, max=1 << 31, tooltip="Tick at which it begins; before it nothing turns."
                ),
                io.Boolean.Input("loop", default=False, tooltip="Begin again at the end; off holds the last value."),
                sockets.Tracks.Input("tracks", optional=True, tooltip="Of another Automation, to turn several knobs."),
            ],
            outputs=[
                sockets.Tracks.Output(display_name="tracks", tooltip="For Stream Denoise, or a further Automation.")
            ],
        )

    @classmethod
    def execute(
        cls, knob: str, curve: Curve, ticks: int, start: int, loop: bool, tracks: tuple[Track, ...] | None = ()
    ) -> io.NodeOutput:
        values = curve.values(ticks).tolist()
        whole = [round(value) for value in values] if knob == DEPTH else values
        return io.NodeOutput((*(tracks or ()), Track(knob, whole, start, loop)))
