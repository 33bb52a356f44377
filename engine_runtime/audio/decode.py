"""Latents to audio, whole or in windows, at the level of the VAE's output: loudness is not normalised per clip.

B clips, T frames of C channels, `hop` samples a frame: the VAE's own. ACE-Step 1.5 has 64 and 1920, at 48 kHz stereo.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..device.memory import guarded
from ..device.workers import is_large, workers
from ..errors import InputError, check_range
from ..stream.request import check_tensor


class Vae(Protocol):
    """A decoder of latents: the model's own autoencoder, its live decoder, or a TensorRT engine of it.

    Attributes:
        config: has `decoder_input_channels` C, `audio_channels` A and `sampling_rate` in Hz.
        upsampling_ratios: of its layers; their product is the samples of a frame.
    """

    config: Any
    upsampling_ratios: list[int]
    device: torch.device
    dtype: torch.dtype

    def decoder(self, latents: Tensor) -> Tensor:
        """Decode latents `[B, C, T]` to audio `[B, A, hop T]`, both in `dtype` on `device`."""
        ...


def hop_of(vae: Vae) -> int:
    """Count the samples of a frame."""
    return math.prod(vae.upsampling_ratios)


def margin_frames(vae: Vae) -> int:
    """Count the frames on each side that a decoded frame depends on: the reach of the decoder's layers, summed.

    To each side, an upsampling by `s` reaches one sample of its input, a block's residual units (kernel 7, dilations 1,
    3 and 9) reach 39 samples at their own rate, the first and last convolutions 3.
    """
    rate, reach = 1.0, 3.0  # samples per frame; frames
    for stride in vae.upsampling_ratios:
        reach += 1.0 / rate
        rate *= stride
        reach += 39.0 / rate
    return math.ceil(reach + 3.0 / rate)


@torch.inference_mode()
def decode(vae: Vae, latents: Tensor, window: int = 0, check: Callable[[], None] = lambda: None) -> Tensor:
    """Decode clips.

    Args:
        vae: the autoencoder, or a TensorRT engine of its decoder.
        latents: `[B, T, C]`.
        window: frames per window, which bounds the memory; 0 decodes the whole in one pass. On the CPU a small
            network's windows are decoded side by side, a thread each.
        check: called in this thread before each window, or each few that are decoded side by side, and between the
            layers where it decodes in one pass; what it raises ends the decode.

    Returns:
        `[B, A, hop * T]` float32 on the latents' device. A windowed decode equals the whole one up to rounding: each
            window is decoded together with the frames around it that it depends on.

    Raises:
        InputError: for latents that are not finite or have another width, or that no profile of an engine takes.
        MemoryShortage: when the device has no room.
    """
    check_tensor("the latent", latents, None, None, vae.config.decoder_input_channels)
    check_range("the window", window, 0, 1 << 30, "give the frames per window, or 0 for one pass")
    frames = latents.shape[1]
    if frames < 1:
        raise InputError("the latent has 0 frames", "at least one is needed", "connect one that holds music")
    with guarded(
        f"decoding {latents.shape[0]} clips of {frames} frames found no room on {latents.device}",
        "the VAE's workspace grows with the window",
        "decode in smaller windows",
    ):
        if not 0 < window < frames:
            with _between_layers(vae, check):
                return _run(vae, latents, 0, frames)
        hop = hop_of(vae)
        audio = torch.empty(latents.shape[0], vae.config.audio_channels, frames * hop, device=latents.device)

        def one(start: int) -> None:
            stop = min(frames, start + window)
            audio[:, :, start * hop : stop * hop] = _run(vae, latents, start, stop)

        windows = [partial(one, start) for start in range(0, frames, window)]
        if vae.device.type == "cpu" and not (isinstance(vae, nn.Module) and is_large(vae)):
            team = workers()
            for first in range(0, len(windows), team.count):
                check()
                team.each(windows[first : first + team.count])
        else:
            for decode_window in windows:
                check()
                decode_window()
        return audio


@contextmanager
def _between_layers(vae: Vae, check: Callable[[], None]) -> Iterator[None]:
    """Call `check` at once, and in this thread before each of a network's blocks; an engine has none to wait for."""
    check()
    blocks = getattr(vae.decoder, "block", ()) if isinstance(vae, nn.Module) else ()
    own = threading.get_ident()
    hooks = [b.register_forward_pre_hook(lambda *_: check() if threading.get_ident() == own else None) for b in blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def decode_clips(
    vae: Vae,
    clips: Sequence[Tensor],
    window: int = 0,
    check: Callable[[], None] = lambda: None,
    stopped: Callable[[Sequence[Tensor]], None] = lambda finished: None,
) -> Tensor:
    """Decode `[T, C]` clips of one length to `[B, A, samples]`, one at a time, so that memory is used for one.

    Args:
        check: as in `decode`.
        stopped: called with the clips that were finished, `[A, samples]` each, where `check` or the user ends it.

    Raises:
        InputError: for no clip, and as `decode`.
    """
    if not clips:
        raise InputError("0 clips were given to decode", "at least one is needed", "connect a latent that holds one")
    audio: list[Tensor] = []
    try:
        for clip in clips:
            audio.append(decode(vae, clip[None], window, check))
    except BaseException as error:
        if not isinstance(error, Exception) and audio:
            stopped([finished[0] for finished in audio])
        raise
    return torch.cat(audio)


def _run(vae: Vae, latents: Tensor, start: int, stop: int) -> Tensor:
    """Decode frames `start` to `stop`, together with those around them that they depend on or that an engine needs."""
    margin, least, hop = margin_frames(vae), getattr(vae, "least", 1), hop_of(vae)
    first, last = max(0, start - margin), min(latents.shape[1], stop + margin)
    last = min(latents.shape[1], max(last, first + least))
    first = max(0, min(first, last - least))
    part = latents[:, first:last].transpose(1, 2).to(vae.device, vae.dtype)
    audio = vae.decoder(part).float().to(latents.device)
    return audio[:, :, (start - first) * hop : (stop - first) * hop]
