"""The tempo of onset strengths: the period at which they repeat. Torch-free.

Onset strengths are `[frames]` float64, `FLUX_HZ` of them a second; periods are in frames.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

FLUX_HZ = 100  # onset strengths a second
MIN_BPM, MAX_BPM = 40.0, 240.0
LIKELY_BPM, SPREAD = 120.0, 0.9  # the tempo that people tap most, and octaves around it (Ellis 2007)

LEAST_BEATS = 4  # fewer are single strokes
REGULAR = 0.2  # least correlation from beat to beat: 0.21 in the freest of 105 clips with a beat, noise has up to 0.15
WEAK, STRONG = 0.05, 0.3  # of the strongest onset: three beats in four have the one, `LEAST_BEATS` the other

# A kick drum on each beat, measured on 200 synthetic patterns and 40 clips of the built-in model.
SLOWEST_KICK = 57.0  # beats a minute; slower is a bass note every other beat
REPEATS = 0.3  # least correlation of the low band from kick to kick
EVEN, ALIKE = 0.5, 0.65  # least ratio of weak to strong kicks, and of every other one to the rest: else it is the bass
# Most that the middle has between kicks: with a snare there the beat is twice as fast, the more so where the likely
# period says it too.
BACKBEAT, DOUBTED = 0.8, 0.52


def likely_period(flux: Array) -> float:
    """Return the frames from beat to beat: the peak of the autocorrelation, weighted toward tempi near 120.

    After D. Ellis, "Beat Tracking by Dynamic Programming", JNMR 36(1), 2007.
    """
    same = autocorrelation(flux)
    lags = np.arange(1, len(same))
    octaves = np.log2(60.0 * FLUX_HZ / lags / LIKELY_BPM) / SPREAD
    allowed = (lags >= 60.0 * FLUX_HZ / MAX_BPM) & (lags <= 60.0 * FLUX_HZ / MIN_BPM)
    weighted = np.where(allowed, same[1:] * np.exp(-0.5 * octaves**2), -np.inf)
    best = int(lags[np.argmax(weighted)])
    before, here, after = same[best - 1], same[best], same[min(best + 1, len(same) - 1)]
    if not before <= here >= after or before == after:  # no top of its own, as at the edge of what is allowed
        return float(best)
    return best + 0.5 * (before - after) / (before - 2.0 * here + after)  # the top of a parabola


def kick_period(low: Array, middle: Array, likely: float) -> float | None:
    """Return the shortest period at which the low band is struck evenly: a kick on each beat; None without one.

    It tells 128 from 64 and 60 from 120, which an autocorrelation cannot: at half the period only every other place is
    struck.

    Args:
        low, middle: onset strengths of the low band and of the one where a snare has its body.
        likely: the period that `likely_period` finds.
    """
    same = autocorrelation(low)
    top = np.flatnonzero((same[1:-1] >= same[:-2]) & (same[1:-1] > same[2:])) + 1
    shortest, longest = 60.0 * FLUX_HZ / MAX_BPM, 60.0 * FLUX_HZ / SLOWEST_KICK
    for lag in top[(top >= shortest) & (top <= longest) & (same[top] > REPEATS)]:
        period = _refined(same, float(lag))
        doubted = abs(period / likely - 2.0) < 0.1
        if _is_kick(low, middle, period, DOUBTED if doubted else BACKBEAT):
            return period
    return None


def is_regular(flux: Array, period: float, beats: Array) -> bool:
    """Return true where onsets repeat from beat to beat and most beats have one: it is music with a beat.

    Args:
        beats: frames of the beats that were found at this period.
    """
    struck = _near(flux, beats, 2)
    if np.count_nonzero(struck > STRONG * struck.max()) < LEAST_BEATS:
        return False
    same = autocorrelation(flux)
    same = same * len(flux) / np.arange(len(flux), 0, -1)  # what is left of the clip at each lag
    repeats = [np.interp(period * k, np.arange(len(same)), same) for k in (1, 2) if period * k < 0.8 * len(same)]
    return max(repeats, default=0.0) >= REGULAR and bool(np.percentile(struck, 25) >= WEAK * struck.max())


def autocorrelation(strengths: Array) -> Array:
    """Return the autocorrelation `[frames]` by lag, 1 at lag 0, of strengths less their mean."""
    from scipy.signal import correlate

    centred = strengths - strengths.mean()
    same = correlate(centred, centred, method="fft")[len(strengths) - 1 :]
    return same / (same[0] or 1.0)


def _is_kick(low: Array, middle: Array, period: float, backbeat: float) -> bool:
    beats = _phase(low, period) + period * np.arange(int(len(low) / period) + 1)
    width = max(2, int(period / 12))
    strong = _near(low, beats, width)
    played = np.flatnonzero(strong > 0.3 * np.median(strong))
    if len(played) < LEAST_BEATS:
        return False
    beats, strong = beats[played[0] : played[-1] + 1], strong[played[0] : played[-1] + 1]
    weak, loud = np.percentile(strong, [20, 80])
    turns = sorted((np.median(strong[::2]), np.median(strong[1::2])))
    off = beats + period / 2
    snare = np.percentile(_near(middle, beats, width), 75)
    return bool(
        weak >= EVEN * loud
        and turns[0] >= ALIKE * turns[1]
        and np.median(_near(middle, off, width)) <= backbeat * snare
    )


def _refined(same: Array, period: float) -> float:
    """Return a period more exactly, from the tops of the autocorrelation at 1, 2, 4, 8 and 16 of it."""
    for k in (1, 2, 4, 8, 16):
        if k * period + 2 < 0.8 * len(same):
            near = period + np.linspace(-1.5, 1.5, 21) / k
            period = float(near[np.argmax(np.interp(near * k, np.arange(len(same)), same))])
    return period


def _phase(strengths: Array, period: float) -> float:
    """Return the frame, less than a period, from which places one period apart are strongest."""
    bins = max(8, round(period))
    place = np.floor(np.arange(len(strengths)) % period / period * bins).astype(np.int64)
    folded = np.bincount(place, weights=strengths, minlength=bins)
    around = folded + np.roll(folded, 1) + np.roll(folded, -1)
    return (int(np.argmax(around)) + 0.5) / bins * period


def _near(strengths: Array, frames: Array, width: int) -> Array:
    """Return the largest strength within `width` frames of each of these frames that lies in the clip."""
    from scipy.ndimage import maximum_filter1d

    at = np.round(frames).astype(np.int64)
    at = at[(at >= 0) & (at < len(strengths))]
    return maximum_filter1d(strengths, 2 * width + 1, mode="constant")[at] if len(at) else np.zeros(1)
