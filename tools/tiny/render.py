"""Renders pieces at 48 kHz stereo through a General MIDI soundfont.

The figures were made with MuseScore General (Debian's `musescore-general-soundfont-small`, MIT; parts public domain or
CC0) through tinysoundfont (MIT). Neither is a dependency of the pack, and no audio of either is in it.
"""

from __future__ import annotations

import numpy as np
import tinysoundfont
from numpy.typing import NDArray
from scipy.signal import fftconvolve

from .composer import DRUM_CHANNEL, PANS, Piece

RATE = 48_000
LEVEL = 0.12  # RMS
ROOM_SECONDS, WET = 0.4, 0.09  # a short room: the dry sounds of a few instruments can be learnt nearly by heart
_KNEE, _TOP = 0.7, 0.28  # drums above the knee are bent, not clipped
_TOGETHER = 32  # samples: what is less than a millisecond apart sounds together


class Renderer:
    """A synthesizer that keeps its soundfont loaded."""

    def __init__(self, soundfont: str) -> None:
        self.synth = tinysoundfont.Synth(gain=-6.0, samplerate=RATE)
        self.font = self.synth.sfload(soundfont)
        self.room = _room()

    def render(self, p: Piece) -> NDArray[np.float32]:
        """Sound of a piece at `LEVEL`, float32 `[2, samples]`."""
        y = self._dry(p).T
        y = y + WET * fftconvolve(y, self.room, axes=1)[:, : y.shape[1]]
        y = y * (LEVEL / max(1e-6, float(np.sqrt(np.mean(y**2)))))
        over = np.abs(y) > _KNEE
        y[over] = np.sign(y[over]) * (_KNEE + _TOP * np.tanh((np.abs(y[over]) - _KNEE) / _TOP))
        return y.astype(np.float32)

    def _dry(self, p: Piece) -> NDArray[np.float32]:
        """`[samples, 2]`."""
        s = self.synth
        s.sounds_off()
        for channel, program in p.programs.items():
            s.program_select(channel, self.font, 0, program)
            s.control_change(channel, 10, PANS[channel])
        if p.drums:
            s.program_select(DRUM_CHANNEL, self.font, 128, p.kit, True)
        total, at = int(p.seconds * RATE), 0
        out = np.zeros((total, 2), np.float32)
        for when, velocity, channel, key in _events(p):
            when = min(when, total)
            if when - at >= _TOGETHER:
                out[at:when] = np.frombuffer(s.generate(when - at), np.float32).reshape(-1, 2)
                at = when
            if velocity:
                s.noteon(channel, key, velocity)
            else:
                s.noteoff(channel, key)
        if at < total:
            out[at:] = np.frombuffer(s.generate(total - at), np.float32).reshape(-1, 2)
        s.sounds_off()
        return out


_own: list[Renderer] = []


def start(soundfont: str) -> None:
    """Give this process its renderer."""
    _own[:] = [Renderer(soundfont)]


def rendered(p: Piece) -> NDArray[np.float32]:
    """Render with this process's renderer, float32 `[2, samples]`; `start` comes first."""
    return _own[0].render(p)


def _events(p: Piece) -> list[tuple[int, int, int, int]]:
    """(sample, velocity or 0 for an end, channel, key), in time. Drums ring out by themselves."""
    out = []
    for at, length, channel, key, velocity in p.notes:
        out.append((int(at * RATE), velocity, channel, key))
        if channel != DRUM_CHANNEL:
            out.append((int((at + length) * RATE), 0, channel, key))
    return sorted(out)


def _room() -> NDArray[np.float32]:
    """A decaying noise of energy 1 `[2, samples]`, with neither rumble nor hiss."""
    n = int(RATE * ROOM_SECONDS)
    t = np.arange(n) / n
    spectrum = np.fft.rfft(np.random.default_rng(100).standard_normal((2, n)) * np.exp(-6.9 * t))
    f = np.fft.rfftfreq(n, 1 / RATE)
    spectrum *= (f / (f + 150)) / (1 + (f / 5000) ** 2)
    response = np.fft.irfft(spectrum, n)
    return (response / np.sqrt((response**2).sum(1, keepdims=True))).astype(np.float32)
