"""The one place where ComfyUI's layouts meet the runtime's: `[B, 64, T]` latents here, `[T, 64]` each there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...engine_runtime.constants import LATENT_DIM, SAMPLE_RATE
from ...engine_runtime.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


def to_latent(latents: list[Tensor], like: dict[str, Any] | None = None) -> dict[str, Any]:
    """`[T, 64]` latents to a LATENT batch, on the CPU as ComfyUI keeps them, with whatever else `like` carries."""
    import torch

    samples = torch.stack([x.T for x in latents]).float().cpu().contiguous()
    kept = {k: v for k, v in (like or {}).items() if k != "batch_index" or len(v) == len(latents)}
    return {"type": "audio", **kept, "samples": samples}


def clips(batch: Tensor) -> list[Tensor]:
    """`[B, 64, T]` to `[T, 64]` float32 each."""
    return [x.T.contiguous() for x in batch.float()]


def from_latent(latent: dict[str, Any], name: str) -> list[Tensor]:
    """A LATENT batch to `[T, 64]` latents."""
    samples = latent["samples"]
    if samples.ndim != 3 or samples.shape[1] != LATENT_DIM or 0 in samples.shape:
        raise InputError(
            f"{name} has shape {list(samples.shape)}",
            f"an ACE-Step 1.5 latent is [batch, {LATENT_DIM}, frames]",
            "connect Source Audio, Stream Denoise or an ACE-Step 1.5 latent node",
        )
    return clips(samples)


def masks_of(latent: dict[str, Any]) -> list[Tensor] | None:
    """The noise mask of a LATENT batch as `[T, 64]` each, 1 where music is made anew, reshaped as ComfyUI does it."""
    mask = latent.get("noise_mask")
    if mask is None:
        return None
    import comfy.utils

    samples = latent["samples"]
    if mask.ndim == 4 and mask.shape[2] == 1:  # as Set Latent Noise Mask leaves a mask of height 1
        mask = mask[:, :, 0]
    if mask.ndim != 3 or mask.shape[1] > LATENT_DIM:
        raise InputError(
            f"the noise mask has shape {list(mask.shape)}",
            "music has one dimension, so a mask is [batch, 1, any length] or an image of height 1",
            "make the mask 1 high and as wide as the latent is long",
        )
    return clips(comfy.utils.reshape_mask(mask, samples.shape).expand_as(samples))


def noises_of(latent: dict[str, Any], noise: Any) -> list[Tensor]:
    """The noise that a NOISE makes for a LATENT batch, `[T, 64]` each; it sees to the batch index."""
    return clips(noise.generate_noise(latent))


def unmasked(latent: dict[str, Any], name: str) -> list[Tensor]:
    """A LATENT batch whose noise mask, if any, could not be played here."""
    if latent.get("noise_mask") is not None:
        raise InputError(f"{name} carries a noise mask", "only Stream Denoise plays masks", "connect it there")
    return from_latent(latent, name)


def single(latent: dict[str, Any], name: str) -> Tensor:
    """A LATENT of one clip to `[T, 64]`."""
    latents = unmasked(latent, name)
    if len(latents) != 1:
        raise InputError(f"{name} holds {len(latents)} clips", "allowed is one", "choose one of the batch")
    return latents[0]


def to_audio(waveform: Tensor) -> dict[str, Any]:
    """`[B, 2, samples]` at 48 kHz to AUDIO."""
    return {"waveform": waveform.float().cpu().contiguous(), "sample_rate": SAMPLE_RATE}


def from_audio(audio: dict[str, Any] | None, name: str) -> tuple[Tensor, int]:
    """AUDIO to (`[channels, samples]`, Hz); it must hold one clip."""
    if audio is None:
        raise InputError(f"{name} is empty", "a clip is needed", "choose an audio file")
    waveform = audio["waveform"]
    if waveform.ndim != 3 or waveform.shape[0] != 1:
        raise InputError(f"{name} has shape {list(waveform.shape)}", "allowed is one clip", "choose one of the batch")
    return waveform[0], int(audio["sample_rate"])
