"""Lets a curve move a knob while a stream plays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..engine_runtime.controls.automation import AUTOMATABLE, DEPTH, Track
from ..engine_runtime.spec import ACE_STEP
from .shared import sockets
from .shared.comfy import io
from .shared.values import share_input

if TYPE_CHECKING:
    from ..engine_runtime.controls.curves import Curve


TICKS, RUN = "ticks", "run"
POINTS = 1001  # of the curve, laid over a run


class Automation(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OstinatoAutomation",
            display_name="Automation (Ostinato)",
            category=sockets.CATEGORY,
            description="Lay a curve over a run of Stream Denoise, or over ticks: it turns one knob while the music is "
            "made.",
            search_aliases=["ostinato", "automate", "envelope", "knob track"],
            inputs=[
                io.Combo.Input(
                    "knob",
                    options=list(AUTOMATABLE),
                    default=AUTOMATABLE[1],
                    tooltip="What is turned. A switch is on from 0.5; depth is rounded to whole numbers.",
                ),
                sockets.Curve.Input("curve", tooltip="Of values within what the knob allows."),
                io.Int.Input(
                    "ticks",
                    default=100,
                    min=1,
                    max=ACE_STEP.max_frames,
                    tooltip="Over ticks: how many the curve is laid over; "
                    f"{ACE_STEP.frame_rate} are one second of the curve.",
                ),
                io.Int.Input(
                    "start",
                    default=0,
                    min=0,
                    max=1 << 31,
                    tooltip="Over ticks: that at which it begins; before it nothing turns.",
                ),
                io.Boolean.Input(
                    "loop", default=False, tooltip="Over ticks: begin again at the end; off holds the last value."
                ),
                io.Combo.Input(
                    "over",
                    options=[TICKS, RUN],
                    default=TICKS,
                    optional=True,  # as are the next: graphs saved in the API form before they existed still play
                    tooltip="run lays the curve over the whole run of Stream Denoise, however many ticks that has. A "
                    "live session has no end: there it lies over ticks.",
                ),
                share_input("run_start", 0.0, "Over run: the share that is done when it begins.", optional=True),
                share_input("run_end", 1.0, "Over run: the share that is done when it ends.", optional=True),
                sockets.Tracks.Input("tracks", optional=True, tooltip="Of another Automation, to turn several knobs."),
            ],
            outputs=[
                sockets.Tracks.Output(display_name="tracks", tooltip="For Stream Denoise, or a further Automation.")
            ],
        )

    @classmethod
    def execute(
        cls,
        knob: str,
        curve: Curve,
        ticks: int,
        start: int,
        loop: bool,
        tracks: tuple[Track, ...] | None = (),
        over: str = TICKS,
        run_start: float = 0.0,
        run_end: float = 1.0,
    ) -> io.NodeOutput:
        values = curve.values(POINTS if over == RUN else ticks).tolist()
        whole = [round(value) for value in values] if knob == DEPTH else values
        laid: dict[str, Any] = {"span": (run_start, run_end), "ticks": ticks} if over == RUN else {}
        return io.NodeOutput((*(tracks or ()), Track(knob, whole, start, loop, **laid)))
