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
    """The number of a correction, as in `BY`."""
    return 1 if mode == "pix" else 2 + WAVELETS.index(wavelet)


@dataclass(frozen=True)
class Filters:
    """Taps of an orthogonal wavelet, low band then high: to the bands, and back."""

    down: tuple[tuple[float, ...], tuple[float, ...]]
    up: tuple[tuple[float, ...], tuple[float, ...]]

    @property
    def taps(self) -> int:
        return len(self.down[0])

    def coefficients(self, frames: int) -> int:
        """W for T frames, with zeros around them."""
        return (frames + self.taps - 1) // 2


@cache
def filters(name: str) -> Filters:
    wavelet = pywt.Wavelet(name)
    return Filters((tuple(wavelet.dec_lo), tuple(wavelet.dec_hi)), (tuple(wavelet.rec_lo), tuple(wavelet.rec_hi)))


def to_band(curve: np.ndarray, wavelet: Filters) -> np.ndarray:
    """A curve `[T]` at the middle of each coefficient's frames, `[W]`; joined by lines, edges held."""
    middle = 2.0 * np.arange(wavelet.coefficients(len(curve))) + 1.0 - (wavelet.taps - 1) / 2
    return np.interp(middle, np.arange(len(curve)), curve).astype(np.float32)


def split(x: Tensor, wavelet: Filters) -> tuple[Tensor, Tensor]:
    """Low and high band of `[D, T, C]` over time, `[D, W, C]` each: `sum_j h_j x[2k + 1 - j]`, zeros outside."""
    taps, count = wavelet.taps, wavelet.coefficients(x.shape[1])
    padded = pad(x, (0, 0, taps - 2, 2 * count - x.shape[1]))
    shifts = [padded[:, taps - 1 - j : taps - 2 - j + 2 * count : 2] for j in range(taps)]
    low, high = (_weighted(shifts, band) for band in wavelet.down)
    return low, high


def join(low: Tensor, high: Tensor, wavelet: Filters, frames: int) -> Tensor:
    """The inverse of `split`: `[D, T, C]`."""
    half, count = wavelet.taps // 2, (frames + 1) // 2
    shifts = [band[:, half - 1 - i : half - 1 - i + count] for band in (low, high) for i in range(half)]
    phases = [_weighted(shifts, [*wavelet.up[0][phase::2], *wavelet.up[1][phase::2]]) for phase in (0, 1)]
    return torch.stack(phases, dim=2).flatten(1, 2)[:, :frames]


def corrected(x: Tensor, x0: Tensor, low: Tensor, high: Tensor, t: Tensor, wavelet: Filters, on: Tensor) -> Tensor:
    """Each band of `x` pushed away from that of `x0`: `+ t * f_low` and `+ (1 - t) * f_high` of their difference.

    The bands are linear, so one transform of the difference is enough.

    Args:
        x: state after the step, `[D, T, C]`.
        x0: the prediction that the step was taken toward.
        low, high: factors per coefficient, `[D, W, 1]`.
        t: sigma before the step, `[D, 1, 1]`.
        on: `[D, 1, 1]` bool.
    """
    slow, fast = split(x - x0, wavelet)
    return torch.where(on, x + join(slow * (t * low), fast * ((1.0 - t) * high), wavelet, x.shape[1]), x)


def corrected_whole(x: Tensor, x0: Tensor, factor: Tensor, on: Tensor) -> Tensor:
    """`x + f * (x - x0)` where `on`, `f` `[D, T, 1]`: mode pix, without bands."""
    return torch.where(on, x + factor * (x - x0), x)


def _weighted(parts: list[Tensor], weights: tuple[float, ...] | list[float]) -> Tensor:
    total = parts[0] * weights[0]
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        total = torch.add(total, part, alpha=weight)
    return total
