"""Audio to latents: check it, bring it to the rate and channels of the model, encode it.

Audio is `[channels, samples]` float32; a latent is `[T, C]`.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager

import numpy as np
import torch
from scipy.signal import resample_poly
from torch import Tensor

from ..device.memory import guarded
from ..errors import AudioError
from ..models.loading import Model
from ..spec import ACE_STEP, ModelSpec

# Channels, in FFmpeg's order, and how much of each goes to the left and to the right: ITU-R BS.775, table 2, with what
# lies behind at the sides' level and without the subwoofer, scaled so that nothing clips, as FFmpeg's swresample does.
_HALF = math.sqrt(0.5)
_SURROUND = {
    5: ([1, 0, _HALF, _HALF, 0], [0, 1, _HALF, 0, _HALF]),  # left, right, centre, two behind
    6: ([1, 0, _HALF, 0, _HALF, 0], [0, 1, _HALF, 0, 0, _HALF]),  # 5.1: the subwoofer is the fourth
    8: ([1, 0, _HALF, 0, _HALF, 0, _HALF, 0], [0, 1, _HALF, 0, 0, _HALF, 0, _HALF]),  # 7.1: two at the sides too
}


def prepare_audio(waveform: Tensor, sample_rate: int, spec: ModelSpec = ACE_STEP) -> Tensor:
    """Check audio and bring it to the sample rate and channels of a model: 48 kHz stereo for ACE-Step.

    Args:
        waveform: `[channels, samples]` or `[1, channels, samples]`, mono or as many as the model's, any rate. For a
            stereo model also 5.0, 5.1 or 7.1, which are mixed down.
        sample_rate: Hz.
        spec: of the model.

    Returns:
        `[audio channels, samples]` float32 on the CPU; mono is copied to all channels.

    Raises:
        AudioError: for audio that is empty, silent, not finite, too long or of other channels.
    """
    audio = waveform.detach().to("cpu", torch.float32)
    if audio.ndim == 3 and audio.shape[0] == 1:
        audio = audio[0]
    if audio.ndim == 2 and spec.audio_channels == 2 and len(audio) in _SURROUND:
        audio = mix_down(audio)
    if audio.ndim != 2 or audio.shape[0] not in (1, spec.audio_channels):
        wide = {1: "mono", 2: "mono, stereo, 5.0, 5.1 or 7.1"}.get(
            spec.audio_channels, f"of 1 or {spec.audio_channels} channels"
        )
        given = f"the audio has shape {list(waveform.shape)}"
        raise AudioError(given, f"allowed is one clip, {wide}", "mix it down first")
    if not 1_000 <= sample_rate <= 768_000:
        raise AudioError(f"the sample rate is {sample_rate} Hz", "allowed is 1000 to 768000", "load the file again")
    if not 0 < audio.shape[1] <= spec.max_seconds * sample_rate:
        raise AudioError(
            f"the audio is {audio.shape[1] / sample_rate:g} s long",
            f"allowed is more than 0 and at most {spec.max_seconds} s",
            "give another clip or trim it",
        )
    if not bool(audio.isfinite().all()):
        raise AudioError("the audio holds NaN or infinity", "only finite samples are allowed", "export it again")
    if not bool(audio.any()):
        raise AudioError("the audio is silent", "a source or a reference must be audible", "check the file")
    if sample_rate != spec.sample_rate:
        common = math.gcd(spec.sample_rate, sample_rate)
        resampled = resample_poly(audio.numpy(), spec.sample_rate // common, sample_rate // common, axis=1)
        audio = torch.from_numpy(np.ascontiguousarray(resampled, dtype=np.float32))
    return audio.expand(spec.audio_channels, -1).contiguous()


def mix_down(audio: Tensor) -> Tensor:
    """Mix surround sound `[5, 6 or 8, samples]` down to stereo `[2, samples]`, float32: 5.0, 5.1 and 7.1."""
    shares = torch.tensor(_SURROUND[len(audio)], dtype=torch.float32)
    return (shares / shares.sum(dim=1, keepdim=True)) @ audio


@torch.inference_mode()
def encode_audio(model: Model, waveform: Tensor, sample_rate: int, seed: int = 0) -> Tensor:
    """Encode a source: `[T, C]` float32 on the model's device, `T = samples // hop` at the model's rate.

    The VAE's posterior is sampled, as the model's pipeline does; `seed` repeats the sample.

    Raises:
        AudioError: as `prepare_audio`, and for less than one frame.
        MemoryShortage: when the device has no room.
    """
    audio, hop = prepare_audio(waveform, sample_rate, model.spec), model.spec.hop
    if audio.shape[1] < hop:
        raise AudioError(f"the audio is {audio.shape[1]} samples long", f"one frame is {hop}", "give a longer clip")
    return _encode(model, audio, seed)


@torch.inference_mode()
def encode_timbre(model: Model, waveform: Tensor, sample_rate: int, seed: int = 0) -> Tensor:
    """Encode a timbre reference: 10 s each from its start, its second third and its end, `[750, 64]` float32.

    As in the model's pipeline, a clip under 30 s is repeated first, and the posterior is sampled.

    Raises:
        AudioError: as `prepare_audio`.
        MemoryShortage: when the device has no room.
    """
    audio = prepare_audio(waveform, sample_rate, model.spec)
    cut = 10 * model.spec.sample_rate
    audio = audio.repeat(1, math.ceil(3 * cut / audio.shape[1]))
    cuts = [audio[:, start : start + cut] for start in (0, audio.shape[1] // 3, audio.shape[1] - cut)]
    return _encode(model, torch.cat(cuts, dim=1), seed)


def _encode(model: Model, audio: Tensor, seed: int) -> Tensor:
    """Sample the posterior with a generator of its own: `[T, C]` float32."""
    model.ready()
    vae = model.pipe.vae
    generator = torch.Generator(vae.device).manual_seed(seed)
    with _room(model):
        posterior = vae.encode(audio[None].to(vae.device, vae.dtype)).latent_dist
        return posterior.sample(generator)[0].T.float().contiguous()


def _room(model: Model) -> AbstractContextManager[None]:
    return guarded(
        f"encoding audio found no room on {model.device}",
        "the VAE's workspace grows with the clip",
        "give a shorter clip, or unload other models",
    )
