"""Statistics of a stream: counters on the host, and tick times from events that are read once they have passed."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass

import torch

from ..spec import ACE_STEP, ModelSpec

KEPT = 4096  # tick times remembered


@dataclass(frozen=True)
class Stats:
    """A snapshot of one session.

    Attributes:
        ticks: ticks run.
        finished: latents returned.
        dropped: requests dropped from the queue or the ring.
        tick_ms: the latest tick times in milliseconds, oldest first.
        seconds: time from the first tick's start to the last one's end.
        audio_seconds: music in the finished latents.
        depth, frames: of the ring.
        engine: its name.
        fused: true where positive and negative rows run in one pass; None in a ring that does not decode both at every
            step.
        guidance: the ring's negative rows, as in `StreamConfig`.
        spec: of the engine's model.
        slots: steps done, and steps in all, of each slot; (0, 0) of a free one.
    """

    ticks: int
    finished: int
    dropped: int
    tick_ms: tuple[float, ...]
    seconds: float
    audio_seconds: float
    depth: int
    frames: int
    engine: str
    fused: bool | None
    guidance: str = "off"
    spec: ModelSpec = ACE_STEP
    slots: tuple[tuple[int, int], ...] = ()

    @property
    def ms_per_tick(self) -> float:
        """Compute the median tick time in milliseconds; 0 before the first tick."""
        ordered = sorted(self.tick_ms)
        return ordered[len(ordered) // 2] if ordered else 0.0

    @property
    def latents_per_s(self) -> float:
        return self.finished / self.seconds if self.seconds else 0.0

    @property
    def realtime(self) -> float:
        """Compute the seconds of music made per second of time."""
        return self.audio_seconds / self.seconds if self.seconds else 0.0

    def text(self) -> str:
        """Describe the figures in three lines, for people."""
        passes = {"off": "unguided", "initialize": "guided, negatives one by one"}.get(self.guidance)
        passes = passes or f"guided, {'one pass' if self.fused else 'several passes'}"
        return (
            f"{self.finished} latents finished, {self.dropped} dropped, in {self.ticks} ticks\n"
            f"{self.ms_per_tick:.1f} ms per tick (median), {self.latents_per_s:.2f} latents per second, "
            f"{self.realtime:.1f} times real time\n"
            f"ring of {self.depth}, {self.spec.seconds(self.frames):g} s each, {passes}, {self.engine}"
        )


class TickClock:
    """A clock of ticks: event pairs on a stream, read once they have passed; on the CPU the host's clock."""

    def __init__(self, stream: torch.cuda.Stream | None) -> None:
        self.stream = stream
        self.ticks = 0
        self.first: float | None = None
        self.last = 0.0
        self._ms: deque[float] = deque(maxlen=KEPT)
        self._running: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        self._lock = threading.Lock()  # a step ends while another thread asks for figures
        self._begin: float | torch.cuda.Event = 0.0
        self._first: torch.cuda.Event | None = None  # before the first tick
        self._last: torch.cuda.Event | None = None  # behind the last tick that is known to be over

    def start(self) -> None:
        """Note the start of a tick."""
        now = time.perf_counter()
        self.first = now if self.first is None else self.first
        self._begin = now if self.stream is None else self._event(self.stream)
        if self._first is None and not isinstance(self._begin, float):
            self._first = self._begin

    def stop(self) -> None:
        """Note its end."""
        self.ticks += 1
        self.last = time.perf_counter()
        if isinstance(self._begin, float):
            self._ms.append(1e3 * (self.last - self._begin))
        elif self.stream is not None:
            self._running.append((self._begin, self._event(self.stream)))
            self._read()

    def tick_ms(self) -> tuple[float, ...]:
        """Return the latest tick times in milliseconds, oldest first."""
        self._read()
        return tuple(self._ms)

    def settle(self) -> None:
        """Wait for the last tick."""
        if self._running:
            self._running[-1][1].synchronize()
            self._read()

    @property
    def seconds(self) -> float:
        """Return the seconds from the first tick's start to the end of the last that is over."""
        if self._first is not None:
            return 0.0 if self._last is None else self._first.elapsed_time(self._last) / 1e3
        return 0.0 if self.first is None else self.last - self.first

    @staticmethod
    def _event(stream: torch.cuda.Stream) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(stream)
        return event

    def _read(self) -> None:
        """Read the times of the ticks that are over."""
        with self._lock:
            while self._running and self._running[0][1].query():
                begin, end = self._running.popleft()
                self._last = end
                self._ms.append(begin.elapsed_time(end))
