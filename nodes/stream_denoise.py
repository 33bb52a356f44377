"""Run generations through the ring."""

from ..engine_runtime.config import Sampling, StreamConfig
from ..engine_runtime.constants import MAX_DEPTH
from . import host, layout
from .comfy import io
from .types import CATEGORY, Condition, Engine, Guidance, Stats

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
                Engine.Input("engine", tooltip="From Engine."),
                Condition.Input("condition", tooltip="From Encode Prompt."),
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
                    "source", optional=True, tooltip="What a denoise below 1 starts from; one, or one per generation."
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
        cls, engine, condition, count, depth, steps, shift, denoise, seed, seed_step, guidance=None, source=None
    ) -> io.NodeOutput:
        from ..engine_runtime.render import render, take_batch

        node = cls.hidden.unique_id
        sources = [] if source is None else layout.from_latent(source, "the source")
        requests = take_batch(condition, Sampling(steps, shift, denoise, seed), count, seed_step, guidance, sources)

        def tick(done: int, total: int) -> None:
            host.check_cancelled()
            host.progress(done, total, node)

        latents, stats = render(f"node {node}", engine, requests, depth, tick)
        return io.NodeOutput(layout.to_latent(latents), stats)


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
