"""Synthesise the example clip: a plucked minor arpeggio, 5 s, mono, 44.1 kHz. The clip is CC0.

python scripts/make_source.py
"""

from pathlib import Path

import numpy as np
import soundfile

RATE = 44_100
BEAT = 0.25  # s between notes
NOTES = (57, 60, 64, 69, 67, 64, 60, 64, 53, 57, 60, 65, 64, 60, 57, 60, 55, 59, 62, 67)  # MIDI
PATH = Path(__file__).parent.parent / "example_workflows" / "ostinato_source.flac"


def pluck(note: int, seconds: float) -> np.ndarray:
    """A few harmonics, the higher ones fading sooner."""
    t = np.arange(int(seconds * RATE)) / RATE
    pitch = 440.0 * 2.0 ** ((note - 69) / 12.0)
    attack = np.minimum(t / 0.005, 1.0)
    return attack * sum(np.sin(2 * np.pi * pitch * k * t) * np.exp(-2.5 * k * t) / k for k in range(1, 6))


def clip() -> np.ndarray:
    audio = np.zeros(int(BEAT * len(NOTES) * RATE))
    for i, note in enumerate(NOTES):
        start = int(i * BEAT * RATE)
        tone = pluck(note, 1.5)[: audio.size - start]
        audio[start : start + tone.size] += tone
    return np.round(0.5 * audio / np.abs(audio).max() * 2**11) / 2**11  # 12 bits compress to half the size


if __name__ == "__main__":
    soundfile.write(PATH, clip(), RATE, subtype="PCM_16")
