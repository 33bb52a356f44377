"""The figures of a live session."""

from __future__ import annotations

from dataclasses import dataclass

from ..stream.stats import Stats
from .level import SAMPLE_RATE
from .score import Score
from .sound import Sound


@dataclass(frozen=True)
class Figures:
    """The figures of a session.

    Attributes:
        stats: of the ring; None before it was opened.
        ahead: seconds of sound that are made beyond the listener.
        decode: seconds that the decode of a window takes, on the safe side.
        window: seconds of one.
        loudness: LUFS before the gain. gain: dB. limited: dB by which the limiter lowered the latest peak.
        dry: times that the music ended before more was made.
        resting: the memory is given back, to others who need it or because nobody listened.
        length: seconds of music in one generation.
        budget: milliseconds that a tick may take where music is to be made as fast as it is heard.
    """

    stats: Stats | None
    ahead: float
    decode: float
    window: float
    loudness: float
    gain: float
    limited: float
    dry: int
    resting: bool
    length: float
    budget: float


def figures_of(sound: Sound, stats: Stats | None, score: Score) -> Figures:
    """Read the figures of a session that plays this score. Hold the line's lock."""
    spec, level, cursor = score.spec, sound.level, sound.cursor
    length = spec.seconds(score.frames)
    return Figures(
        stats,
        max(0.0, (cursor.decoded * spec.hop - cursor.listener.now()) / SAMPLE_RATE),
        cursor.pace.spent,
        cursor.pace.size / spec.frame_rate,
        level.loudness,
        level.gain,
        level.limited,
        cursor.dry,
        sound.resting,
        length,
        1e3 * length * score.depth / score.steps,
    )
