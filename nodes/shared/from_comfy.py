"""Converts ComfyUI's MODEL, CONDITIONING, NOISE, GUIDER and LATENT into engines, conditions and requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...engine_runtime.errors import InputError
from ...engine_runtime.numerics.schedule import total_steps
from . import layout

if TYPE_CHECKING:
    from torch import Tensor

    from ...engine_runtime.config import Sampling
    from ...engine_runtime.engines.contract import Engine
    from ...engine_runtime.stream.request import Condition, Part, Request
    from .given import Conditioning, Guider, Latent, Noise, Patcher, Sampler


def is_core_model(value: object) -> bool:
    return hasattr(value, "model_options") and hasattr(value, "patches")


def patcher_of(model: Patcher) -> Patcher:
    """Check that the stream can play a MODEL and return its patcher with the weights kept where they are loaded."""
    from ...engine_runtime.models.comfy_model import check_core, static

    check_core(model)
    return static(model)


def engine_of(value: Engine | Patcher) -> Engine:
    """Return an engine unchanged; wrap a MODEL in an engine that shares its weights."""
    if not is_core_model(value):
        return value
    from ...engine_runtime.models.comfy_model import CoreEngine

    return CoreEngine(value)


def condition_of(
    engine: Engine,
    condition: Condition | tuple[Part, ...] | Conditioning,
    negative: Conditioning | None,
    guided: bool,
    sources: list[Tensor],
) -> Condition | tuple[Part, ...]:
    """Return a condition unchanged; prepare a CONDITIONING with the MODEL's own code, at the length of the first
    source.

    Args:
        engine: what `engine_of` returned.
        guided: whether a negative condition is wanted.
        sources: `[T, C]` each.

    Raises:
        InputError: for a CONDITIONING without a MODEL or a source, or a negative beside a condition of the pack's own.
    """
    from ...engine_runtime.stream.request import Condition

    if isinstance(condition, Condition | tuple):
        if negative is not None:
            raise InputError(
                "a negative CONDITIONING is connected beside a condition of the pack's own",
                "that one has its negative inside",
                "disconnect it, or connect it to Stream Conditioning",
            )
        return condition
    patcher = getattr(engine, "patcher", None)
    if patcher is None:
        raise InputError(
            "a CONDITIONING is connected to an engine that was not made from a MODEL",
            "ComfyUI's CONDITIONING plays on ComfyUI's MODEL",
            "connect the MODEL, or use Encode Prompt",
        )
    if not sources:
        raise InputError(
            "a CONDITIONING is connected without a source",
            "its length comes from a LATENT",
            "connect Empty Ace Step 1.5 Latent Audio",
        )
    from ...engine_runtime.models.comfy_condition import core_condition

    return core_condition(patcher, condition, negative if guided else None, sources[0].shape[0])


def frames_of(condition: Condition | tuple[Part, ...]) -> int:
    return condition[0].condition.frames if isinstance(condition, tuple) else condition.frames


def schedule_of(engine: Engine, sampling: Sampling) -> tuple[float, ...] | None:
    """Return the sigmas of ComfyUI's `simple` scheduler for a MODEL; None lets the sampling use its own formula.

    Both agree where the total steps divide 1000, the size of ComfyUI's table; otherwise they differ by at most one
    entry.
    """
    if getattr(engine, "patcher", None) is None:
        return None
    import comfy.model_sampling
    import comfy.samplers

    table = comfy.model_sampling.ModelSamplingDiscreteFlow()
    table.set_parameters(shift=sampling.shift, multiplier=1.0)
    total = total_steps(sampling)
    if total > len(table.sigmas):  # the scheduler would repeat entries
        return None
    return tuple(comfy.samplers.simple_scheduler(table, total)[-(sampling.steps + 1) :].tolist())


def batch_noise(source: Latent | None, seeds: list[int]) -> list[Tensor] | None:
    """Draw noise as ComfyUI does for a batch: `[T, C]` each.

    Several latents share one draw from the first seed; one latent that was taken from a batch gets one draw per seed.
    Returns None where there is no batch: the request's own seed then gives the same noise.
    """
    if source is None or (source["samples"].shape[0] == 1 and "batch_index" not in source):
        return None
    samples, index = source["samples"], source.get("batch_index")
    drawn = [_noise(samples, seed, index) for seed in (seeds if len(samples) == 1 else seeds[:1])]
    return [clip for noise in drawn for clip in layout.clips(noise)]


def _noise(samples: Tensor, seed: int, index: list[int] | None) -> Tensor:
    """Draw ComfyUI's noise for a batch; without an index, one draw in the batch's shape."""
    import torch

    if index is None:
        return torch.randn(samples.shape, generator=torch.Generator().manual_seed(seed))
    import comfy.sample

    return comfy.sample.prepare_noise(samples, seed, index)


def sampler_requests(
    noise: Noise, guider: Guider, sampler: Sampler, sigmas: Tensor, latent: Latent
) -> tuple[Engine, list[Request]]:
    """Return the engine and the requests for SamplerCustomAdvanced's inputs.

    Raises:
        InputError: for a sampler other than plain euler, or a guider other than Basic and CFG.
    """
    from ...engine_runtime.config import NO_GUIDANCE, Guidance
    from ...engine_runtime.models.comfy_condition import core_condition
    from ...engine_runtime.models.comfy_model import CoreEngine
    from ...engine_runtime.numerics.schedule import explicit
    from ...engine_runtime.stream.request import Request

    check_sampler(sampler)
    conds = guider_conds(guider)
    sources, masks = layout.from_latent(latent, "the latent"), layout.masks_of(latent)
    guidance = Guidance(scale=float(guider.cfg)) if "negative" in conds and guider.cfg != 1.0 else NO_GUIDANCE
    engine = CoreEngine(guider.model_patcher)
    negative = conds["negative"] if guidance.active else None
    condition = core_condition(engine.patcher, conds["positive"], negative, sources[0].shape[0])
    schedule, noises = explicit(sigmas.tolist()), layout.noises_of(latent, noise)
    requests = [
        Request(
            condition,
            guidance=guidance,
            source=source,
            noise=fresh,
            schedule=schedule,
            mask=masks[i] if masks else None,
        )
        for i, (source, fresh) in enumerate(zip(sources, noises, strict=True))
    ]
    return engine, requests


def check_sampler(sampler: Sampler) -> None:
    name = getattr(getattr(sampler, "sampler_function", None), "__name__", type(sampler).__name__)
    extra = {**getattr(sampler, "extra_options", {}), **getattr(sampler, "inpaint_options", {})}
    if name != "sample_euler" or any(extra.values()):
        asked = ", ".join(f"{k}={v}" for k, v in extra.items() if v)
        raise InputError(
            f"the sampler is {name.removeprefix('sample_')}{f' with {asked}' if asked else ''}",
            "the ring steps with plain euler",
            "choose euler in KSampler Select",
        )


def guider_conds(guider: Guider) -> dict[str, Conditioning]:
    """Return `{"positive": CONDITIONING, "negative": CONDITIONING}` of a Basic Guider or CFG Guider.

    Raises:
        InputError: for any other guider.
    """
    if type(guider).__name__ not in ("Guider_Basic", "CFGGuider"):
        raise InputError(
            f"the guider is a {type(guider).__name__}", "allowed are Basic Guider and CFG Guider", "use one of them"
        )

    def entry(cond: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        rest = {k: v for k, v in cond.items() if k not in ("cross_attn", "model_conds", "uuid")}
        tokens: Any = cond.get("cross_attn")
        return tokens, rest

    return {name: [entry(c) for c in conds] for name, conds in guider.original_conds.items()}
