"""Make the decoder engine that a stream plays on."""

from ..engine_runtime.constants import MAX_ROWS, ROWS
from . import host
from .comfy import io
from .types import CATEGORY
from .types import Engine as EngineType
from .types import Model as ModelType


class Engine(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OstinatoEngine",
            display_name="Engine (Ostinato)",
            category=CATEGORY,
            description="The decoder that every tick runs. Shows the largest ring depth that runs in one pass.",
            search_aliases=["ostinato", "decoder"],
            inputs=[
                ModelType.Input("model", tooltip="From Load Model."),
                io.Combo.Input(
                    "kind",
                    options=["eager"],
                    default="eager",
                    tooltip="How the decoder runs. eager is plain PyTorch and works everywhere.",
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
                EngineType.Output(display_name="engine", tooltip="For Stream Denoise."),
                io.String.Output(display_name="info", tooltip="What the engine is, and its largest depths."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model, kind: str, max_rows: int) -> io.NodeOutput:
        from ..engine_runtime.models.loading import eager_engine

        engine = eager_engine(model, max_rows)
        host.show_text(engine.summary(), cls.hidden.unique_id)
        return io.NodeOutput(engine, engine.summary())
