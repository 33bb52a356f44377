"""The sound of a live session, in a thread of its own: windows of the line, decoded just ahead of the listener.

A position is a sample counted from the start of the session at 48 kHz.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..audio.decode import Vae
from ..device.workers import leave_team
from ..errors import OstinatoError
from ..spec import ModelSpec
from .block import WIDE, Block, Moment, decoded_pcm
from .lease import put_to_rest
from .level import DELAY, SAMPLE_RATE, Level
from .line import Heard, Line
from .listener import Listener
from .window import FADE, Windows, cross_fade

log = logging.getLogger(__name__)
SIZES = (2, 4, 6, 8, 12, 25)  # frames of a window
SAFE = 1.3  # of the first decode's time, while the ring does not play yet
FORGET = 0.03  # share by which the longest decode of late is forgotten at each window
BUSY = 0.5  # share of a window's time that its decode may usually take before windows grow
CALM = 0.2  # the same, in which smaller ones are decoded again
# Sound of a loop that is made ahead, in longest decodes. A change replaces what is ahead, so that it costs no latency,
# but its decodes would take the ring's time on a CPU: while the ring works, they wait as long as enough is sent.
READY, ENOUGH, SOON = 10, 4, 1
MOST_AHEAD = 2 * SAMPLE_RATE  # samples that are made ahead of the listener at most
LAID = 64  # windows of which it is known with which changes they were made: more than are ahead of a listener


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


class Sound:
    """The thread that decodes.

    Args:
        vae: the decoder.
        spec: of the model.
        lock: of the line.
        source: returns where the music comes from; called with `lock` held.
        send: takes each block, in this thread.
        failed: told, in this thread, what went wrong; the sound then pauses.

    Attributes:
        decoded: frames of which the sound is made.
        epoch: of the next block.
        listener: who sets the pace.
        resting: no sound is made, and the decoder's memory is given back.
        holds: it is not given back yet.
        reported: when a listener was here last, or the sound began.
        spent, usual: seconds that a decode takes, on the safe side and on average.
        dry: times that the line ended before more of it was made.
    """

    def __init__(
        self,
        name: str,
        vae: Vae,
        spec: ModelSpec,
        lock: threading.Condition,
        source: Callable[[], Source],
        send: Callable[[Block], None],
        failed: Callable[[Exception], None],
        kept_seconds: float,
    ) -> None:
        self._hop, self._rate = spec.hop, spec.frame_rate
        self._silence = np.zeros((2, FADE * spec.hop), np.float32)
        self.lock, self._source, self._send, self._failed = lock, source, send, failed
        self.decoded, self.epoch, self.listener = 0, 1, Listener()
        self.level, self.dry, self.size = Level(), 0, SIZES[1]
        self.spent = self.usual = 0.0
        self._sizes = set(SIZES[:4])  # that were decoded before
        self.playing, self._closed = False, False
        self.resting, self.holds, self.reported = False, True, time.monotonic()
        self._vae, self._windows, self._heard = vae, Windows(vae), Heard()
        self._laid: list[tuple[int, Heard]] = []  # the changes that frames were made with, from which on
        self._at = 0  # position from which the latest changes are heard
        self._begun = 0  # position at which the epoch began
        self._sent = 0  # position up to which sound of this epoch was sent, be it of older music
        self._waits = False  # for a line without music
        self._under: NDArray[np.float32] | None = self._silence  # what the next window fades from, after the level
        self._moments: deque[Moment] = deque()
        self._kept = kept_seconds
        self._thread = threading.Thread(target=self._run, name=f"ostinato sound {name}", daemon=True)
        self._thread.start()

    # --- from any thread, with the lock held ---

    def report(self, epoch: int, position: int, lead: int, moving: bool) -> None:
        """Note where the listener is; a report of an older epoch is passed over."""
        if epoch == self.epoch:
            self.reported = time.monotonic()
            place = max(self._begun, min(position, self.decoded * self._hop))
            self.listener.report(place, min(lead, SAMPLE_RATE), moving)
            self.lock.notify_all()

    def play(self, playing: bool) -> None:
        self.playing, self.reported = playing, time.monotonic()
        self.lock.notify_all()

    def begin(self, position: int | None = None) -> None:
        """Begin a new epoch, at a position that was made before or where the sound is now."""
        self.epoch += 1
        if position is not None:
            self.decoded = min(self.decoded, max(self._line().start, position // self._hop))
        self._windows.forget()
        self._under = self._silence
        self.listener = Listener()
        self.listener.position = self._begun = self._sent = self.decoded * self._hop
        self.lock.notify_all()

    def rest(self, resting: bool) -> None:
        """Give the decoder's memory back after this window, or take it again with the next."""
        self.resting = resting
        self.holds = self.holds or not resting
        self.lock.notify_all()

    def use(self, vae: Vae) -> None:
        """Decode with another VAE from the next window on."""
        if vae is not self._vae:
            self._vae, self._windows, self._sizes = vae, Windows(vae), set()

    def blocks_since(self, epoch: int, position: int) -> list[Block] | None:
        """List the blocks that hold the sound from a position on; None where some of it is no longer here."""
        blocks = [m.block for m in self.moments() if m.block.epoch == epoch and m.block.end > position]
        if epoch != self.epoch or not blocks or blocks[0].position > position:
            return None
        return blocks

    def moments(self) -> list[Moment]:
        """List what was decoded, oldest first, without what was decoded again."""
        kept: list[Moment] = []
        for moment in self._moments:
            while kept and kept[-1].frame >= moment.frame:
                kept.pop()
            if kept:
                kept[-1] = kept[-1].until(moment.frame)
            kept.append(moment)
        return kept

    @property
    def here(self) -> bool:
        """Return whether this is the sound's own thread."""
        return threading.current_thread() is self._thread

    def between(self, start: int, stop: int) -> tuple[int, bytes]:
        """Return the sound of these positions as int16 pairs, and the first of them that is still here."""
        blocks = [m.block for m in self.moments() if m.block.end > start and m.block.position < stop]
        parts = [b.pcm[4 * max(0, start - b.position) : 4 * (stop - b.position)] for b in blocks]
        return max(start, blocks[0].position) if blocks else start, b"".join(parts)

    # --- the thread ---

    def close(self) -> None:
        with self.lock:
            self._closed = True
            self.lock.notify_all()
        self._thread.join()

    def _run(self) -> None:
        if self._vae.device.type == "cpu":
            leave_team()
        for size in SIZES[:4]:  # the first of a shape takes several times as long: kernels are chosen in it
            self._windows.warm(size)
        began = time.monotonic()
        self._windows.warm(self.size)
        self.usual = time.monotonic() - began
        self.spent = SAFE * self.usual
        while True:
            with self.lock:
                while not self._closed and (again := self._again()) is None and (delay := self._delay()) > 0.0:
                    self._yield()
                    self.lock.wait(delay)
                if self._closed:
                    return
                size = self.size if again is None else self._back(*again)
                windows, start, count, epoch = self._windows, self.decoded, self._count(size), self.epoch
                given, changes = windows.latents(self._line(), start, count), self._line().changes(start, start + count)
            try:
                began = time.monotonic()
                audio = self.level.shape(windows.sound(given, count))
                self._pace(time.monotonic() - began, count)
                self._emit(audio, given, (start, count, epoch), changes)
            except Exception as error:
                with self.lock:
                    self.playing = False
                    windows.forget()
                if not isinstance(error, OstinatoError):
                    log.exception("the sound of a live session failed")
                self._failed(error)

    def _yield(self) -> None:
        """Give the decoder's memory back where that was asked for. Hold the lock."""
        if self.resting and self.holds:
            put_to_rest(self._vae)
            self.holds = False
            self.lock.notify_all()

    def _back(self, frame: int, under: NDArray[np.float32]) -> int:
        """Go back to a frame that was decoded, to fade there from the sound `under`; returns the size of the next
        window. Hold the lock.
        """
        self._windows.forget()
        self.decoded, self._under = frame, under
        return self._first()

    def _again(self) -> tuple[int, NDArray[np.float32]] | None:
        """Return the frame from which sound is to be made again, and what was made for it; None where nothing is, or
        the new music does not reach it yet. Hold the lock.
        """
        if not self.playing or self.resting:
            return None
        start, end = self._soonest(), self._line().end
        if start >= self.decoded or end is not None and end <= start:
            return None
        old = self._blocks_at(start)
        return None if old is None else (start, old)

    def _first(self) -> int:
        """Return the size of the first window after a change: the smallest while which the next is made."""
        ahead = self.listener.lead / 2 / SAMPLE_RATE
        return next((size for size in SIZES if ahead + size / self._rate >= self._usual(self.size)), self.size)

    def _usual(self, size: int) -> float:
        """Return the usual seconds of a decode: they go by its frames, the margins' too. Hold the lock."""
        return self.usual * self._windows.frames(size) / self._windows.frames(self.size)

    def _soonest(self) -> int:
        """Return the first frame whose changes are not those it was made with, of those that can likely be made before
        they are heard; else a frame that was not made yet. Hold the lock.

        It goes by the usual time of a decode: where that is too short, the listener hears the old music for a moment
        longer, and no gap.
        """
        now = self.listener.now()
        start = -(-(now + int(self._usual(self._first()) * SAMPLE_RATE)) // self._hop)
        start = max(start, self._line().start)
        coming = self._line().changes(start, self.decoded) if start < self.decoded else []
        return next((at for at, heard in coming if heard != self._made_with(at)), self.decoded)

    def _made_with(self, frame: int) -> Heard:
        """Return the changes that a decoded frame was made with."""
        return next((heard for first, heard in reversed(self._laid) if first <= frame), Heard())

    def _blocks_at(self, frame: int) -> NDArray[np.float32] | None:
        """Return the sound that was made for a frame, `[2, samples]`; None where there is none of this epoch."""
        for moment in reversed(self._moments):
            if moment.frame <= frame and moment.block.epoch == self.epoch:
                audio = decoded_pcm(moment.block.pcm)[:, (frame - moment.frame) * self._hop :]
                return audio[:, : FADE * self._hop] if audio.shape[1] else None
        return None

    def _delay(self) -> float:
        """Return the seconds until a window of what was not decoded yet is wanted; 0 for now. Hold the lock."""
        if not self.playing or self.resting:
            return 0.5
        if self._count(self.size) < 1:  # the line has ended, or has no music yet; who adds to it notifies
            self.dry += self.decoded > 0 and not self._waits
            self._waits = True
            return 0.5
        self._waits = False
        if self._line().changes_at(self.decoded) != self._heard:
            return 0.0  # a change is made at once, before the sound of it is needed
        return min(0.5, self._spare() / SAMPLE_RATE)

    def _spare(self) -> int:
        """Return the samples until the end of what is ahead is too near; 0 for now. Hold the lock."""
        now, lead = self.listener.now(), self.listener.lead
        ahead, sent = self.decoded * self._hop - now, self._sent - now

        def beyond(samples: int, decodes: int) -> int:
            return max(0, samples - min(MOST_AHEAD, lead + int(decodes * self.spent * SAMPLE_RATE)))

        source, enough = self._source(), beyond(sent, ENOUGH)
        if not source.line.length:
            return beyond(ahead, 1)  # endless music goes on from what is decoded
        coming = source.until_laid()
        if 0.0 < coming < self.usual and beyond(sent, 2):  # this decode would be in the way of that of the change
            return min(beyond(sent, 2), int(coming * SAMPLE_RATE))
        return min(beyond(ahead, SOON), enough) if source.works else beyond(ahead, READY)

    def _line(self) -> Line:
        return self._source().line

    def _count(self, size: int) -> int:
        end = self._line().end
        return size if end is None else min(size, end - self.decoded)

    def _pace(self, seconds: float, count: int) -> None:
        """Learn how long a decode takes, and choose the size of the next windows by it.

        The first of a size is passed over: on a GPU kernels are tried in it, which took half a second.
        """
        if count not in self._sizes:
            self._sizes.add(count)
            return
        seconds *= self._windows.frames(self.size) / self._windows.frames(count)  # as a whole window's
        self.usual += 0.2 * (seconds - self.usual)
        self.spent = max(seconds, self.spent + FORGET * (seconds - self.spent))
        at = SIZES.index(self.size)
        if self._usual(self.size) * self._rate > BUSY * self.size and at + 1 < len(SIZES):
            size = SIZES[at + 1]
        elif at and self._usual(SIZES[at - 1]) * self._rate < CALM * SIZES[at - 1]:
            size = SIZES[at - 1]
        else:
            return
        longer = self._windows.frames(size) / self._windows.frames(self.size)
        self.size, self.usual, self.spent = size, self.usual * longer, self.spent * longer

    def _emit(
        self,
        audio: NDArray[np.float32],
        given: tuple,
        place: tuple[int, int, int],
        changes: list[tuple[int, Heard]],
    ) -> None:
        start, count, epoch = place
        if self._under is not None:
            cross_fade(audio, self._under, DELAY)
            self._under = None
        moment, heard = changes[-1]
        if heard != self._heard:
            self._heard, self._at = heard, moment * self._hop + DELAY
        pcm = np.rint(audio.T * WIDE).astype("<i2").tobytes()
        block = Block(epoch, start * self._hop, heard, self._at, pcm)
        latents, before, _ = given
        made = Moment(start, latents[before : before + count].float().cpu(), block)
        with self.lock:
            if epoch != self.epoch:  # it began anew meanwhile
                return
            self.decoded = start + count
            self._sent = max(self._sent, self.decoded * self._hop)
            self._laid = [one for one in self._laid if one[0] < start][-LAID:] + changes
            self._moments.append(made)
            while self._moments[0].frame < self.decoded - self._kept * self._rate:
                self._moments.popleft()
            self.lock.notify_all()
        self._send(block)
