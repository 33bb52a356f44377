"""A listener of a live session as a page is one, without a browser: it plays blocks against the host's clock."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from ..errors import EngineError
from ..live.block import Block
from ..live.level import SAMPLE_RATE
from ..live.line import Heard
from ..live.session import LiveSession

QUANTUM = 128  # samples that an audio thread plays at a time
REPORT = 1024  # samples between two reports
FIRST_LEAD, MOST_LEAD, GROWTH, CALM = 2400, 24_000, 1.25, 5 * SAMPLE_RATE
PATIENCE = 120.0  # seconds


class Ring:
    """The ring of a page, `frontend/src/ring.ts`, without its samples: which are there, and which play.

    Attributes:
        epoch: of the sound.
        read: position that sounds next.
        end: position up to which there is sound.
        fresh: end of the newest block; what lies behind it was made before.
        lead: samples that are wanted ahead: more after an underrun, less again by half of what nobody needed.
        moving: it plays, and does not wait for its lead.
        underruns: times that the sound was not there in time.
    """

    def __init__(self) -> None:
        self.epoch = self.read = self.end = self.fresh = self.underruns = 0
        self.lead, self.moving = FIRST_LEAD, False
        self._calm, self._spare = 0, math.inf  # samples since the last underrun, and the fewest ahead in that time
        self._last, self._marks = Heard(), list[tuple[int, Heard]]()

    def take(self, epoch: int, position: int, samples: int, heard: Heard, at: int) -> bool:
        """Take a block in place of what is at its positions; returns false for one that is passed over."""
        stop = position + samples
        if epoch < self.epoch or epoch == self.epoch and stop <= self.read:
            return False
        if epoch > self.epoch or position > self.end:
            if epoch > self.epoch:
                self._marks, self._last = [], Heard()
            self.epoch, self.read, self.end, self.moving = epoch, position, position, False
        self.fresh, self.end = stop, max(self.end, stop)
        if heard != self._last:
            self._last = heard
            self._marks.append((at, heard))
        return True

    def play(self) -> list[tuple[int, Heard]]:
        """Play a quantum; returns the changes that are heard first in it, and at which positions."""
        ahead = self.end - self.read
        self.moving = self.moving or ahead >= self.lead
        if not self.moving:
            return []
        if ahead < QUANTUM:
            self.moving, self.underruns = False, self.underruns + 1
            self.lead, self._calm, self._spare = min(MOST_LEAD, round(self.lead * GROWTH)), 0, math.inf
            return []
        self.read += QUANTUM
        self._calm, self._spare = self._calm + QUANTUM, min(self._spare, self.end - self.read)
        if self._calm >= CALM:
            self.lead, self._calm, self._spare = max(FIRST_LEAD, self.lead - int(self._spare) // 2), 0, math.inf
        heard = [mark for mark in self._marks if mark[0] < self.read]
        self._marks = self._marks[len(heard) :]
        return heard


class Times(NamedTuple):
    """The moments at which a change was first met, in seconds of `time.perf_counter`.

    Attributes:
        made: in a latent that is laid on the line.
        ready: in a block of sound.
        heard: in a sample that is played.
    """

    made: float
    ready: float
    heard: float


class Player:
    """Plays the blocks of a session and reports its place, as the page's worklet does.

    Args:
        clock: returns seconds.

    Attributes:
        ring: what it plays from.
        began: the moment at which the first sample was played; None before.
    """

    def __init__(self, session: LiveSession, clock: Callable[[], float] = time.perf_counter) -> None:
        self._session, self._lock, self._clock = session, threading.Condition(threading.Lock()), clock
        self.ring, self._closed = Ring(), False
        self._played = clock()  # up to which it has played
        self._last = Heard()  # of the blocks that came
        self._met: dict[str, list[tuple[float, Heard]]] = {name: [] for name in Times._fields}
        self._error: Exception | None = None
        self.began: float | None = None
        session.attach(self)
        self._thread = threading.Thread(target=self._run, name="bench player", daemon=True)

    def start(self) -> None:
        """Begin to play."""
        self._thread.start()

    # --- what the session's threads call ---

    def block(self, block: Block) -> None:
        """Take a block in place of what is at its positions."""
        now = self._clock()
        with self._lock:
            self._advance(now)
            taken = self.ring.take(block.epoch, block.position, block.samples, block.heard, block.at)
            if taken and block.heard != self._last:
                self._last = block.heard
                self._met["ready"].append((self._played, block.heard))  # within a quantum before now

    def changed(self) -> None:
        with self._lock:
            self._met["made"].append((self._clock(), self._session.made))

    def failed(self, error: Exception) -> None:
        with self._lock:
            self._error = error
            self._lock.notify_all()

    # --- what the benchmark calls ---

    def forget(self) -> None:
        """Begin to watch for the next change."""
        with self._lock:
            for found in self._met.values():
                found.clear()

    def wait(self, change: int, hot: bool) -> Times:
        """Wait until a change is heard.

        Args:
            hot: it acts in a tick, else in a generation.

        Raises:
            EngineError: where the session failed, or nothing was heard of the change in `PATIENCE`.
        """

        def met(name: str) -> float | None:
            found = self._met[name]
            return next((when for when, heard in found if (heard.hot if hot else heard.slot) >= change), None)

        with self._lock:
            done = self._lock.wait_for(lambda: self._error or met("heard") is not None, PATIENCE)
            times = [met(name) for name in Times._fields]
            if self._error is not None:
                raise self._error
            if not done or None in times:
                raise EngineError(
                    f"the change {change} was not heard in {PATIENCE:g} s",
                    "a live session plays it sooner",
                    "use a smaller model, fewer seconds or a faster machine",
                )
        return Times(*(when for when in times if when is not None))

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        self._thread.join()
        self._session.detach(self)

    # --- the audio thread ---

    def _run(self) -> None:
        due = self._clock()
        while True:
            due = max(due + REPORT / SAMPLE_RATE, self._clock() - REPORT / SAMPLE_RATE)
            with self._lock:
                if self._lock.wait_for(lambda: self._closed, max(0.0, due - self._clock())):
                    return
                self._advance(self._clock())
                place = self.ring.epoch, self.ring.read, self.ring.lead, self.ring.moving
            self._session.report(*place, self)

    def _advance(self, now: float) -> None:
        """Play what was due since the last call, a quantum at a time. Hold the lock."""
        for _ in range(int((now - self._played) * SAMPLE_RATE / QUANTUM)):
            self._play(self._played)
            self._played += QUANTUM / SAMPLE_RATE

    def _play(self, when: float) -> None:
        heard = self.ring.play()
        if self.ring.moving:
            self.began = self.began or when
        for at, changes in heard:
            self._met["heard"].append((when + max(0, at - self.ring.read + QUANTUM) / SAMPLE_RATE, changes))
            self._lock.notify_all()
