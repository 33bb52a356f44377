"""A listener of a live session as a page is one, without a browser: it plays blocks against the host's clock."""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

from ..errors import EngineError
from ..live.block import Block
from ..live.level import SAMPLE_RATE
from ..live.line import Heard
from ..live.session import LiveSession

QUANTUM = 128  # samples that an audio thread plays at a time
REPORT = 1024  # samples between two reports
FIRST_LEAD, MOST_LEAD, GROWTH, FALL, CALM = 2400, 24_000, 1.25, 0.85, 5 * SAMPLE_RATE
PATIENCE = 120.0  # seconds


class Lead:
    """The samples that a listener wants ahead: more after an underrun, less again while there is none.

    `frontend/src/ring.ts` has the same, but for the fall: there it is by half of what was never needed.
    """

    def __init__(self) -> None:
        self.samples, self._calm = FIRST_LEAD, 0

    def missed(self) -> None:
        """Grow after an underrun."""
        self.samples, self._calm = min(MOST_LEAD, round(self.samples * GROWTH)), 0

    def played(self, count: int) -> None:
        """Note samples that were there in time."""
        self._calm += count
        if self._calm >= CALM:
            self.samples, self._calm = max(FIRST_LEAD, round(self.samples * FALL)), 0


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

    Attributes:
        underruns: times that the sound was not there in time.
        lead: samples that it wants ahead.
        began: the moment at which the first sample was played; None before.
    """

    def __init__(self, session: LiveSession) -> None:
        self._session, self._lock = session, threading.Condition(threading.Lock())
        self._epoch = self._read = self._end = 0  # as in the page's ring
        self._lead = Lead()
        self._moving = self._closed = False
        self._clock = time.perf_counter()  # up to which it has played
        self._last, self._marks = Heard(), list[tuple[int, Heard]]()
        self._met: dict[str, list[tuple[float, Heard]]] = {name: [] for name in Times._fields}
        self._error: Exception | None = None
        self.underruns = 0
        self.began: float | None = None
        session.attach(self)
        self._thread = threading.Thread(target=self._run, name="bench player", daemon=True)
        self._thread.start()

    @property
    def lead(self) -> int:
        return self._lead.samples

    # --- what the session's threads call ---

    def block(self, block: Block) -> None:
        """Take a block in place of what is at its positions."""
        now = time.perf_counter()
        with self._lock:
            self._advance(now)
            if block.epoch < self._epoch or block.epoch == self._epoch and block.end <= self._read:
                return
            if block.epoch > self._epoch or block.position > self._end:
                self._epoch, self._read, self._moving = block.epoch, block.position, False
            self._end = block.end
            if block.heard != self._last:
                self._last = block.heard
                self._marks.append((block.at, block.heard))
                self._met["ready"].append((self._clock, block.heard))  # within a quantum before now

    def changed(self) -> None:
        with self._lock:
            self._met["made"].append((time.perf_counter(), self._session.made))

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
        due = time.perf_counter()
        while True:
            due = max(due + REPORT / SAMPLE_RATE, time.perf_counter() - REPORT / SAMPLE_RATE)
            with self._lock:
                if self._lock.wait_for(lambda: self._closed, max(0.0, due - time.perf_counter())):
                    return
                self._advance(time.perf_counter())
                place = self._epoch, self._read, self.lead, self._moving
            self._session.report(*place, self)

    def _advance(self, now: float) -> None:
        """Play what was due since the last call, a quantum at a time. Hold the lock."""
        for _ in range(int((now - self._clock) * SAMPLE_RATE / QUANTUM)):
            self._play(self._clock)
            self._clock += QUANTUM / SAMPLE_RATE

    def _play(self, when: float) -> None:
        ahead = self._end - self._read
        if not self._moving and ahead >= self.lead:
            self._moving = True
            self.began = self.began or when
        if not self._moving:
            return
        if ahead < QUANTUM:
            self._moving, self.underruns = False, self.underruns + 1
            self._lead.missed()
            return
        self._read += QUANTUM
        self._lead.played(QUANTUM)
        while self._marks and self._marks[0][0] < self._read:
            at, heard = self._marks.pop(0)
            self._met["heard"].append((when + max(0, at - self._read + QUANTUM) / SAMPLE_RATE, heard))
            self._lock.notify_all()
