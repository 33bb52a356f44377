"""Decodes on a TensorRT engine of the VAE that was built before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..engine_runtime.errors import OstinatoError
from .shared import engine_owner, folders, host, sockets
from .shared.comfy import io

if TYPE_CHECKING:
    from ..engine_runtime.models.loading import Model

TORCH, STOP = "decode with the model's VAE", "stop"


class LoadVaeEngine(engine_owner.EngineNode):
    KIND = "load vae"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OstinatoLoadVaeEngine",
            display_name="Load VAE Engine (Ostinato)",
            category=sockets.CATEGORY,
            description="A TensorRT engine of the VAE's decoder by name, for Live Session and Stream Decode. It plays "
            "when it fits this GPU, library and model, is trusted, and has passed its check.",
            search_aliases=["ostinato", "tensorrt", "rtx", "trt", "plan", "vae"],
            inputs=[
                sockets.Model.Input("model", tooltip="From Load Model: the engine must have been built from its VAE."),
                io.Combo.Input(
                    "engine",
                    options=folders.engine_names() or [folders.NOTHING],
                    tooltip="Built with Build Engine, its part set to the VAE's decoder. Live play decodes up to "
                    f"44 frames at once, a window and the frames around it.{folders.engine_states()}",
                ),
                io.Combo.Input(
                    "otherwise", options=[TORCH, STOP], default=TORCH, tooltip="What to do where it cannot play here."
                ),
            ],
            outputs=[
                sockets.Vae.Output(display_name="vae", tooltip="For Live Session or Stream Decode."),
                io.String.Output(display_name="info", tooltip="What decodes, and why."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: Model, engine: str, otherwise: str) -> io.NodeOutput:
        from ..engine_runtime.trt.loader import drop

        who, vae = cls.who(), None
        try:
            vae = engine_owner.place(model, cls.hidden).open_vae(who, engine)
            info = vae.summary()
        except OstinatoError as error:
            if otherwise == STOP:
                raise
            drop(who)
            info = f"{engine_owner.message_for(who, engine, error)}\n\nthe model's VAE decodes"
        host.show_text(info, cls.hidden.unique_id)
        return io.NodeOutput(vae, info)
