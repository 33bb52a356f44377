"""Held-out prompts on the built-in model, their velocities, and distances between what is made of them.

N pieces, T frames of C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...engine_runtime.audio.decode import decode
from ...engine_runtime.models.conditioning import encode_prompt
from ...engine_runtime.models.engines import eager_engine
from ...engine_runtime.models.loading import load, pick_device
from ...engine_runtime.models.prompt import Prompt
from ...engine_runtime.stream.prepared import noise
from ..tiny.judge import asked_of, held_out

SEED = 100  # of the first piece's noise; the next has the next
WINDOWS = (2048, 1024, 512)  # samples of the spectra
FLOOR = 1e-3  # of spectral magnitudes, about -100 dB under full scale at 2048 samples


class Pieces:
    """Prompts that no training had, each with its noise.

    Args:
        name: of the model, `tiny` or `tiny-base`.
        count: N.
        seconds: of each piece; one number for all.
        device: cpu or cuda.
    """

    def __init__(
        self, name: str, count: int, seconds: float, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        self.model = load(name, pick_device(device), dtype)
        self.engine = eager_engine(self.model, max_rows=2 * count)
        self.pieces = held_out(count)
        self.asked = asked_of(self.pieces)
        self.conditions = [
            encode_prompt(
                self.model,
                Prompt(a["tags"], bpm=p.bpm, key=p.key, time_signature=str(p.metre), seconds=seconds),
            )
            for p, a in zip(self.pieces, self.asked, strict=True)
        ]
        self.frames = self.conditions[0].frames

    def noise(self, offset: int = 0) -> Tensor:
        """Draw the starting noise `[N, T, C]`; another offset is another seed for every piece."""
        drawn = [noise(SEED + offset + n, self.frames, self.engine.spec.channels) for n in range(len(self.pieces))]
        return torch.stack(drawn).to(self.engine.device)

    def sound(self, latent: Tensor) -> Tensor:
        """Decode a piece `[T, C]` to `[2, samples]`, on its device."""
        return decode(self.model.pipe.vae, latent[None], window=50)[0]


def relative(a: Tensor, b: Tensor) -> float:
    """Compute `|a - b| / |b|`."""
    return float((a - b).norm() / b.norm())


def spectral(a: Tensor, b: Tensor) -> float:
    """Compare `[2, samples]` by multi-resolution STFT: the mean absolute difference of log magnitudes in dB, over
    `WINDOWS`, a hop of a quarter each.
    """
    found = []
    for size in WINDOWS:
        window = torch.hann_window(size, device=a.device)
        x, y = (torch.stft(v, size, size // 4, window=window, return_complex=True).abs() for v in (a, b))
        found.append((20.0 * (x.clamp_min(FLOOR).log10() - y.clamp_min(FLOOR).log10())).abs().mean())
    return float(torch.stack(found).mean())
