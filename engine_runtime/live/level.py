"""Loudness and peaks of live sound: the loudness of ITU-R BS.1770-4 is brought to one level, no peak passes a ceiling.

Loudness is the K-weighted power of the last 3 s (the short-term loudness of EBU Tech 3341), in LUFS. The gain follows
it slowly and rests while the music is near silence. A limiter that looks 5 ms ahead then holds sample peaks under the
ceiling: the smallest gain that the samples of the next hops need, released exponentially and averaged over as many
hops, so that it is there before the peak is (the look-ahead limiter of Giannoulis, Massberg and Reiss, JAES 60/6, 2012,
with a moving average for its attack).

Audio is `[2, samples]` float32 at 48 kHz, in blocks of whole hops.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray
from scipy.signal import sosfilt

SAMPLE_RATE = 48_000  # Hz, for which the standard gives its filters; a page plays at it too
TARGET = -16.0  # LUFS, as AES TD1004 asks of streams
CEILING = 10 ** (-1.0 / 20)  # -1 dBFS
QUIET = -50.0  # LUFS below which the gain rests, so that a pause is not pumped up
MOST, LEAST = 12.0, -24.0  # dB of gain
SILENT = -120.0  # LUFS before any sound
RATE = 3.0  # dB a second at most
SPAN = 3.0  # seconds of the loudness
HOP = 64  # samples of one gain of the limiter; a frame of sound has 30
AHEAD = 4  # hops
DELAY = HOP * AHEAD  # samples by which the output lags
RELEASE = math.exp(-HOP / (0.08 * SAMPLE_RATE))  # to 37 % in 80 ms

# The two filters of BS.1770-4 at 48 kHz: a shelf for the head, then a high-pass.
K_WEIGHTING = np.array(
    [
        [1.53512485958697, -2.69169618940638, 1.19839281085285, 1.0, -1.69065929318241, 0.73248077421585],
        [1.0, -2.0, 1.0, 1.0, -1.99004745483398, 0.99007225036621],
    ]
)
Audio = NDArray[np.float32]


class Level:
    """The loudness and the limiter of one sound; keeps state from block to block."""

    def __init__(self) -> None:
        self.gain = 0.0  # dB
        self.loudness = SILENT  # LUFS of the last 3 s before any gain; a plain number, for other threads read it
        self.limited = 0.0  # dB that the last block's highest peak was lowered by
        self._filter = np.zeros((2, 2, 2))
        self._powers: deque[tuple[int, float]] = deque()  # samples and their K-weighted energy
        self._measured = False
        self._late = np.zeros((2, DELAY), np.float32)
        self._needed = np.ones(AHEAD)  # gains of the hops that are held back
        self._lows = np.ones(AHEAD)  # the last smallest gains, released
        self._last = 1.0  # gain at the end of the last block

    def shape(self, audio: Audio) -> Audio:
        """Bring a block to the level. What comes out is `DELAY` samples late."""
        self._measure(audio)
        before, seconds = self.gain, audio.shape[1] / SAMPLE_RATE
        if self.loudness > QUIET:
            wanted = min(MOST, max(LEAST, TARGET - self.loudness))
            step = RATE * seconds if self._measured else math.inf  # the first music is at its level at once
            self.gain = before + min(step, max(-step, wanted - before))
            before = before if self._measured else self.gain
            self._measured = True
        ramp = np.linspace(before, self.gain, audio.shape[1], endpoint=False, dtype=np.float32)
        return self._limit(audio * np.float32(10) ** (ramp / np.float32(20)))

    def _measure(self, audio: Audio) -> None:
        weighted, self._filter = sosfilt(K_WEIGHTING, audio.astype(np.float64), axis=1, zi=self._filter)
        self._powers.append((audio.shape[1], float(np.square(weighted).sum())))
        while sum(n for n, _ in self._powers) > SPAN * SAMPLE_RATE:
            self._powers.popleft()
        samples, energy = sum(n for n, _ in self._powers), sum(e for _, e in self._powers)
        self.loudness = -0.691 + 10 * math.log10(max(energy / samples, 1e-12)) if samples else SILENT

    def _limit(self, audio: Audio) -> Audio:
        peaks = np.abs(audio).max(axis=0).reshape(-1, HOP).max(axis=1)
        needed = np.minimum(1.0, CEILING / np.maximum(peaks, 1e-9))
        line = np.concatenate([self._needed, needed])  # of the hops held back, then of the new ones
        lows = np.lib.stride_tricks.sliding_window_view(line, AHEAD + 1).min(axis=1)
        held, released = self._lows[-1], []
        for low in lows.tolist():
            held = min(low, 1.0 - (1.0 - held) * RELEASE)
            released.append(held)
        line_of_lows = np.concatenate([self._lows, released])
        # gains[i] ends hop i: the mean of AHEAD minima, each of which looked at that hop and at the one after
        gains = np.lib.stride_tricks.sliding_window_view(line_of_lows, AHEAD).mean(axis=1)[1:]
        steps = np.concatenate([[self._last], gains])
        curve = np.interp(np.arange(audio.shape[1]) / HOP, np.arange(len(steps)), steps).astype(np.float32)
        late = np.concatenate([self._late, audio], axis=1)
        self._late, self._needed = late[:, -DELAY:], line[-AHEAD:]
        self._lows, self._last = line_of_lows[-AHEAD:], float(gains[-1])
        self.limited = -20 * math.log10(float(curve.min()))
        return late[:, : audio.shape[1]] * curve
