"""The requests that a live ring is given next, and the line that finished latents are laid on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from torch import Tensor

from ..stream.finished import Finished
from ..stream.session import Session
from .flights import Flight, Flights
from .lease import Lease
from .line import Endless, Heard, Loop
from .score import Score

RUNWAY = 2.0  # seconds of music that a stretch is begun ahead of, beyond the time it takes
LONG_AGO = 1 << 30  # steps


class Feed:
    """The requests of a ring and the line that they are for. The thread that plays calls all but `until_laid`.

    Args:
        lease: of the ring.
        lock: of the line.
        decoded: returns the moment up to which the sound is made; called with `lock` held.
        clock: of steps, in seconds.

    Attributes:
        line: what is heard; another object after a change of mode or length.
        flights: the requests in flight.
        heard: the changes that the ring has.
        earliest: the moment before which they must not sound.
        awaited: that of the latest score, which the ring may not have yet; guarded by the lock.
    """

    def __init__(
        self,
        lease: Lease,
        lock: threading.Condition,
        decoded: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lease, self._lock, self._decoded = lease, lock, decoded
        self.line, self.flights, self.heard = _line_of(lease.score), Flights(clock), Heard()
        self.earliest = self.awaited = 0
        self._coming: Loop | Endless | None = None  # the line of a new ring, until its first latent is there
        self._number = 0  # requests made
        self._same = False  # a further latent would be the one that plays
        self.clear()

    # --- with the lock held ---

    @property
    def wanted(self) -> bool:
        """Return whether a step would bring something new, the score of the ring being the latest."""
        sink = self._sink
        if isinstance(sink, Loop):
            return not self._at_the_ready()
        return len(self.flights) > 0 or self._due(sink) is not None

    @property
    def extends(self) -> bool:
        """Return whether the music up to the moment that the latest score waits for is still to be made."""
        line = self.line
        return isinstance(line, Endless) and self._coming is None and line.start < line.end < self.awaited

    def until_laid(self, change: int) -> float:
        """Return the seconds until a hot change is in music; 0 where it is, or nothing can be said."""
        if not self._lease.opened or self.line.changes_at(1 << 62).hot == change:
            return 0.0
        return self.flights.until_end(self._lease.session.ticks)

    # --- without it ---

    @property
    def generation(self) -> float:
        """Return the seconds that a generation takes."""
        return self.flights.tick * self._lease.score.steps

    def hear(self, heard: Heard, earliest: int) -> None:
        """Note the changes that the ring has from now on, and the moment before which they must not sound."""
        if self.heard != heard:
            self.heard, self._fresh, self._same = heard, True, False
        self.earliest = earliest

    def begin(self, score: Score, goes_on: bool) -> None:
        """Fill a ring that was opened for a score; unless its music goes on, its line begins with its first latent."""
        self.clear()
        if not goes_on:
            self._coming = _line_of(score)

    def clear(self) -> None:
        """Forget what is in flight: the next request takes its place."""
        self.flights.clear()
        self._since = LONG_AGO  # steps since the last request
        self._fresh = True  # no request has the score of now

    def stepped(self) -> None:
        """Note that the ring has made a step."""
        self._since += 1

    def submit(self, session: Session) -> None:
        """Keep a loop's ring full, evenly; give an endless line its next stretch when that is due."""
        score, sink = self._lease.score, self._sink
        if isinstance(sink, Loop):
            depth = min(session.config.depth, score.depth)  # what is asked for, once the ring has it
            apart = -(-score.steps // depth)
            free = session.ticks + score.steps not in self.flights.ends  # the rolling log wants no two in one step
            if len(self.flights) < depth and self._since >= apart and free:
                self._give(session, None, 0, 0)
            return
        with self._lock:
            at = self._due(sink)
            tail = None if at is None else sink.tail(at, score.beat)
        if at is not None and tail is not None:
            self._give(session, tail if tail.shape[0] else None, at, tail.shape[0])

    def turned(self) -> None:
        """Take in that the score has changed: the frames that a stretch keeps, and for what is in flight the knobs that
        move with the time of play.
        """
        if isinstance(sink := self._sink, Endless):
            sink.kept = self._lease.score.tail
        if (flight := self.flights.first) is not None:
            self._move(flight.at, flight.kept)

    def lay(self, finished: Finished) -> None:
        """Lay a finished latent on the line."""
        flight, latent, score = self.flights.of(finished.request), finished.take(), self._lease.score
        if finished.done is not None:
            finished.done.synchronize()  # a copy that waits would keep other threads out of the driver
        if self._lease.record is not None:
            self._lease.record.finished(finished.request, latent)
        heard = Heard(self.heard.hot, flight.heard.slot)
        with self._lock:
            self.flights.drop(finished.request)  # with the line's lock: the change that it has was coming until now
            line, at = self._sink, flight.at
            if isinstance(line, Loop):
                line.add(latent, heard, self.earliest)
            else:
                if self._coming is not None:
                    at = self._decoded()
                    line.begin(at)
                line.add(latent, flight.kept, at, self._decoded(), heard, self.earliest)
            self.line, self._coming = line, None
            alike = not (score.seed_step or score.tracks or score.moving)
            self._same = alike and flight.heard == self.heard
            self._lock.notify_all()

    @property
    def _sink(self) -> Loop | Endless:
        """Return the line that the ring of now plays for."""
        return self._coming or self.line

    def _at_the_ready(self) -> bool:
        """Return whether a latent would bring nothing new, and one is a step from its end."""
        return self._same and self._lease.session.ticks + 1 in self.flights.ends

    def _due(self, line: Endless) -> int | None:
        """Return the moment that the next stretch is to begin at; None while there is no need of one. Hold the lock.

        One is made at a time: the next continues it.
        """
        if len(self.flights):
            return None
        if self.extends:
            return line.end
        rate = self._lease.score.spec.frame_rate
        ahead = self._decoded() + round(self.generation * rate) + 1
        if not self._fresh and line.end - ahead > RUNWAY * rate:
            return None
        return min(max(ahead, self.earliest), line.end)

    def _give(self, session: Session, tail: Tensor | None, at: int, kept: int) -> None:
        self._move(at, kept)
        request = self._lease.score.request(self._number, tail)
        session.submit(request)
        self.flights.add(request, Flight(self.heard, session.ticks + request.steps, at, kept))
        self._number, self._since, self._fresh = self._number + 1, 0, False

    def _move(self, at: int, kept: int) -> None:
        """Set the knobs that move with the time of play, for a stretch; for a round of a loop, or the first stretch of
        another line, by where the sound is.
        """
        if isinstance(self._sink, Loop) or self._coming is not None:
            with self._lock:
                at = self._decoded()
        self._lease.move(at - kept)


def _line_of(score: Score) -> Loop | Endless:
    return Loop() if score.mode == "loop" else Endless(score.tail, score.spec.channels)
