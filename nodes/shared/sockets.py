"""The pack's own socket types; audio, latents and images use ComfyUI's."""

from __future__ import annotations

from .comfy import io

CATEGORY = "Ostinato"

Model = io.Custom("OSTINATO_MODEL")  # engine_runtime.models.loading.Model
Engine = io.Custom("OSTINATO_ENGINE")  # engine_runtime.engines.contract.Engine
Vae = io.Custom("OSTINATO_VAE")  # engine_runtime.trt.play.vae.TrtVae
Condition = io.Custom("OSTINATO_CONDITION")  # engine_runtime.stream.request.Condition, or a tuple of Part
Guidance = io.Custom("OSTINATO_GUIDANCE")  # fields of engine_runtime.config.Guidance, see control_values.py
Knobs = io.Custom("OSTINATO_KNOBS")  # fields of engine_runtime.controls.knobs.Knobs, see control_values.py
Shape = io.Custom("OSTINATO_SHAPE")  # fields of engine_runtime.stream.request.Request, see control_values.py
Curve = io.Custom("OSTINATO_CURVE")  # engine_runtime.controls.curves.Curve
Stats = io.Custom("OSTINATO_STATS")  # engine_runtime.stream.stats.Stats
Tracks = io.Custom("OSTINATO_TRACKS")  # tuple of engine_runtime.controls.automation.Track
Take = io.Custom("OSTINATO_TAKE")  # engine_runtime.takes.take.Log
Adapters = io.Custom("OSTINATO_ADAPTERS")  # tuple of (path of a LoRA file, strength)
Profile = io.Custom("OSTINATO_PROFILE")  # engine_runtime.profile.layers.LayerProfile

# Stream Denoise takes the pack's own types or ComfyUI's
EngineOrModel = io.Custom(f"{Engine.io_type},{io.Model.io_type}")
ConditionOrConditioning = io.Custom(f"{Condition.io_type},{io.Conditioning.io_type}")


def chained(
    kind: type[io.ComfyType],
    name: str,
    purpose: str,
    node_id: str,
    title: str,
    description: str,
    aliases: list[str],
    inputs: list[io.Input],
) -> io.Schema:
    """Make the schema of a node that adds to what an earlier node of its kind outputs; `name` is the socket's."""
    one = name.rstrip("s")
    return io.Schema(
        node_id=node_id,
        display_name=title,
        category=f"{CATEGORY}/{name}",
        description=description,
        search_aliases=["ostinato", *aliases],
        inputs=[*inputs, kind.Input(name, optional=True, tooltip=f"Of another {one} node, {purpose}.")],
        outputs=[kind.Output(display_name=name, tooltip=f"For Stream Denoise, or a further {one} node.")],
    )
