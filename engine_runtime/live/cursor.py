"""The place up to which a live session's sound is made: from where the next window is made, when, and how it joins.

A position is a sample counted from the start of the session at 48 kHz. No thread or decoder is here; the line's lock
guards all of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .block import WIDE, Block, Moment, decoded_pcm
from .level import DELAY, SAMPLE_RATE
from .line import Heard, Line
from .listener import Listener
from .pace import TRANSIT, Pace
from .tape import Tape
from .window import FADE, cross_fade


class Source(Protocol):
    """Tells where the music comes from. All is asked with the line's lock held.

    Attributes:
        line: of what is heard.
        works: the ring takes time.
    """

    @property
    def line(self) -> Line: ...

    @property
    def works(self) -> bool: ...

    def until_laid(self) -> float:
        """Return the seconds until the latest change is in the line; 0 where it is, or none is on its way."""
        ...


class Cursor:
    """The place up to which sound is made.

    Args:
        source: returns where the music comes from.
        pace: of decodes.
        hop: samples of a frame.
        kept: frames of sound that the tape keeps.
        clock: of the listener's moves, in seconds.

    Attributes:
        decoded: frames of which the sound is made.
        epoch: of the next block.
        listener: who sets the pace.
        tape: of what was made.
        goes_back: the next window begins in what was made, and fades in from that.
        dry: times that the line ended before more of it was made.
    """

    def __init__(
        self,
        source: Callable[[], Source],
        pace: Pace,
        hop: int,
        kept: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pace, self.tape, self._source, self._hop, self._clock = pace, Tape(kept), source, hop, clock
        self.decoded, self.epoch, self.dry, self.listener = 0, 1, 0, Listener(clock)
        self._heard = Heard()  # the changes in what was made last
        self._at = 0  # position from which they are heard
        self._begun = 0  # position at which the epoch began
        self._sent = 0  # position up to which sound of this epoch was made, be it of older music
        self._waits = False  # for a line without music
        self._begins, self.goes_back = True, False  # the next window fades in from silence

    @property
    def line(self) -> Line:
        return self._source().line

    def report(self, position: int, lead: int, moving: bool) -> None:
        """Note where the listener is, as `Listener.report`: in this epoch, no further than it has sound."""
        place = max(self._begun, min(position, self._sent))  # which is further than what is made again
        self.listener.report(place, min(lead, SAMPLE_RATE), moving)

    def begin(self, position: int | None = None) -> None:
        """Begin a new epoch, at a position that was made before or where the sound is now."""
        self.epoch += 1
        if position is not None:
            self.decoded = min(self.decoded, max(self.line.start, position // self._hop))
        self._begins, self.goes_back = True, False
        self.listener = Listener(self._clock)
        self.listener.position = self._begun = self._sent = self.decoded * self._hop

    def blocks_since(self, epoch: int, position: int) -> list[Block] | None:
        """List the blocks that a listener takes who has the sound of an epoch up to a position: those from there on,
        and those that it has not heard yet, for they may have been made again. None where they are no longer here.
        """
        start = min(position, self.listener.now())
        if epoch != self.epoch:
            return None
        return [] if start == self.decoded * self._hop else self.tape.blocks_since(epoch, start)

    def next(self) -> tuple[int, float]:
        """Return the frames of the next window, which begins at `decoded`, and the seconds until it is wanted: 0 for
        now, infinity where there is no music for it. Goes back where the music has changed.
        """
        again = self._again()
        if again is None:
            return self._count(self.pace.opening if self._begins else self.pace.size), self._delay()
        self.decoded, self.goes_back = again, True
        return self._count(self.pace.first(self.listener.now(), self._hop)[1]), 0.0

    def add(self, audio: NDArray[np.float32], latents: Tensor, changes: list[tuple[int, Heard]]) -> Block:
        """Take the next window; returns it as a block.

        Args:
            audio: `[2, hop * W]`, of the frames from `decoded` on; faded in place into what was made before.
            latents: `[W, C]` float32 on the CPU, which it was decoded from.
            changes: in its music, as `Line.changes` lists them.
        """
        start, count = self.decoded, latents.shape[0]
        fades = self._join(audio, start * self._hop)
        moment, heard = changes[-1]
        if heard != self._heard:
            self._heard, self._at = heard, max(moment * self._hop, fades) + DELAY
        pcm = np.rint(audio.T * WIDE).astype("<i2").tobytes()
        block = Block(self.epoch, start * self._hop, heard, self._at, pcm)
        self.decoded = start + count
        self._sent = max(self._sent, self.decoded * self._hop)
        self.tape.add(Moment(start, latents, block), changes)
        return block

    def _again(self) -> int | None:
        """Return the frame from which sound is to be made again; None where nothing is, or the new music does not reach
        it yet.
        """
        start, end = self._soonest(), self.line.end
        return None if start + FADE >= self.decoded or end is not None and end <= start else start

    def _count(self, size: int) -> int:
        """Count the frames that a window of this size has: fewer where the line ends."""
        end = self.line.end
        return size if end is None else min(size, end - self.decoded)

    def _delay(self) -> float:
        """Return the seconds until a window of what was not made yet is wanted."""
        if self._count(self.pace.size) < 1:  # the line has ended, or has no music yet
            self.dry += self.decoded > 0 and not self._waits
            self._waits = True
            return math.inf
        self._waits = False
        if self.line.changes_at(self.decoded) != self._heard:
            return 0.0  # a change is made at once, before the sound of it is needed
        return self._spare() / SAMPLE_RATE

    def _soonest(self) -> int:
        """Return the first frame whose changes are not those it was made with, of those that can likely be made before
        they are heard; else a frame that was not made yet.

        It goes by the usual time of a decode: where that is too short, the listener hears the old music for a moment
        longer, and no gap.
        """
        start = max(self.pace.first(self.listener.now(), self._hop)[0], self.line.start)
        coming = self.line.changes(start, self.decoded) if start < self.decoded else []
        return next((at for at, heard in coming if heard != self.tape.made_with(at)), self.decoded)

    def _spare(self) -> int:
        """Return the samples that may pass before the next window is decoded; 0 for now."""
        now, lead, source = self.listener.now(), self.listener.lead, self._source()
        ahead = self.decoded * self._hop - now
        if not source.line.length:
            return self.pace.spare_endless(ahead, lead)
        return self.pace.spare(ahead, self._sent - now, lead, source.works, source.until_laid())

    def _join(self, audio: NDArray[np.float32], position: int) -> int:
        """Fade into a window from what is before it, in place; returns the position at which that begins.

        Where sound is made again, that is as near to the listener as a block can be there in time.
        """
        fade, start = FADE * self._hop, position
        if self._begins:
            cross_fade(audio, np.zeros((2, fade), np.float32), DELAY)
        elif self.goes_back:
            soon = max(position, self.listener.now() + TRANSIT)
            _, pcm = self.tape.between(position, min(soon + fade, position + audio.shape[1]))
            under = decoded_pcm(pcm)
            start += under.shape[1] - fade
            cross_fade(audio, under, start - position + DELAY)
        self._begins = self.goes_back = False
        return start
