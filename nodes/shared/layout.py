"""Converts between ComfyUI's layouts and the runtime's: latents are `[B, C, T]` there and `[T, C]` each here."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

from ...engine_runtime.errors import InputError
from ...engine_runtime.spec import ACE_STEP, ModelSpec

if TYPE_CHECKING:
    from torch import Tensor

    from .given import Audio, Conditioning, Latent, Noise


def to_latent(latents: list[Tensor], like: Latent | None = None) -> Latent:
    """Stack `[T, C]` latents into a LATENT: float32 `[B, C, T]` on the CPU, with the other entries of `like`."""
    import torch

    samples = torch.stack([x.T for x in latents]).float().cpu().contiguous()
    kept, index = {**(like or {})}, like.get("batch_index") if like else None
    if index is not None and len(index) != len(latents):
        del kept["batch_index"]
    return cast("Latent", {"type": "audio", **kept, "samples": samples})  # with entries of other packs in it


def clips(batch: Tensor) -> list[Tensor]:
    """Split `[B, C, T]` into float32 `[T, C]` each."""
    return [x.T.contiguous() for x in batch.float()]


def from_latent(latent: Latent, name: str, spec: ModelSpec = ACE_STEP) -> list[Tensor]:
    """Split a LATENT into float32 `[T, C]` each.

    Args:
        spec: of the model that it is for.

    Raises:
        InputError: for any shape but `[B, C, T]`.
    """
    samples = latent["samples"]
    if samples.ndim != 3 or samples.shape[1] != spec.channels or 0 in samples.shape:
        raise InputError(
            f"{name} has shape {list(samples.shape)}",
            f"a latent of {spec.name} is [batch, {spec.channels}, frames]",
            "connect Source Audio, Stream Denoise or an ACE-Step 1.5 latent node",
        )
    return clips(samples)


def masks_of(latent: Latent) -> list[Tensor] | None:
    """Return the noise mask of a LATENT as `[T, C]` each, 1 where music is made anew, resized as ComfyUI does it.

    None where it has no mask.

    Raises:
        InputError: for a mask that is not `[B, C, T]` or an image of height 1.
    """
    mask = latent.get("noise_mask")
    if mask is None:
        return None
    import comfy.utils

    samples = latent["samples"]
    if mask.ndim == 4 and mask.shape[2] == 1:  # the shape Set Latent Noise Mask gives a mask of height 1
        mask = mask[:, :, 0]
    if mask.ndim != 3 or mask.shape[1] > samples.shape[1]:
        raise InputError(
            f"the noise mask has shape {list(mask.shape)}",
            "music has one dimension, so a mask is [batch, 1, any length] or an image of height 1",
            "make the mask 1 high and as wide as the latent is long",
        )
    return clips(comfy.utils.reshape_mask(mask, samples.shape).expand_as(samples))


def noises_of(latent: Latent, noise: Noise) -> list[Tensor]:
    """Draw the noise of a NOISE for a LATENT batch, `[T, C]` each; ComfyUI handles the batch index."""
    return clips(noise.generate_noise(latent))


def unmasked(latent: Latent, name: str, spec: ModelSpec = ACE_STEP) -> list[Tensor]:
    """Split a LATENT into `[T, C]` each, refusing one with a noise mask, which would be ignored here.

    Raises:
        InputError: for a noise mask or a wrong shape.
    """
    if latent.get("noise_mask") is not None:
        raise InputError(f"{name} carries a noise mask", "only Stream Denoise plays masks", "connect it there")
    return from_latent(latent, name, spec)


def single(latent: Latent, name: str, spec: ModelSpec = ACE_STEP) -> Tensor:
    """Return the only clip of a LATENT, `[T, C]`.

    Raises:
        InputError: for more than one clip, or a noise mask.
    """
    latents = unmasked(latent, name, spec)
    if len(latents) != 1:
        raise InputError(f"{name} holds {len(latents)} clips", "allowed is one", "choose one of the batch")
    return latents[0]


def to_audio(waveform: Tensor, sample_rate: int) -> Audio:
    """Wrap `[B, A, samples]` as AUDIO: float32, on the CPU."""
    return {"waveform": waveform.float().cpu().contiguous(), "sample_rate": sample_rate}


def from_audio(audio: Audio | None, name: str) -> tuple[Tensor, int]:
    """Return the only clip of an AUDIO, `[channels, samples]`, and its rate in Hz.

    Raises:
        InputError: for no clip or several.
    """
    if audio is None:
        raise InputError(f"{name} is empty", "a clip is needed", "choose an audio file")
    waveform = audio["waveform"]
    if waveform.ndim != 3 or waveform.shape[0] != 1:
        raise InputError(f"{name} has shape {list(waveform.shape)}", "allowed is one clip", "choose one of the batch")
    return waveform[0], int(audio["sample_rate"])


def codes_of(plan: Conditioning | str) -> list[int]:
    """Return the audio codes that ACE-Step's language model wrote: those in a CONDITIONING, or in text.

    Raises:
        InputError: where there are none, or several lists.
    """
    if isinstance(plan, str):
        found = [[int(number) for number in re.findall(r"<\|audio_code_(\d{1,9})\|>", plan)]]
    else:
        found = [list(codes) for _, more in plan for codes in more.get("audio_codes") or ()]
    if len(found) != 1 or not found[0]:
        raise InputError(
            f"the plan has {len(found)} lists of audio codes" if len(found) > 1 else "the plan has no audio codes",
            "one is needed, which Text Encode Ace Step Audio 1.5 writes with generate_audio_codes on",
            "switch that on there, or disconnect the codes",
        )
    return [int(code) for code in found[0]]
