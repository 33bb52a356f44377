"""Makes the decoder engine that a stream plays on."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..engine_runtime.constants import KINDS, MAX_ROWS, ROWS
from .shared import host, sockets
from .shared.comfy import io

if TYPE_CHECKING:
    from ..engine_runtime.models.loading import Model

log = logging.getLogger(__name__)


class Engine(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OstinatoEngine",
            display_name="Engine (Ostinato)",
            category=sockets.CATEGORY,
            description="The decoder that every tick runs. Shows the largest ring depth that runs in one pass.",
            search_aliases=["ostinato", "decoder"],
            inputs=[
                sockets.Model.Input("model", tooltip="From Load Model."),
                io.Combo.Input(
                    "kind",
                    options=list(KINDS),
                    default=KINDS[0],
                    tooltip="How the decoder runs. eager is plain PyTorch and works everywhere. compiled has its own "
                    "kernels (NVIDIA, Triton) and is several times as fast. fp8 (Ada, Hopper, Blackwell) is faster "
                    "still. int8 (Turing and newer) is for GPUs without float8, where it was not timed yet. Both are "
                    "less exact and need 1.4 GB more. Where one cannot run, eager plays and the text says why.",
                ),
                io.Int.Input(
                    "max_rows",
                    default=ROWS,
                    min=1,
                    max=MAX_ROWS,
                    tooltip="Rows the engine takes in one pass. A slot needs one, or two with guidance; when positive "
                    "and negative rows do not fit together they run in two passes. Fewer rows need less memory.",
                ),
            ],
            outputs=[
                sockets.Engine.Output(display_name="engine", tooltip="For Stream Denoise."),
                io.String.Output(display_name="info", tooltip="What the engine is, and its largest depths."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: Model, kind: str, max_rows: int) -> io.NodeOutput:
        from ..engine_runtime.errors import EngineError, MemoryShortage
        from ..engine_runtime.models.engines import eager_engine, torch_engine

        try:
            engine, why = torch_engine(model, kind, max_rows), ""
        except (EngineError, MemoryShortage) as error:
            log.warning("the %s engine does not run here, eager plays instead: %s", kind, error)
            engine, why = eager_engine(model, max_rows), f"\n{kind} does not run here: {error}"
            kind = KINDS[0]
        text = engine.summary() + why
        if engine.device.type == "cuda":
            from ..engine_runtime.plan.plan import told

            text += f"\n{told(model, engine, kind)}"
        host.show_text(text, cls.hidden.unique_id)
        return io.NodeOutput(engine, text)
