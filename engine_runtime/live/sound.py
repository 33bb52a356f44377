"""The sound of a live session, in a thread of its own: windows of the line, decoded just ahead of the listener.

A position is a sample counted from the start of the session at 48 kHz.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..audio.decode import Vae
from ..device.workers import leave_team
from ..errors import OstinatoError
from ..spec import ModelSpec
from .block import Block
from .cursor import Cursor, Source
from .lease import put_to_rest
from .level import Level
from .line import Heard
from .pace import WARM, Pace
from .window import Windows

log = logging.getLogger(__name__)
LOOK = 0.5  # seconds between two looks at what nobody notifies of


@dataclass(frozen=True, eq=False)
class _Given:
    """Holds what a window is decoded from: its epoch, its frames, their latents as `Windows.latents` reads them, and
    the changes in them.
    """

    windows: Windows
    epoch: int
    count: int
    latents: tuple[Tensor, int, int]
    changes: list[tuple[int, Heard]]


class Sound:
    """The thread that decodes.

    Args:
        vae: the decoder.
        spec: of the model.
        lock: of the line.
        source: returns where the music comes from; called with `lock` held.
        send: takes each block, in this thread.
        failed: told, in this thread, what went wrong; the sound then pauses.
        kept_seconds: of sound that stay.
        clock: of decodes and of the listener, in seconds.

    Attributes:
        cursor: the place up to which sound is made.
        level: of the sound.
        resting: no sound is made, and the decoder's memory is given back.
        has_memory: it is not given back yet.
        reported: when a listener was here last, or the sound began.
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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lock, self._send, self._failed, self._clock = lock, send, failed, clock
        self.playing, self._closed, self.level = False, False, Level()
        self.resting, self.has_memory, self.reported = False, True, clock()
        self._vae, self._windows = vae, Windows(vae)
        self._pace = Pace(self._windows.frames, spec.frame_rate)
        self.cursor = Cursor(source, self._pace, spec.hop, kept_seconds * spec.frame_rate, clock)
        self._thread = threading.Thread(target=self._run, name=f"ostinato sound {name}", daemon=True)

    def open(self) -> None:
        """Start the thread. Everything that it calls must be set by then."""
        self._thread.start()

    # --- from any thread, with the lock held ---

    def report(self, epoch: int, position: int, lead: int, moving: bool) -> None:
        """Note where the listener is; a report of an older epoch is passed over."""
        if epoch == self.cursor.epoch:
            self.reported = self._clock()
            self.cursor.report(position, lead, moving)
            self.lock.notify_all()

    def play(self, playing: bool) -> None:
        self.playing, self.reported = playing, self._clock()
        self.lock.notify_all()

    def begin(self, position: int | None = None) -> None:
        """Begin a new epoch, as `Cursor.begin`."""
        self._windows.forget()
        self.cursor.begin(position)
        self.lock.notify_all()

    def rest(self) -> None:
        """Give the decoder's memory back after this window."""
        self.resting = True
        self.lock.notify_all()

    def woken(self, resting: bool) -> None:
        """Note that the decoder has its memory; `resting` where it is to be given back again."""
        self.resting, self.has_memory = resting, True
        self.lock.notify_all()

    def use(self, vae: Vae) -> None:
        """Decode with another VAE from the next window on."""
        if vae is not self._vae:
            self._vae, self._windows = vae, Windows(vae)
            self._pace.use(self._windows.frames)

    @property
    def giving(self) -> bool:
        """Return whether the decoder's memory is to be given back, and is not yet."""
        return self.resting and self.has_memory and self._thread.is_alive()

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
        try:
            self._warm()
        except Exception as error:
            self._fail(error)
        while (given := self._next()) is not None:
            try:
                self._make(given)
            except Exception as error:
                self._fail(error)

    def _warm(self) -> None:
        """Decode silence before music plays, and learn how long that takes."""
        for size in WARM:  # the first of a shape takes several times as long: kernels are chosen in it
            self._windows.warm(size)
        began = self._clock()
        self._windows.warm(self._pace.size)
        self._pace.begin(self._clock() - began)

    def _fail(self, error: Exception) -> None:
        """Pause, and tell what went wrong."""
        with self.lock:
            self.playing = False
            self._windows.forget()
        if not isinstance(error, OstinatoError):
            log.error("the sound of a live session failed", exc_info=error)
        self._failed(error)

    def _next(self) -> _Given | None:
        """Wait until a window is wanted, and read what it takes; returns None where the sound is closed."""
        cursor = self.cursor
        with self.lock:
            while not self._closed:
                count, delay = cursor.next() if self.playing and not self.resting else (0, LOOK)
                if delay <= 0.0:
                    windows = self._windows
                    if cursor.goes_back:
                        windows.forget()
                    start = cursor.decoded
                    changes = cursor.line.changes(start, start + count)
                    return _Given(windows, cursor.epoch, count, windows.latents(cursor.line, start, count), changes)
                self._yield()
                self.lock.wait(min(LOOK, delay))
        return None

    def _make(self, given: _Given) -> None:
        """Decode a window and send it, unless the sound began anew meanwhile."""
        began = self._clock()
        audio = self.level.shape(given.windows.sound(given.latents, given.count))
        spent = self._clock() - began
        latents, before, _ = given.latents
        kept = latents[before : before + given.count].float().cpu()  # waits for a GPU, which nobody else has to
        with self.lock:
            if given.windows is self._windows:
                self._pace.learn(spent, given.count)
            if given.epoch != self.cursor.epoch:
                self._windows.forget()
                return
            block = self.cursor.add(audio, kept, given.changes)
            self.lock.notify_all()
        self._send(block)

    def _yield(self) -> None:
        """Give the decoder's memory back where that was asked for. Hold the lock."""
        if self.resting and self.has_memory:
            put_to_rest(self._vae)
            self.has_memory = False
            self.lock.notify_all()
