"""Decodes a line of music window by window, each cross-faded into the next."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..audio.decode import Vae, hop_of, margin_frames
from .line import Line

FADE = 1  # frames over which two windows cross-fade: where a knob was turned, the old music goes into the new in 40 ms
# A frame's sound depends on 9 frames on each side. With 5, windows of the built-in model differ from the whole by less
# than -47 dB, and they take half the time on a CPU, where a margin costs as much as music does.
CPU_MARGIN = 5


def cross_fade(audio: NDArray[np.float32], before: NDArray[np.float32], lag: int = 0) -> None:
    """Fade from `before` into the start of `audio`, in place; the first `lag` samples are all of `before`."""
    reach = min(before.shape[1], audio.shape[1])
    rise = np.zeros(reach, np.float32)
    rise[lag:] = np.sin(np.linspace(0.0, np.pi / 2, reach - lag, dtype=np.float32)) ** 2
    audio[:, :reach] = audio[:, :reach] * rise + before[:, :reach] * (1.0 - rise)


class Windows:
    """The sound of a line, from window to window.

    Args:
        vae: the decoder; `LiveVae`, a TensorRT engine or the model's own.
    """

    def __init__(self, vae: Vae) -> None:
        self.vae, self.hop = vae, hop_of(vae)
        full = margin_frames(vae)
        self.margin = min(full, CPU_MARGIN) if vae.device.type == "cpu" else full
        self._fading: NDArray[np.float32] | None = None  # what the last window had behind its end

    def frames(self, count: int) -> int:
        """Count the frames that are decoded for a window, with those it fades into and the margins."""
        return max(count + FADE + 2 * self.margin, getattr(self.vae, "least", 1))

    def warm(self, frames: int) -> None:
        """Decode silence of a window's shape, so that a GPU has tried its kernels before music plays."""
        shape = (1, self.vae.config.decoder_input_channels, self.frames(frames))
        with torch.inference_mode():
            self.vae.decoder(torch.zeros(shape, device=self.vae.device, dtype=self.vae.dtype)).float().cpu()

    def forget(self) -> None:
        """Fade the next window from nothing: it does not go on where the last one ended."""
        self._fading = None

    def latents(self, line: Line, start: int, count: int) -> tuple[Tensor, int, int]:
        """Read what a window needs: its frames, those it fades into, and the margins. Hold the line's lock."""
        end = line.end
        stop = start + count + FADE if end is None else min(start + count + FADE, end)
        return line.window(start, stop, self.margin)

    def sound(self, given: tuple[Tensor, int, int], count: int) -> NDArray[np.float32]:
        """Decode what `latents` read: `[2, hop * count]`. Waits for the device."""
        latents, before, behind = given
        audio = self._decoded(latents)[:, before * self.hop : (latents.shape[0] - behind) * self.hop]
        head = audio[:, : count * self.hop]
        if self._fading is not None:
            cross_fade(head, self._fading)
        rest = audio[:, count * self.hop :]
        self._fading = rest if rest.shape[1] else None
        return head

    def _decoded(self, latents: Tensor) -> NDArray[np.float32]:
        short = getattr(self.vae, "least", 1) - latents.shape[0]
        if short > 0:  # what an engine takes at least; the last frame stands behind, and is cut off
            latents = torch.cat([latents, latents[-1:].expand(short, -1)])
        with torch.inference_mode():
            part = latents.T[None].to(self.vae.device, self.vae.dtype)
            decoded = self.vae.decoder(part)[0].float()
            if decoded.is_cuda:
                torch.cuda.current_stream(decoded.device).synchronize()  # before the copy, as `Maker` does
            audio = decoded.cpu().numpy()
        return audio[:, : audio.shape[1] - max(0, short) * self.hop].copy()
