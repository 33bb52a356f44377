"""The sound of a live session, in a thread of its own: windows of the line, decoded just ahead of the listener.

A position is a sample counted from the start of the session at 48 kHz.
"""

from __future__ import annotations

import logging
import threading
import time
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
from .pace import TRANSIT, WARM, Pace
from .tape import Tape
from .window import FADE, Windows, cross_fade

log = logging.getLogger(__name__)


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
        has_memory: it is not given back yet.
        reported: when a listener was here last, or the sound began.
        pace: of decodes.
        tape: of what was decoded.
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
        self.lock, self._source, self._send, self._failed = lock, source, send, failed
        self.decoded, self.epoch, self.listener = 0, 1, Listener()
        self.level, self.dry, self.tape = Level(), 0, Tape(kept_seconds * spec.frame_rate)
        self.playing, self._closed = False, False
        self.resting, self.has_memory, self.reported = False, True, time.monotonic()
        self._vae, self._windows, self._heard = vae, Windows(vae), Heard()
        self.pace = Pace(self._windows.frames, self._rate)
        self._at = 0  # position from which the latest changes are heard
        self._begun = 0  # position at which the epoch began
        self._sent = 0  # position up to which sound of this epoch was sent, be it of older music
        self._waits = False  # for a line without music
        self._begins, self._goes_back = True, False  # the next window fades in from silence; from what was made for it
        self._thread = threading.Thread(target=self._run, name=f"ostinato sound {name}", daemon=True)
        self._thread.start()

    # --- from any thread, with the lock held ---

    def report(self, epoch: int, position: int, lead: int, moving: bool) -> None:
        """Note where the listener is; a report of an older epoch is passed over."""
        if epoch == self.epoch:
            self.reported = time.monotonic()
            place = max(self._begun, min(position, self._sent))  # which is further than what is made again
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
        self._begins, self._goes_back = True, False
        self.listener = Listener()
        self.listener.position = self._begun = self._sent = self.decoded * self._hop
        self.lock.notify_all()

    def rest(self, resting: bool) -> None:
        """Give the decoder's memory back after this window, or take it again with the next."""
        self.resting = resting
        self.has_memory = self.has_memory or not resting
        self.lock.notify_all()

    def use(self, vae: Vae) -> None:
        """Decode with another VAE from the next window on."""
        if vae is not self._vae:
            self._vae, self._windows = vae, Windows(vae)
            self.pace.use(self._windows.frames)

    @property
    def here(self) -> bool:
        """Return whether this is the sound's own thread."""
        return threading.current_thread() is self._thread

    # --- the thread ---

    def close(self) -> None:
        with self.lock:
            self._closed = True
            self.lock.notify_all()
        self._thread.join()

    def _run(self) -> None:
        if self._vae.device.type == "cpu":
            leave_team()
        for size in WARM:  # the first of a shape takes several times as long: kernels are chosen in it
            self._windows.warm(size)
        began = time.monotonic()
        self._windows.warm(self.pace.size)
        self.pace.begin(time.monotonic() - began)
        while True:
            with self.lock:
                while not self._closed and (again := self._again()) is None and (delay := self._delay()) > 0.0:
                    self._yield()
                    self.lock.wait(delay)
                if self._closed:
                    return
                size = self.pace.size if again is None else self._back(again)
                windows, start, count, epoch = self._windows, self.decoded, self._count(size), self.epoch
                given, changes = windows.latents(self._line(), start, count), self._line().changes(start, start + count)
            try:
                began = time.monotonic()
                audio = self.level.shape(windows.sound(given, count))
                with self.lock:
                    if windows is self._windows:
                        self.pace.learn(time.monotonic() - began, count)
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
        if self.resting and self.has_memory:
            put_to_rest(self._vae)
            self.has_memory = False
            self.lock.notify_all()

    def _back(self, frame: int) -> int:
        """Go back to a frame that was decoded; returns the size of the next window. Hold the lock."""
        self._windows.forget()
        self.decoded, self._goes_back = frame, True
        return self.pace.first(self.listener.now(), self._hop)[1]

    def _again(self) -> int | None:
        """Return the frame from which sound is to be made again; None where nothing is, or the new music does not reach
        it yet. Hold the lock.
        """
        if not self.playing or self.resting:
            return None
        start, end = self._soonest(), self._line().end
        return None if start + FADE >= self.decoded or end is not None and end <= start else start

    def _soonest(self) -> int:
        """Return the first frame whose changes are not those it was made with, of those that can likely be made before
        they are heard; else a frame that was not made yet. Hold the lock.

        It goes by the usual time of a decode: where that is too short, the listener hears the old music for a moment
        longer, and no gap.
        """
        start = max(self.pace.first(self.listener.now(), self._hop)[0], self._line().start)
        coming = self._line().changes(start, self.decoded) if start < self.decoded else []
        return next((at for at, heard in coming if heard != self.tape.made_with(at)), self.decoded)

    def _delay(self) -> float:
        """Return the seconds until a window of what was not decoded yet is wanted; 0 for now. Hold the lock."""
        if not self.playing or self.resting:
            return 0.5
        if self._count(self.pace.size) < 1:  # the line has ended, or has no music yet; who adds to it notifies
            self.dry += self.decoded > 0 and not self._waits
            self._waits = True
            return 0.5
        self._waits = False
        if self._line().changes_at(self.decoded) != self._heard:
            return 0.0  # a change is made at once, before the sound of it is needed
        return min(0.5, self._spare() / SAMPLE_RATE)

    def _spare(self) -> int:
        """Return the samples that may pass before the next window is decoded; 0 for now. Hold the lock."""
        now, lead, source = self.listener.now(), self.listener.lead, self._source()
        ahead = self.decoded * self._hop - now
        if not source.line.length:
            return self.pace.spare_endless(ahead, lead)
        return self.pace.spare(ahead, self._sent - now, lead, source.works, source.until_laid())

    def _line(self) -> Line:
        return self._source().line

    def _count(self, size: int) -> int:
        end = self._line().end
        return size if end is None else min(size, end - self.decoded)

    def _emit(
        self,
        audio: NDArray[np.float32],
        given: tuple,
        place: tuple[int, int, int],
        changes: list[tuple[int, Heard]],
    ) -> None:
        start, count, epoch = place
        latents, before, _ = given
        kept = latents[before : before + count].float().cpu()  # waits for a GPU, which nobody else has to
        with self.lock:
            if epoch != self.epoch:  # it began anew meanwhile
                self._windows.forget()
                return
            fades = self._join(audio, start * self._hop)
            moment, heard = changes[-1]
            if heard != self._heard:
                self._heard, self._at = heard, max(moment * self._hop, fades) + DELAY
            pcm = np.rint(audio.T * WIDE).astype("<i2").tobytes()
            block = Block(epoch, start * self._hop, heard, self._at, pcm)
            self.decoded = start + count
            self._sent = max(self._sent, self.decoded * self._hop)
            self.tape.add(Moment(start, kept, block), changes)
            self.lock.notify_all()
        self._send(block)

    def _join(self, audio: NDArray[np.float32], position: int) -> int:
        """Fade into a window from what is before it, in place; returns the position at which that begins.

        Where sound is made again, that is as near to the listener as a block can be there in time. Hold the lock.
        """
        fade, start = FADE * self._hop, position
        if self._begins:
            cross_fade(audio, np.zeros((2, fade), np.float32), DELAY)
        elif self._goes_back:
            soon = max(position, self.listener.now() + TRANSIT)
            _, pcm = self.tape.between(position, min(soon + fade, position + audio.shape[1]))
            under = decoded_pcm(pcm)
            start += under.shape[1] - fade
            cross_fade(audio, under, start - position + DELAY)
        self._begins = self._goes_back = False
        return start
