"""The sound that a live session made of late, without what was made again. Its owner's lock guards it."""

from __future__ import annotations

from collections import deque

from .block import Block, Moment
from .line import Heard

LAID = 64  # windows of which it is known with which changes they were made: more than are ahead of a listener


class Tape:
    """Decoded windows that join, each in place of what was made for its frames and behind them.

    Args:
        frames: that are kept.
    """

    def __init__(self, frames: float) -> None:
        self._moments: deque[Moment] = deque()
        self._made: list[tuple[int, Heard]] = []  # the changes that frames were made with, from which on
        self._frames = frames

    def add(self, moment: Moment, changes: list[tuple[int, Heard]]) -> None:
        """Keep a window, and the changes in its music by their first frames."""
        moments = self._moments
        while moments and moments[-1].frame >= moment.frame:
            moments.pop()
        if moments:
            moments[-1] = moments[-1].until(moment.frame)
        moments.append(moment)
        while moments[0].frame < moment.frame - self._frames:
            moments.popleft()
        self._made = [one for one in self._made if one[0] < moment.frame][-LAID:] + changes

    def moments(self) -> list[Moment]:
        """List what is kept, oldest first."""
        return list(self._moments)

    def blocks_since(self, epoch: int, position: int) -> list[Block] | None:
        """List the blocks of an epoch that hold the sound from a position on; None where some of it is no longer
        here.
        """
        blocks = [m.block for m in self._moments if m.block.epoch == epoch and m.block.end > position]
        return blocks if blocks and blocks[0].position <= position else None

    def between(self, start: int, stop: int) -> tuple[int, bytes]:
        """Return the sound of these positions as int16 pairs, and the first of them that is still here."""
        blocks = [m.block for m in self._moments if m.block.end > start and m.block.position < stop]
        parts = [b.pcm[4 * max(0, start - b.position) : 4 * (stop - b.position)] for b in blocks]
        return max(start, blocks[0].position) if blocks else start, b"".join(parts)

    def made_with(self, frame: int) -> Heard:
        """Return the changes that a frame was made with."""
        return next((heard for first, heard in reversed(self._made) if first <= frame), Heard())
