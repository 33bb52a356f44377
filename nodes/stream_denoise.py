"""Run generations through the ring."""

from ..engine_runtime.config import Sampling, StreamConfig
from ..engine_runtime.constants import MAX_DEPTH
from . import host, layout
from .comfy import io
from .types import CATEGORY, ConditionOrConditioning, EngineOrModel, Guidance, Stats

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
                    tooltip="From Encode Prompt or Stream Conditioning, or ComfyUI's own CONDITIONING, which plays on "
                    "a MODEL and takes its length from the source.",
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
            ],
            outputs=[
                io.Latent.Output(display_name="latents", tooltip="One per generation, in the order of their seeds."),
                Stats.Output(display_name="stats", tooltip="For Stream Stats."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        engine,
        condition,
        count,
        depth,
        steps,
        shift,
        denoise,
        seed,
        seed_step,
        guidance=None,
        source=None,
        negative=None,
    ) -> io.NodeOutput:
        from ..engine_runtime.render import render, seeds, take_batch
        from . import core

        sources = [] if source is None else layout.from_latent(source, "the source")
        player = core.engine_of(engine)
        played = core.condition_of(player, condition, negative, guidance, sources)
        sampling = Sampling(steps, shift, denoise, seed)
        masks = None if source is None else layout.masks_of(source)
        noises = core.batch_noise(source, seeds(seed, count, seed_step))
        schedule = core.schedule_of(player, sampling)
        requests = take_batch(played, sampling, count, seed_step, guidance, sources, masks, noises, schedule)
        latents, stats = render(f"node {cls.hidden.unique_id}", player, requests, depth, host.ticker(cls.hidden))
        return io.NodeOutput(layout.to_latent(latents, source), stats)


def _sampling() -> list:
    return [
        io.Int.Input(
            "steps", default=SAMPLING.steps, min=1, max=1000, tooltip="Denoising steps: 8 for turbo, about 50 for base."
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
    ]
