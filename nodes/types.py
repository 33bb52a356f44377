"""The pack's own socket types; audio, latents and images use ComfyUI's."""

from .comfy import io

CATEGORY = "Ostinato"

Model = io.Custom("OSTINATO_MODEL")  # engine_runtime.models.loading.Model
Engine = io.Custom("OSTINATO_ENGINE")  # engine_runtime.engines.Engine
Condition = io.Custom("OSTINATO_CONDITION")  # engine_runtime.request.Condition
Guidance = io.Custom("OSTINATO_GUIDANCE")  # engine_runtime.config.Guidance
Stats = io.Custom("OSTINATO_STATS")  # engine_runtime.stats.Stats

# Stream Denoise takes the pack's own parts, or ComfyUI's.
EngineOrModel = io.Custom(f"{Engine.io_type},{io.Model.io_type}")
ConditionOrConditioning = io.Custom(f"{Condition.io_type},{io.Conditioning.io_type}")
