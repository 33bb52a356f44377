"""Runs generations through the ring."""

from ..engine_runtime.config import SOLVERS, Sampling, StreamConfig
from ..engine_runtime.constants import MAX_DEPTH, MAX_STEPS
from .shared import carried, host, layout
from .shared.comfy import io
from .shared.types import (
    CATEGORY,
    Adapters,
    ConditionOrConditioning,
    EngineOrModel,
    Guidance,
    Knobs,
    Shape,
    Stats,
    Take,
    Tracks,
)

SAMPLING, STREAM = Sampling(), StreamConfig()


class StreamDenoise(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OstinatoStreamDenoise",
            display_name="Stream Denoise (Ostinato)",
            category=CATEGORY,
            description="Make several generations in a ring: each tick advances all that are in flight by one step.",
            search_aliases=["ostinato", "sampler", "ring", "stream"],
            inputs=[
                EngineOrModel.Input("engine", tooltip="From Engine, or ComfyUI's own MODEL of ACE-Step 1.5."),
                ConditionOrConditioning.Input(
                    "condition",
                    tooltip="From Encode Prompt, Stream Conditioning or Combine Conditions, or ComfyUI's own "
                    "CONDITIONING, which plays on a MODEL and takes its length from the source.",
                ),
                io.Int.Input("count", default=4, min=1, max=256, tooltip="How many generations to make."),
                io.Int.Input(
                    "depth",
                    default=STREAM.depth,
                    min=1,
                    max=MAX_DEPTH,
                    tooltip="Generations in flight at once. Engine shows the largest that runs in one pass.",
                ),
                *_sampling(),
                Guidance.Input("guidance", optional=True, tooltip="For base and SFT models; none is scale 1."),
                Knobs.Input("knobs", optional=True, tooltip="From Knobs, DCW, Channel Gain or Blend."),
                Shape.Input("shape", optional=True, tooltip="From Target, Mask or Initial Noise."),
                Tracks.Input("tracks", optional=True, tooltip="From Automation: knobs that turn while it plays."),
                io.Latent.Input(
                    "source",
                    optional=True,
                    tooltip="What a denoise below 1 starts from, and what a noise mask keeps; one, or one per "
                    "generation. Several take their noise as ComfyUI draws it for a batch.",
                ),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="With Guidance on a CONDITIONING: what to move away from; none is the model's own null.",
                ),
                Adapters.Input("adapters", optional=True, tooltip="From LoRA, for an engine that takes them."),
            ],
            outputs=[
                io.Latent.Output(display_name="latents", tooltip="One per generation, in the order of their seeds."),
                Stats.Output(display_name="stats", tooltip="For Stream Stats."),
                Take.Output(display_name="take", tooltip="For Save Take: all that is needed to play it again."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        engine,
        condition,
        count: int,
        depth: int,
        seed_step: int,
        guidance=None,
        knobs=None,
        shape=None,
        tracks=(),
        source=None,
        negative=None,
        adapters=(),
        **sampling,
    ) -> io.NodeOutput:
        from ..engine_runtime.takes.render import record, seeds, take_batch
        from .shared import from_comfy

        player, walk, tracks = from_comfy.engine_of(engine), Sampling(**sampling), tracks or ()
        spec = player.spec
        sources = [] if source is None else layout.from_latent(source, "the source", spec)
        what = from_comfy.condition_of(player, condition, negative, carried.wants_negative(guidance, tracks), sources)
        frames = from_comfy.frames_of(what)
        several = {
            "masks": None if source is None else layout.masks_of(source),
            "noises": from_comfy.batch_noise(source, seeds(walk.seed, count, seed_step)),
            **carried.shape_of(shape, frames, spec),
        }
        turned, guide = carried.knobs_of(knobs, frames, spec), carried.guidance_of(guidance, frames, spec)
        parts = len(what) if isinstance(what, tuple) else 1
        carried.check_heard(turned, guide, shape or {}, parts, tracks, several["masks"] is not None)
        if several.get("mask") is not None:
            several["masks"] = [several.pop("mask")]
        requests = take_batch(
            what,
            walk,
            count,
            seed_step,
            guide,
            sources,
            schedule=from_comfy.schedule_of(player, walk),
            **several,
        )
        name, tick = f"node {cls.hidden.unique_id}", host.ticker(cls.hidden)
        mix = carried.mix_of(adapters, player.targets)
        latents, stats, take = record(name, player, requests, depth, tick, turned, tracks, mix)
        return io.NodeOutput(layout.to_latent(latents, source), stats, take)


def _sampling() -> list:
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
            control_after_generate=True,
            tooltip="Seed of the first generation's noise.",
        ),
        io.Int.Input(
            "seed_step", default=1, min=0, max=2**32, tooltip="Added to the seed for each further generation."
        ),
        io.Combo.Input(
            "solver",
            options=list(SOLVERS),
            default=SAMPLING.solver,
            optional=True,  # graphs saved in the API form before it existed still play
            tooltip="ode walks straight on; sde takes fresh noise at every step, of each generation's own seed.",
        ),
    ]
