"""The ring of a live session, in a thread of its own: it makes latents as long as the session plays."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from ..device.player import PLAYER, Player
from ..device.workers import leave_team, own_workers
from ..errors import OstinatoError
from ..stream.finished import Finished
from ..stream.session import Session
from ..stream.stats import Stats
from ..takes.take import Log
from .lease import Lease
from .line import Endless, Heard, Loop
from .score import Cost, Score, cost

log = logging.getLogger(__name__)
RUNWAY = 2.0  # seconds of music that a stretch is begun ahead of, beyond the time it takes
SAFE = 1.2  # of the time that a generation takes
NICE = 4  # of a ring on the CPU
HOLD = 0.3  # seconds that a ring waits at most for what is evaluated beside it


@dataclass(frozen=True)
class _Flight:
    """A request in flight.

    Attributes:
        heard: the changes that it was made with; further hot ones may act on it.
        ends: the step that finishes it.
        at, kept: for a stretch, the moment of its first new frame, and the frames before that it repeats.
    """

    heard: Heard
    ends: int
    at: int = 0
    kept: int = 0


class Maker:
    """The thread of the ring. It takes the latest score, keeps the ring full and lays each finished latent on the line.

    Where every further latent of a loop would be the one that plays, since nothing changed and each is made from the
    same seed, the ring rests before the last step of the next: a hot knob is heard after that step, and the device is
    free for sound and prompts.

    An error drops what is in flight and is reported; the line goes on with what it has, and the next score or `wake`
    tries again.

    Args:
        name: of the session.
        score: the first.
        lock: of the line.
        decoded: returns the moment up to which the sound is made; called with `lock` held.
        needed: tells whether somebody listens; called with `lock` held. Where nobody does, the ring rests as soon as
            the line has music, so that the first sound need not wait for it.
        idle: called with `lock` held, again and again while there is nothing to do.
        opened: told, with `lock` held, that the ring has its memory.
        made: told, in this thread, that a latent was laid.
        failed: told, in this thread, what went wrong.
        player: whose memory this is.

    Attributes:
        line: what is heard; another object after a change of mode or length.
    """

    def __init__(
        self,
        name: str,
        score: Score,
        lock: threading.Condition,
        decoded: Callable[[], int],
        needed: Callable[[], bool],
        idle: Callable[[], None],
        opened: Callable[[], None],
        made: Callable[[], None],
        failed: Callable[[Exception], None],
        player: Player,
    ) -> None:
        self.name, self.lock, self._player = name, lock, player
        self.line = _line_of(score)
        self._decoded, self._needed, self._made, self._failed = decoded, needed, made, failed
        self._idle, self._opened = idle, opened
        self._room: Callable[[], bool] = lambda: True  # whether the ring may be opened
        self._giving = self._busy = False  # the ring is to be closed; a round runs
        # what the next step takes in, and the moment before which it must not sound; guarded by the lock
        self._next, self._hot_id, self._slot_id, self._next_hold = score, 0, 0, 0
        self._hold = 0  # that moment, of what was taken in
        self._closed = self._broken = False
        self._held_until = 0.0  # time.monotonic
        self._heard, self._fresh = Heard(), True  # fresh: the score has changed since the last request
        self._same = False  # a further latent would be the one that plays
        self._lease = Lease(name, score)
        self._ahead: torch.cuda.Event | None = None  # behind the last tick
        self._flights: dict[int, _Flight] = {}
        self._number = self._since = 0  # requests made; steps since the last one was
        self._tick, self._stepped = 0.1, 0.0  # seconds that a step takes, and when the latest began
        self._coming: Loop | Endless | None = None  # the line of a new ring, until its first latent is there
        self._thread = threading.Thread(target=self._run, name=f"ostinato ring {name}", daemon=True)
        self._thread.start()

    # --- from any thread ---

    def play(self, score: Score, change: int, hold: int = 0) -> Cost:
        """Play another score from the next step on; scores that come between two steps are passed over.

        Args:
            change: its id, larger than those before.
            hold: the moment from which on it is to be heard; another ring is heard as soon as it plays.

        Returns:
            the cost of this change.
        """
        with self.lock:
            before = self._next
        spent = cost(before, score)
        with self.lock:
            self._next = score
            self._hot_id, self._next_hold = change, max(self._next_hold, hold)
            self._slot_id = change if spent >= Cost.SLOT else self._slot_id
            self._broken = False
            self.lock.notify_all()
        return spent

    def wake(self) -> None:
        """Try again after an error, and look whether somebody listens."""
        with self.lock:
            self._broken = False
            self.lock.notify_all()

    def hold(self, seconds: float) -> None:
        """Begin no step for so long; 0 goes on."""
        with self.lock:
            self._held_until = time.monotonic() + seconds
            self.lock.notify_all()

    def rest(self, room: Callable[[], bool]) -> None:
        """Close the ring after this round, and open it again when `room` says so. Hold the lock; `holds` tells when it
        is closed.
        """
        self._giving, self._room = self._lease.opened or self._busy, room
        self.lock.notify_all()

    @property
    def holds(self) -> bool:
        """Return whether the ring has memory, or may take some now."""
        return self._busy or self._lease.opened

    def until_laid(self) -> float:
        """Return the seconds until the latest change is in music; 0 where it is, where nothing is in flight, and where
        the step takes so long that nothing can be said. Hold the lock.
        """
        ends = [flight.ends for flight in list(self._flights.values())]
        if not ends or not self._lease.opened or self.line.changes_at(1 << 62).hot == self._hot_id:
            return 0.0
        passed = time.monotonic() - self._stepped
        if passed > 2.0 * self._tick:
            return 0.0
        left = (min(ends) - self._lease.session.ticks) * self._tick
        return max(left - passed, 0.1 * self._tick)

    @property
    def works(self) -> bool:
        """Return whether a round runs."""
        return self._busy

    @property
    def _generation(self) -> float:
        """Return the seconds that a generation takes."""
        return self._tick * self.score.steps

    @property
    def here(self) -> bool:
        """Return whether this is the ring's own thread."""
        return threading.current_thread() is self._thread

    def close(self) -> None:
        """End the thread and its ring. Returns when both are gone; may be called twice, not from the thread itself."""
        with self.lock:
            self._closed = True
            self.lock.notify_all()
        self._thread.join()

    def reach(self, cost: Cost) -> float:
        """Return the seconds until music with a change of this cost is there, on the safe side."""
        return SAFE * self._generation * (1 if cost <= Cost.TICK else 2)  # another generation may have to end first

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def score(self) -> Score:
        return self._lease.score

    @property
    def take(self) -> Log | None:
        """Return the take of the last `KEPT_SECONDS`; None where no ring was opened yet."""
        return None if self._lease.record is None else self._lease.record.log()

    @property
    def stats(self) -> Stats | None:
        return self._lease.session.stats() if self._lease.opened else None

    # --- the thread ---

    def _run(self) -> None:
        with ExitStack() as stack:
            if self.score.engine.device.type == "cpu":
                _give_way()
                leave_team()
                stack.enter_context(own_workers())  # which give way too
            PLAYER.set(self._player)
            stack.callback(self._lease.close)
            # inference mode is per thread, and ComfyUI's covers only its own
            stack.enter_context(torch.inference_mode())
            while self._wait():
                try:
                    self._act()
                except Exception as error:
                    self._fail(error)

    def _wait(self) -> bool:
        """Wait until there is something to do; returns false where the session has closed."""
        with self.lock:
            self._busy = False
            self.lock.notify_all()
            while not (self._closed or self._giving) and (self._broken or not self._may()):
                held = self._held_until - time.monotonic()
                self.lock.wait(min(0.5, held) if held > 0.0 else 0.5)
                self._idle()
            self._busy = not self._closed
            return self._busy

    def _may(self) -> bool:
        """Return true where a step would do something, is not held, and its memory may be taken. Hold the lock."""
        return self._held_until <= time.monotonic() and self._wanted() and (self._lease.opened or self._room())

    def _give_back(self) -> None:
        """Close the ring; what is in flight is dropped."""
        self._lease.close()
        self._flights.clear()
        with self.lock:
            self._giving = False

    def _wanted(self) -> bool:
        """Return true where a step would do something. Hold the lock."""
        if self.line.end != 0 and not self._needed():
            return False
        if self._next is not self.score and not self._extends() or not self._lease.opened:
            return True
        if isinstance(self._sink, Loop):
            return not self._at_the_ready()
        return bool(self._flights) or self._due() is not None

    def _at_the_ready(self) -> bool:
        """Return whether a latent would bring nothing new, and one is a step from its end."""
        ticks = self._lease.session.ticks
        return self._same and any(flight.ends == ticks + 1 for flight in self._flights.values())

    @property
    def _sink(self) -> Loop | Endless:
        """Return the line that the ring of now plays for."""
        return self._coming or self.line

    def _act(self) -> None:
        if self._giving:
            self._give_back()
        else:
            self._round()

    def _round(self) -> None:
        """Take in the latest score, submit what is wanted, step, lay what finished."""
        with self.lock:
            score, hot, slot, hold = self._next, self._hot_id, self._slot_id, self._next_hold
            if self._extends():
                score, hot, slot, hold = self.score, self._heard.hot, self._heard.slot, self._hold
        before, session = self.score, self._take(score)
        flight = next(iter(self._flights.values()), None)
        if self.score is not before and flight is not None:
            self._move(flight.at, flight.kept)
        if self._heard != Heard(hot, slot):
            self._heard, self._fresh, self._same = Heard(hot, slot), True, False
        self._hold = hold
        self._submit(session)
        self._stepped = began = time.monotonic()
        done = session.step()
        if self._ahead is not None:
            self._ahead.synchronize()  # a tick is enqueued while one runs, and no more: the next hears a later knob
        self._ahead = session.lane.done()
        self._tick += 0.1 * (time.monotonic() - began - self._tick)
        self._since += 1
        for finished in done:
            self._lay(finished)

    def _take(self, score: Score) -> Session:
        """Play a score from now on; where that fails, the old one plays on. After a rest the line goes on."""
        before, rested = self.score, not self._lease.opened
        try:
            if self._lease.take(score):
                self._flights.clear()
                self._since, self._fresh, self._same = 1 << 30, True, False
                goes_on = rested and (before.frames, before.mode) == (score.frames, score.mode)
                if self.line.end != 0 and not goes_on:
                    self._coming = _line_of(score)
                with self.lock:
                    self._opened()
        except BaseException:
            with self.lock:
                if self._lease.opened and self._next is score:
                    self._next = self.score
            raise
        return self._lease.session

    def _submit(self, session: Session) -> None:
        """Keep a loop's ring full, evenly; give an endless line its next stretch when that is due."""
        if isinstance(self._sink, Loop):
            depth = min(session.config.depth, self.score.depth)  # what is asked for, once the ring has it
            apart = -(-self.score.steps // depth)
            ends = {flight.ends for flight in self._flights.values()}  # the rolling log wants no two in one step
            if len(self._flights) < depth and self._since >= apart and session.ticks + self.score.steps not in ends:
                self._give(session, None, 0, 0)
            return
        with self.lock:
            at = self._due()
            tail = None if at is None else self._sink.tail(at, self.score.beat)
        if at is not None and tail is not None:
            self._give(session, tail if tail.shape[0] else None, at, tail.shape[0])

    def _due(self) -> int | None:
        """Return the moment that the next stretch is to begin at; None while there is no need of one. Hold the lock.

        One is made at a time: the next continues it.
        """
        line = self._sink
        if isinstance(line, Loop) or self._flights:
            return None
        decoded, end, rate = self._decoded(), line.end, self.score.spec.frame_rate
        if line is self._coming or end == line.start or self._extends():
            return end
        ahead = decoded + round(self._generation * rate) + 1
        if not self._fresh and end - ahead > RUNWAY * rate:
            return None
        return min(max(ahead, line.start, self._hold), end)

    def _extends(self) -> bool:
        """Return true where the music up to the moment that the latest score waits for is still to be made. Hold the
        lock.
        """
        line = self.line
        return isinstance(line, Endless) and self._coming is None and line.start < line.end < self._next_hold

    def _give(self, session: Session, tail: Tensor | None, at: int, kept: int) -> None:
        self._move(at, kept)
        request = self.score.request(self._number, tail)
        session.submit(request)
        ends = session.ticks + request.steps
        self._flights[id(request)] = _Flight(self._heard, ends, at, kept)
        self._number, self._since, self._fresh = self._number + 1, 0, False

    def _move(self, at: int, kept: int) -> None:
        """Set the knobs that move with the time of play, for a stretch, or for the next round of a loop."""
        if not self.score.moving:
            return
        if isinstance(self._sink, Loop):
            with self.lock:
                at, kept = self._decoded(), 0
        self._lease.move(at - kept)

    def _lay(self, finished: Finished) -> None:
        """Lay a finished latent on the line."""
        flight, latent = self._flights[id(finished.request)], finished.take()
        if finished.done is not None:
            finished.done.synchronize()  # a copy that waits would keep other threads out of the driver
        if self._lease.record is not None:
            self._lease.record.finished(finished.request, latent)
        heard = Heard(self._heard.hot, flight.heard.slot)
        alike = not (self.score.seed_step or self.score.tracks or self.score.moving)
        self._same = alike and flight.heard == self._heard
        with self.lock:
            del self._flights[id(finished.request)]  # here, where the line has its music: it was coming until now
            line, at = self._sink, flight.at
            if isinstance(line, Loop):
                line.add(latent, heard, self._hold)
            else:
                if self._coming is not None:
                    at = self._decoded()
                    line.begin(at)
                line.add(latent, flight.kept, at, self._decoded(), heard, self._hold)
            self.line, self._coming = line, None
            self.lock.notify_all()
        self._made()

    def _fail(self, error: Exception) -> None:
        """Report an error; what is in flight is dropped, for a part of it may be lost."""
        if self._flights:
            self._lease.session.clear()
        self._flights.clear()
        self._same = False
        with self.lock:
            self._broken = self._next is self.score or not self._lease.opened
        if isinstance(error, OstinatoError):
            log.warning("live session %s: %s", self.name, error)
        else:
            log.exception("live session %s failed", self.name)
        self._failed(error)


def _give_way() -> None:
    """Let the sound's thread go first where both want the CPU: its decodes took 0.12 s in place of 0.2 to 0.3 on two
    busy cores. Linux has priorities of threads; elsewhere this would be the whole process's.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


def _line_of(score: Score) -> Loop | Endless:
    return Loop() if score.mode == "loop" else Endless(score.tail, score.spec.channels)
