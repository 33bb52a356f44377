"""Replaces SamplerCustomAdvanced: the same inputs, played by the ring."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..engine_runtime.config import StreamConfig
from ..engine_runtime.constants import MAX_DEPTH
from .shared import control_values, from_comfy, host, layout, rescue, sockets
from .shared.comfy import io

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from ..engine_runtime.controls.automation import Track
    from .shared.control_values import Fields
    from .shared.given import Guider, Latent, Noise, Sampler


class StreamSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OstinatoStreamSampler",
            display_name="Stream Sampler (Ostinato)",
            category=sockets.CATEGORY,
            description="Put it where SamplerCustomAdvanced was: the ring plays the batch. The sampler must be euler. "
            "A CFG other than 1 is adaptive projected guidance over time, as the ACE-Step base model has it; "
            "ComfyUI's plain CFG, and its APG node, which reduces over other axes, sound different.",
            search_aliases=["ostinato", "SamplerCustomAdvanced", "sampler"],
            inputs=[
                io.Noise.Input("noise", tooltip="From Random Noise; it draws for the whole batch."),
                io.Guider.Input("guider", tooltip="From Basic Guider or CFG Guider."),
                io.Sampler.Input("sampler", tooltip="euler, from KSampler Select."),
                io.Sigmas.Input("sigmas", tooltip="From a scheduler; they must end at 0."),
                io.Latent.Input("latent_image", tooltip="Its length and batch, source and noise mask are used."),
                io.Int.Input(
                    "depth", default=StreamConfig.depth, min=1, max=MAX_DEPTH, tooltip="Generations in flight at once."
                ),
                sockets.Knobs.Input("knobs", optional=True, tooltip="From Knobs, DCW or Channel Gain."),
                sockets.Tracks.Input(
                    "tracks", optional=True, tooltip="From Automation: knobs that turn while it plays."
                ),
                sockets.Adapters.Input(
                    "adapters", optional=True, tooltip="From LoRA; upstream of the MODEL works too."
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="output", tooltip="The batch."),
                io.Latent.Output(display_name="denoised_output", tooltip="The same: the ring ends at sigma 0."),
                sockets.Stats.Output(display_name="stats", tooltip="For Stream Stats."),
                sockets.Take.Output(display_name="take", tooltip="For Save Take."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        noise: Noise,
        guider: Guider,
        sampler: Sampler,
        sigmas: Tensor,
        latent_image: Latent,
        depth: int,
        knobs: Fields | None = None,
        tracks: tuple[Track, ...] | None = (),
        adapters: tuple[tuple[Path, float], ...] = (),
    ) -> io.NodeOutput:
        from ..engine_runtime.takes.render import record

        engine, requests = from_comfy.sampler_requests(noise, guider, sampler, sigmas, latent_image)
        start, tracks = control_values.sample_knobs(knobs, requests[0].frames, requests[0].spec), tracks or ()
        control_values.check_used(start, requests[0].guidance, {}, 1, tracks, False)
        name, tick = f"node {cls.hidden.unique_id}", host.ticker(cls.hidden)
        mix = control_values.read_adapters(adapters, engine.targets)
        latents, stats, take = record(
            name, engine, requests, depth, tick, start, tracks, mix, rescue.keeps(engine, cls.hidden)
        )
        made = layout.to_latent(latents, latent_image)
        return io.NodeOutput(made, made, stats, take)
