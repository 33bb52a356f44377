"""The inputs that Stream Denoise and Live Session share: what a ring plays, from the sockets to the sampler."""

from __future__ import annotations

from ...engine_runtime.config import SOLVERS, Sampling, StreamConfig
from ...engine_runtime.constants import MAX_DEPTH, MAX_STEPS
from . import sockets
from .comfy import io

SAMPLING, STREAM = Sampling(), StreamConfig()


def ring_inputs(*more: io.Input, seed_step: int, seed_control: bool | io.ControlAfterGenerate) -> list[io.Input]:
    """List the inputs of a node that plays a ring, in the order in which the editor stores their values.

    Args:
        more: the node's own, which stand behind engine and condition.
        seed_step: the default of that widget.
        seed_control: what the editor does with the seed after each run.
    """
    return [
        sockets.EngineOrModel.Input("engine", tooltip="From Engine, or ComfyUI's own MODEL of ACE-Step 1.5."),
        sockets.ConditionOrConditioning.Input(
            "condition",
            tooltip="From Encode Prompt, Stream Conditioning or Combine Conditions, or ComfyUI's own "
            "CONDITIONING, which plays on a MODEL and takes its length from the source.",
        ),
        *more,
        io.Int.Input(
            "depth",
            default=STREAM.depth,
            min=1,
            max=MAX_DEPTH,
            tooltip="Generations in flight at once. Engine shows the largest that runs in one pass.",
        ),
        *_sampling(seed_step, seed_control),
        sockets.Guidance.Input("guidance", optional=True, tooltip="For base and SFT models; none is scale 1."),
        sockets.Knobs.Input("knobs", optional=True, tooltip="From Knobs, DCW, Channel Gain or Blend."),
        sockets.Shape.Input("shape", optional=True, tooltip="From Target, Mask or Initial Noise."),
        sockets.Tracks.Input("tracks", optional=True, tooltip="From Automation: knobs that turn while it plays."),
        io.Latent.Input(
            "source",
            optional=True,
            tooltip="What a denoise below 1 starts from, and what a noise mask keeps; one, or in Stream Denoise one "
            "per generation. Several take their noise as ComfyUI draws it for a batch.",
        ),
        io.Conditioning.Input(
            "negative",
            optional=True,
            tooltip="With Guidance on a CONDITIONING: what to move away from; none is the model's own null.",
        ),
        sockets.Adapters.Input("adapters", optional=True, tooltip="From LoRA, for an engine that takes them."),
    ]


def _sampling(seed_step: int, seed_control: bool | io.ControlAfterGenerate) -> list[io.Input]:
    return [
        io.Int.Input(
            "steps",
            default=SAMPLING.steps,
            min=1,
            max=MAX_STEPS,
            tooltip="Denoising steps: 8 for turbo, about 50 for base.",
        ),
        io.Float.Input(
            "shift",
            default=SAMPLING.shift,
            min=0.01,
            max=100.0,
            step=0.1,
            tooltip="Bends the schedule toward noise (above 1) or toward detail; turbo likes 3.",
        ),
        io.Float.Input(
            "denoise",
            default=SAMPLING.denoise,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="1 makes the music anew; less starts from the source and keeps more of it.",
        ),
        io.Int.Input(
            "seed",
            default=SAMPLING.seed,
            min=0,
            max=2**64 - 1,
            control_after_generate=seed_control,
            tooltip="Seed of the first generation's noise.",
        ),
        io.Int.Input(
            "seed_step",
            default=seed_step,
            min=0,
            max=2**32,
            tooltip="Added to the seed for each further generation.",
        ),
        io.Combo.Input(
            "solver",
            options=list(SOLVERS),
            default=SAMPLING.solver,
            optional=True,  # graphs saved in the API form before it existed still play
            tooltip="ode walks straight on; sde takes fresh noise at every step, of each generation's own seed.",
        ),
    ]
