"""Plays on a TensorRT engine that was built before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..engine_runtime.errors import OstinatoError
from .shared import engine_owner, folders, host, sockets
from .shared.comfy import io

if TYPE_CHECKING:
    from ..engine_runtime.engines.contract import Engine
    from ..engine_runtime.models.loading import Model

TORCH, STOP = "play on the torch engine", "stop"


class LoadEngine(engine_owner.EngineNode):
    KIND = "load"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OstinatoLoadEngine",
            display_name="Load Engine (Ostinato)",
            category=sockets.CATEGORY,
            description="A TensorRT engine by name. It plays when it fits this GPU, library and model, when this "
            "installation built it or its sha256 was accepted, and when it has passed its check. The info lists every "
            "engine that is there with its state: ready, stale or unusable, and why.",
            search_aliases=["ostinato", "tensorrt", "rtx", "trt", "plan"],
            inputs=[
                io.Combo.Input(
                    "engine",
                    options=folders.engine_names() or [folders.NOTHING],
                    tooltip="From the folder that Build Engine and ostinato build write to, and from ComfyUI's model "
                    f"folders {folders.ENGINES}.{folders.engine_states()}",
                ),
                io.Combo.Input(
                    "otherwise",
                    options=[TORCH, STOP],
                    default=TORCH,
                    tooltip="What to do where it cannot play here. The torch engine is the fallback, or eager on the "
                    "model.",
                ),
                sockets.Model.Input(
                    "model", optional=True, tooltip="From Load Model: the engine must have been built from its weights."
                ),
                sockets.Engine.Input(
                    "fallback", optional=True, tooltip="From Engine: plays where the TensorRT engine cannot."
                ),
            ],
            outputs=[
                sockets.Engine.Output(display_name="engine", tooltip="For Stream Denoise."),
                io.String.Output(display_name="info", tooltip="What plays and why, and the state of every engine."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, engine: str, otherwise: str, model: Model | None = None, fallback: Engine | None = None
    ) -> io.NodeOutput:
        place, who = engine_owner.place(model, cls.hidden), cls.who()
        other = fallback or model
        playing: Engine
        try:
            opened = place.open(who, engine)
            playing, info = opened, opened.summary()
        except OstinatoError as error:
            if otherwise == STOP or other is None:
                raise
            info, playing = engine_owner.message_for(who, engine, error), engine_owner.torch_engine(who, other)
        states = [f"- {folders.describe(state)}" for state in place.survey()] or ["there are no engines yet"]
        text = "\n\n".join([info, f"playing on {playing.name}", "\n".join(states)])  # ComfyUI reads it as Markdown
        host.show_text(text, cls.hidden.unique_id)
        return io.NodeOutput(playing, text)
