"""Runs generations through the ring."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..engine_runtime.config import Sampling
from .shared import control_values, host, layout, rescue, sockets
from .shared.comfy import io
from .shared.ring_inputs import ring_inputs

if TYPE_CHECKING:
    from pathlib import Path

    from ..engine_runtime.controls.automation import Track
    from ..engine_runtime.engines.contract import Engine
    from ..engine_runtime.stream.request import Condition, Part
    from .shared.control_values import Fields
    from .shared.given import Conditioning, Latent, Patcher


class StreamDenoise(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OstinatoStreamDenoise",
            display_name="Stream Denoise (Ostinato)",
            category=sockets.CATEGORY,
            description="Make several generations in a ring: each tick advances all that are in flight by one step.",
            search_aliases=["ostinato", "sampler", "ring", "stream"],
            inputs=ring_inputs(
                io.Int.Input("count", default=4, min=1, max=256, tooltip="How many generations to make."),
                seed_step=1,
                seed_control=True,
            ),
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
        control_values.warn_unguided(conditions, guide, start, tracks, cls.hidden)
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
        latents, stats, take = record(
            name, decoder, requests, depth, tick, start, tracks, mix, rescue.keeps(decoder, cls.hidden)
        )
        return io.NodeOutput(layout.to_latent(latents, source), stats, take)
