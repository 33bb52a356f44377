"""Shows where a tick's time goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..engine_runtime.constants import MAX_DEPTH, MAX_STEPS
from ..engine_runtime.engines.profiles import MAX_TOKENS
from ..engine_runtime.profile.layers import GUIDED, TICKS, Workload
from ..engine_runtime.spec import ACE_STEP
from .shared import host, sockets
from .shared.comfy import io, ui

if TYPE_CHECKING:
    from ..engine_runtime.engines.contract import Engine
    from ..engine_runtime.profile.layers import LayerProfile
    from .shared.given import Patcher

WORKLOAD = Workload()


class LayerProfiler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OstinatoLayerProfile",
            display_name="Layer Profile (Ostinato)",
            category=sockets.CATEGORY,
            description="Time an engine's layers while a ring of random generations plays on it: the time of a tick "
            "first, then every layer's share, by kind. Connect an earlier profile to see what changed.",
            search_aliases=["ostinato", "profiler", "benchmark", "layers"],
            is_output_node=True,
            inputs=[
                sockets.EngineOrModel.Input("engine", tooltip="Any engine, or ComfyUI's own MODEL of ACE-Step 1.5."),
                *_workload(),
                sockets.Profile.Input("before", optional=True, tooltip="Of another Layer Profile, to compare with."),
            ],
            outputs=[
                io.Image.Output(display_name="plot", tooltip="A bar for every kind, and for the slowest layers."),
                io.String.Output(display_name="table", tooltip="The table, or what changed since the earlier one."),
                sockets.Profile.Output(display_name="profile", tooltip="For another Layer Profile's before."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, engine: Engine | Patcher, ticks: int, before: LayerProfile | None = None, **workload: Any
    ) -> io.NodeOutput:
        from ..engine_runtime.plots.profile import plot_profile
        from ..engine_runtime.profile.layers import diff
        from ..engine_runtime.profile.probe import profile_engine
        from .shared import from_comfy

        made = profile_engine(from_comfy.engine_of(engine), Workload(**workload), ticks, host.ticker(cls.hidden))
        table, image = made.text() if before is None else diff(before, made).text(), plot_profile(made)
        shown = ui.PreviewText(table).as_dict() | ui.PreviewImage(image, cls=cls).as_dict()
        return io.NodeOutput(image, table, made, ui=shown)


def _workload() -> list[io.Input]:
    return [
        io.Int.Input(
            "depth", default=WORKLOAD.depth, min=1, max=MAX_DEPTH, tooltip="Generations in flight, all the time."
        ),
        io.Float.Input(
            "seconds",
            default=WORKLOAD.seconds,
            min=0.04,
            max=ACE_STEP.max_seconds,
            step=0.04,
            tooltip="Of music in each.",
        ),
        io.Int.Input("steps", default=WORKLOAD.steps, min=1, max=MAX_STEPS, tooltip="Of each generation."),
        io.Combo.Input(
            "guidance",
            options=list(GUIDED),
            default=WORKLOAD.guidance,
            tooltip="full decodes a negative row for every slot at every step.",
        ),
        io.Int.Input("tokens", default=WORKLOAD.tokens, min=1, max=MAX_TOKENS, tooltip="Of each condition."),
        io.Int.Input("ticks", default=TICKS, min=1, max=10_000, tooltip="Timed, once without and once with profiler."),
    ]
