"""Runs generations through the ring."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..engine_runtime.config import SOLVERS, Sampling, StreamConfig
from ..engine_runtime.constants import MAX_DEPTH, MAX_STEPS
from .shared import control_values, host, layout, sockets
from .shared.comfy import io

if TYPE_CHECKING:
    from pathlib import Path

    from ..engine_runtime.controls.automation import Track
    from ..engine_runtime.engines.contract import Engine
    from ..engine_runtime.stream.request import Condition, Part
    from .shared.control_values import Fields
    from .shared.given import Conditioning, Latent, Patcher

SAMPLING, STREAM = Sampling(), StreamConfig()


class StreamDenoise(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OstinatoStreamDenoise",
            display_name="Stream Denoise (Ostinato)",
            category=sockets.CATEGORY,
            description="Make several generations in a ring: each tick advances all that are in flight by one step.",
            search_aliases=["ostinato", "sampler", "ring", "stream"],
            inputs=[
                sockets.EngineOrModel.Input("engine", tooltip="From Engine, or ComfyUI's own MODEL of ACE-Step 1.5."),
                sockets.ConditionOrConditioning.Input(
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
                sockets.Guidance.Input("guidance", optional=True, tooltip="For base and SFT models; none is scale 1."),
                sockets.Knobs.Input("knobs", optional=True, tooltip="From Knobs, DCW, Channel Gain or Blend."),
                sockets.Shape.Input("shape", optional=True, tooltip="From Target, Mask or Initial Noise."),
                sockets.Tracks.Input(
                    "tracks", optional=True, tooltip="From Automation: knobs that turn while it plays."
                ),
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
                sockets.Adapters.Input("adapters", optional=True, tooltip="From LoRA, for an engine that takes them."),
            ],
            outputs=[
                io.Latent.Output(display_name="latents", tooltip="One per generation, in the order of their seeds."),
                sockets.Stats.Output(display_name="stats", tooltip="For Stream Stats."),
                sockets.Take.Output(display_name="take", tooltip="For Save Take: all that is needed to play it again."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        engine: Engine | Patcher,
        condition: Condition | tuple[Part, ...] | Conditioning,
        count: int,
        depth: int,
        seed_step: int,
        guidance: Fields | None = None,
        knobs: Fields | None = None,
        shape: Fields | None = None,
        tracks: tuple[Track, ...] | None = (),
        source: Latent | None = None,
        negative: Conditioning | None = None,
        adapters: tuple[tuple[Path, float], ...] = (),
        **fields: Any,
    ) -> io.NodeOutput:
        from ..engine_runtime.takes.render import record, seeds, take_batch
        from .shared import from_comfy

        decoder, sampling, tracks = from_comfy.engine_of(engine), Sampling(**fields), tracks or ()
        spec = decoder.spec
        sources = [] if source is None else layout.from_latent(source, "the source", spec)
        guided = control_values.needs_negative(guidance, tracks)
        conditions = from_comfy.condition_of(decoder, condition, negative, guided, sources)
        frames = from_comfy.frames_of(conditions)
        several = {
            "masks": None if source is None else layout.masks_of(source),
            "noises": from_comfy.batch_noise(source, seeds(sampling.seed, count, seed_step)),
            **control_values.sample_shape(shape, frames, spec),
        }
        start = control_values.sample_knobs(knobs, frames, spec)
        guide = control_values.sample_guidance(guidance, frames, spec)
        parts, masked = len(conditions) if isinstance(conditions, tuple) else 1, several["masks"] is not None
        control_values.check_used(start, guide, shape or {}, parts, tracks, masked)
        if several.get("mask") is not None:
            several["masks"] = [several.pop("mask")]
        requests = take_batch(
            conditions,
            sampling,
            count,
            seed_step,
            guide,
            sources,
            schedule=from_comfy.schedule_of(decoder, sampling),
            **several,
        )
        name, tick = f"node {cls.hidden.unique_id}", host.ticker(cls.hidden)
        mix = control_values.read_adapters(adapters, decoder.targets)
        latents, stats, take = record(name, decoder, requests, depth, tick, start, tracks, mix)
        return io.NodeOutput(layout.to_latent(latents, source), stats, take)


def _sampling() -> list[io.Input]:
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
