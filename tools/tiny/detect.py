"""Hears of a clip, without a model, its tempo, key, flatness, silence and regularity. NumPy and SciPy only.

Clips are float `[2, samples]` at 48 kHz.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly, stft

RATE = 48_000
HOP = 512  # samples between onset frames
Audio = NDArray[np.floating]


def bands_of(y: Audio, size: int, hop: int, edges: NDArray) -> NDArray:
    """Power of bands over time, `[bands, frames]`, of mono `y`. A band is at least one bin wide."""
    f, _, z = stft(y, RATE, nperseg=size, noverlap=size - hop, padded=False)
    power, least = np.abs(z) ** 2, RATE / size * 1.02
    rows = [(f >= a) & (f < max(b, a + least)) for a, b in zip(edges, edges[1:], strict=False)]
    return np.stack([power[row].sum(0) for row in rows])


def onsets(y: Audio) -> NDArray:
    """Measure how much the spectrum of 48 bands rises in each of `RATE / HOP` frames a second."""
    bands = bands_of(y.mean(0), 2048, HOP, np.geomspace(40, 16000, 49))
    rise = np.maximum(np.diff(np.log10(1e-7 + bands), axis=1), 0).mean(0)
    second = RATE // HOP
    return np.maximum(rise - np.convolve(rise, np.ones(second) / second, "same"), 0)


def autocorrelation(x: NDArray) -> NDArray:
    """Of as many lags as `x` has values; 1 at lag 0, not biased against long lags."""
    n = len(x)
    found = np.fft.irfft(np.abs(np.fft.rfft(x - x.mean(), 2 * n)) ** 2)[:n]
    return found / (found[0] + 1e-12) * (n / np.maximum(n - np.arange(n), n // 4))


def tempo(y: Audio) -> float:
    """Beats a minute whose beat, half bar and bar are periods of the onsets; near 110 where several fit."""
    found, bpm = autocorrelation(onsets(y)), np.arange(30, 321, 0.5)
    lag = 60 * RATE / HOP / bpm
    score = sum(
        w * np.interp(lag * k, np.arange(len(found)), found, right=0) for k, w in ((1, 1.0), (2, 0.7), (4, 0.5))
    )
    return float(bpm[np.argmax(score * np.exp(-0.5 * (np.log2(bpm / 110) / 0.7) ** 2))])


def tempo_ok(found: float, asked: float, metre: int = 4) -> bool:
    """Within 4 %, half and double allowed, and thirds in 3/4."""
    steps = (0.5, 1, 2) + ((1 / 3, 3, 1.5, 2 / 3) if metre == 3 else ())
    return any(abs(found / (asked * k) - 1) < 0.04 for k in steps)


def regularity(y: Audio) -> float:
    """The onsets' highest autocorrelation at a period of 30 to 320 a minute: 1 is a metronome, 0 has no pulse."""
    found, rate = autocorrelation(onsets(y)), 60 * RATE / HOP
    return float(found[int(rate / 320) : int(rate / 30)].max())


def chroma(y: Audio) -> NDArray:
    """The share of each pitch class between 60 and 2000 Hz, `[12]`, from C."""
    found = chromagram(y).sum(1)
    return found / (found.sum() + 1e-12)


def chromagram(y: Audio) -> NDArray:
    """Measure how much of each pitch class there is from 60 to 2000 Hz: `[12, frames]`, nearly 6 frames a second."""
    f, _, z = stft(resample_poly(y.mean(0), 1, 4), RATE // 4, nperseg=8192, noverlap=6144, padded=False)
    keep = (f > 60) & (f < 2000)
    pitch, loud = 12 * np.log2(f[keep] / 440) + 69, np.sqrt(np.abs(z[keep]))
    near = np.abs(pitch - np.round(pitch)) < 0.3
    classes = (np.round(pitch[near]) % 12).astype(int)
    return np.eye(12)[:, classes] @ loud[near]


def chords_alike(one: NDArray, other: NDArray) -> float:
    """The mean correlation of two chromagrams, second by second: about 0 for other chords, 1 for the same sound."""
    n = min(one.shape[1], other.shape[1]) // 6 * 6
    parts = (c[:, :n].reshape(12, -1, 6).sum(2) for c in (one, other))
    a, b = ((p - p.mean(0)) / (p.std(0) + 1e-9) for p in parts)
    return float((a * b).mean())


def key(found: NDArray, major: NDArray, minor: NDArray) -> tuple[int, bool]:
    """Root (0 = C) and whether minor: the turned profile that a chroma resembles most."""
    fits = [
        (np.corrcoef(np.roll(profile, root), found)[0, 1], root, mode)
        for root in range(12)
        for profile, mode in ((major, False), (minor, True))
    ]
    return max(fits)[1:]


def key_ok(found: tuple[int, bool], root: int, minor: bool) -> str:
    """exact, relative (the same notes), fifth (one note off) or wrong."""
    if found == (root, minor):
        return "exact"
    one, other = ((r + 3 * m) % 12 for r, m in (found, (root, minor)))
    return "relative" if one == other else "fifth" if (one - other) % 12 in (5, 7) else "wrong"


def flatness(y: Audio) -> float:
    """Median spectral flatness from 50 Hz to 16 kHz: near 0.5 for noise, under 0.01 for most music."""
    f, _, z = stft(y.mean(0), RATE, nperseg=2048, noverlap=1024, padded=False)
    power = np.abs(z[(f > 50) & (f < 16000)]) ** 2 + 1e-12
    return float(np.median(np.exp(np.log(power).mean(0)) / power.mean(0)))


def silence(y: Audio) -> float:
    """The share of tenths of a second under -50 dBFS."""
    mono = y.mean(0)
    parts = mono[: len(mono) // 4800 * 4800].reshape(-1, 4800)
    return float((np.sqrt((parts**2).mean(1)) < 10 ** (-50 / 20)).mean())
