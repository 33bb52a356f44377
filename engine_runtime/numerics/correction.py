"""Differential correction in the wavelet domain (DCW, arXiv 2604.16044, equations 18 to 21; as in ACE-Step 0.1.7).

D slots, T frames, C = 64 channels; W wavelet coefficients over time. The filters are PyWavelets'; the transform itself
is written as slices and sums of them, so that it runs on the ring's device, takes a factor per slot and coefficient,
and rounds a slot the same whatever its neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pywt
import torch
from torch import Tensor
from torch.nn.functional import pad

from ..controls.knobs import WAVELETS

# Every way to correct, by its number, from 1: a wavelet, or None for mode pix, which has no bands. The other modes
# differ in their factors only.
BY: dict[int, str | None] = dict(enumerate((None, *WAVELETS), start=1))


def number_of(mode: str, wavelet: str) -> int:
    """Return the number of a correction, its key in `BY`."""
    return 1 if mode == "pix" else 2 + WAVELETS.index(wavelet)


@dataclass(frozen=True)
class Filters:
    """Taps of an orthogonal wavelet, low band then high: `down` splits into bands, `up` joins them."""

    down: tuple[tuple[float, ...], tuple[float, ...]]
    up: tuple[tuple[float, ...], tuple[float, ...]]

    @property
    def taps(self) -> int:
        return len(self.down[0])

    def coefficients(self, frames: int) -> int:
        """Return W, the number of coefficients for T frames with zeros around them."""
        return (frames + self.taps - 1) // 2


@cache
def filters(name: str) -> Filters:
    """Read the taps of one of `WAVELETS` from PyWavelets."""
    wavelet = pywt.Wavelet(name)
    return Filters((tuple(wavelet.dec_lo), tuple(wavelet.dec_hi)), (tuple(wavelet.rec_lo), tuple(wavelet.rec_hi)))


def to_band(curve: np.ndarray, wavelet: Filters) -> np.ndarray:
    """Sample a curve `[T]` at the middle of each coefficient's frames: `[W]` float32.

    Values between frames are linear; beyond the first and last frame they are held.
    """
    middle = 2.0 * np.arange(wavelet.coefficients(len(curve))) + 1.0 - (wavelet.taps - 1) / 2
    return np.interp(middle, np.arange(len(curve)), curve).astype(np.float32)


def split(x: Tensor, wavelet: Filters) -> tuple[Tensor, Tensor]:
    """Split `[D, T, C]` over time into its low and high band, `[D, W, C]` each: `sum_j h_j x[2k + 1 - j]`, zeros
    outside.
    """
    taps, count = wavelet.taps, wavelet.coefficients(x.shape[1])
    padded = pad(x, (0, 0, taps - 2, 2 * count - x.shape[1]))
    shifts = [padded[:, taps - 1 - j : taps - 2 - j + 2 * count : 2] for j in range(taps)]
    low, high = (_weighted(shifts, band) for band in wavelet.down)
    return low, high


def join(low: Tensor, high: Tensor, wavelet: Filters, frames: int) -> Tensor:
    """Invert `split`; returns `[D, T, C]`."""
    half, count = wavelet.taps // 2, (frames + 1) // 2
    shifts = [band[:, half - 1 - i : half - 1 - i + count] for band in (low, high) for i in range(half)]
    phases = [_weighted(shifts, [*wavelet.up[0][phase::2], *wavelet.up[1][phase::2]]) for phase in (0, 1)]
    return torch.stack(phases, dim=2).flatten(1, 2)[:, :frames]


def corrected(x: Tensor, x0: Tensor, low: Tensor, high: Tensor, t: Tensor, wavelet: Filters, on: Tensor) -> Tensor:
    """Push each band of `x` away from that of `x0`: add `t * f_low` and `(1 - t) * f_high` of their difference.

    The transform is linear, so one transform of the difference is enough.

    Args:
        x: state after the step, `[D, T, C]`.
        x0: predicted clean latent, `[D, T, C]`: the network's own, or with a mask or target what the step goes to.
        low, high: `f_low` and `f_high`, a factor per coefficient, `[D, W, 1]`.
        t: sigma before the step, `[D, 1, 1]`.
        on: true where a slot is corrected, `[D, 1, 1]` bool; elsewhere `x` keeps its bits.
    """
    slow, fast = split(x - x0, wavelet)
    return torch.where(on, x + join(slow * (t * low), fast * ((1.0 - t) * high), wavelet, x.shape[1]), x)


def corrected_whole(x: Tensor, x0: Tensor, factor: Tensor, on: Tensor) -> Tensor:
    """Compute `x + f * (x - x0)` where `on`, with `f` `[D, T, 1]`: mode pix, which has no bands."""
    return torch.where(on, x + factor * (x - x0), x)


def _weighted(parts: list[Tensor], weights: tuple[float, ...] | list[float]) -> Tensor:
    total = parts[0] * weights[0]
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        total = torch.add(total, part, alpha=weight)
    return total
