"""Bakes adapters into the weights of a TensorRT engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .shared import control_values, engine_owner, folders, host, sockets
from .shared.comfy import io

if TYPE_CHECKING:
    from pathlib import Path

    from ..engine_runtime.models.loading import Model


class RefitLora(engine_owner.EngineNode):
    KIND = "refit"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OstinatoRefitLora",
            display_name="Refit LoRA (Ostinato)",
            category=f"{sockets.CATEGORY}/adapters",
            description="Write adapters into the weights of a refittable TensorRT engine, from the model's own weights "
            "each time, and check the result before it plays. It costs no time in a tick, and seconds when it changes. "
            "Every other engine takes adapters through Stream Denoise instead. TensorRT-RTX cannot build a refittable "
            "engine without a GPU.",
            search_aliases=["ostinato", "lora", "tensorrt", "refit", "bake"],
            inputs=[
                io.Combo.Input(
                    "engine",
                    options=folders.engine_names() or [folders.NOTHING],
                    tooltip="Built with refittable. It is loaded for this node alone: another node's engine keeps its "
                    f"weights.{folders.engine_states()}",
                ),
                sockets.Model.Input("model", tooltip="From Load Model: what the engine was built from."),
                sockets.Adapters.Input(
                    "adapters", optional=True, tooltip="From LoRA; none gives the engine as it was built."
                ),
            ],
            outputs=[
                sockets.Engine.Output(display_name="engine", tooltip="For Stream Denoise."),
                io.String.Output(display_name="info", tooltip="What plays, with which adapters."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, engine: str, model: Model, adapters: tuple[tuple[Path, float], ...] = ()) -> io.NodeOutput:
        from ..engine_runtime.engines.factors import Targets
        from ..engine_runtime.trt.bake import bake

        model.ready()
        mix = control_values.read_adapters(adapters, Targets.of(model.pipe.transformer))
        baked = bake(cls.who(), engine, engine_owner.place(model, cls.hidden), model, mix)
        host.show_text(baked.summary(), cls.hidden.unique_id)
        return io.NodeOutput(baked, baked.summary())
