"""The beats and bars of what plays, so that a change can wait for the next one. Torch-free."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import InputError, check_choice

if TYPE_CHECKING:
    from .line import Line

NOW, BEAT, BAR = WHEN = ("now", "beat", "bar")


@dataclass(frozen=True)
class Grid:
    """Tells where beats lie, in samples from the start of a session.

    Attributes:
        first: the position of a first beat.
        beat: samples of one.
        beats: of a bar.
        round: samples after which a loop begins again, with a first beat; 0 for music without end.
    """

    first: int
    beat: float
    beats: int
    round: int = 0

    @classmethod
    def of(cls, line: Line, tempo: Tempo, hop: int, rate: int, late: int) -> Grid:
        """Lay out the beats of a line of music, as they are heard.

        Args:
            hop: samples of a frame.
            rate: samples a second.
            late: samples by which the music is heard late.
        """
        return cls(line.first * hop + late, 60.0 / tempo.bpm * rate, tempo.beats, line.length * hop)

    def next(self, position: float, unit: str) -> int:
        """Return the first beat or bar line at or behind a position."""
        check_choice("the unit", unit, WHEN[1:])
        size = self.beat * (self.beats if unit == BAR else 1)
        begin, since = float(self.first), position - self.first
        if self.round:
            begin += math.floor(since / self.round) * self.round
        found = begin + math.ceil((position - begin) / size - 1e-9) * size
        return round(min(found, begin + self.round) if self.round else found)


@dataclass(frozen=True)
class Tempo:
    """Names the tempo that the first prompt of a graph asks for.

    Attributes:
        bpm: beats a minute; 0 where it is left open.
        beats: of a bar.
    """

    bpm: float = 0.0
    beats: int = 4


def check_tempo(bpm: float) -> None:
    """Raise `InputError` where the prompt leaves the tempo open."""
    if not bpm:
        raise InputError(
            "a change is to wait for the beat and the prompt leaves the tempo open",
            "beats are counted by the bpm of the first prompt",
            "set bpm there, or let changes act at once",
        )
