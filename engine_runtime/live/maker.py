"""The ring of a live session, in a thread of its own: it makes latents as long as the session plays."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

import torch

from ..device.player import PLAYER, Player
from ..device.workers import leave_team, own_workers
from ..errors import OstinatoError
from ..stream.session import Session
from ..stream.stats import Stats
from ..takes.take import Log
from .feed import Feed
from .lease import Lease
from .line import Heard, Line
from .score import Cost, Score, cost

log = logging.getLogger(__name__)
SAFE = 1.2  # of the time that a generation takes
NICE = 1  # of a ring on the CPU: with 4, and a page on the same two cores, turns were heard 34 ms later in the median
HOLD = 0.3  # seconds that a ring waits at most for what is evaluated beside it


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
        clock: of steps and of holds, in seconds.
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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.lock, self._player = name, lock, player
        self._needed, self._made, self._failed = needed, made, failed
        self._idle, self._opened = idle, opened
        self._room: Callable[[], bool] = lambda: True  # whether the ring may be opened
        self._giving = self._busy = False  # the ring is to be closed; a round runs
        self._next, self._hot_id, self._slot_id = score, 0, 0  # what the next step takes in; guarded by the lock
        self._closed = self._broken = False
        self._again = False  # something was asked for since the latest round began
        self._clock, self._held_until = clock, 0.0
        self._lease = Lease(name, score)
        self._feed = Feed(self._lease, lock, decoded, clock)
        self._ahead: torch.cuda.Event | None = None  # behind the last tick
        self._thread = threading.Thread(target=self._run, name=f"ostinato ring {name}", daemon=True)

    # --- from any thread ---

    def open(self) -> None:
        """Start the thread. Everything that it calls must be set by then."""
        self._thread.start()

    def play(self, score: Score, change: int, earliest: int = 0) -> Cost:
        """Play another score from the next step on; scores that come between two steps are passed over.

        Args:
            change: its id, larger than those before.
            earliest: the moment before which it must not be heard; another ring is heard as soon as it plays.

        Returns:
            the cost of this change.
        """
        with self.lock:
            before = self._next
        spent = cost(before, score)
        with self.lock:
            self._next = score
            self._hot_id, self._feed.awaited = change, max(self._feed.awaited, earliest)
            self._slot_id = change if spent >= Cost.SLOT else self._slot_id
            self._broken, self._again = False, True
            self.lock.notify_all()
        return spent

    def wake(self) -> None:
        """Try again after an error, and look whether somebody listens."""
        with self.lock:
            self._broken, self._again = False, True
            self.lock.notify_all()

    def hold(self, seconds: float) -> None:
        """Begin no step for so long; 0 goes on."""
        with self.lock:
            self._held_until = self._clock() + seconds
            self.lock.notify_all()

    def rest(self, room: Callable[[], bool]) -> None:
        """Close the ring after this round, and open it again when `room` says so. Hold the lock; `giving` tells whether
        it is still to be closed.
        """
        self._giving, self._room = self._lease.opened or self._busy, room
        self.lock.notify_all()

    @property
    def has_memory(self) -> bool:
        """Return whether the ring has memory, or may take some now."""
        return self._busy or self._lease.opened

    @property
    def giving(self) -> bool:
        """Return whether the ring was asked to close, and is still to do so."""
        return self._giving and self.has_memory

    def until_laid(self) -> float:
        """Return the seconds until the latest change is in music; 0 where it is, or none is known. Hold the lock."""
        return self._feed.until_laid(self._hot_id)

    @property
    def line(self) -> Line:
        """Return what is heard; another object after a change of mode or length."""
        return self._feed.line

    @property
    def works(self) -> bool:
        """Return whether a round runs."""
        return self._busy

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
        generations = 1 if cost <= Cost.TICK else 2  # another one may have to end first
        return SAFE * self._feed.generation * generations

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
                held = self._held_until - self._clock()
                self.lock.wait(min(0.5, held) if held > 0.0 else 0.5)
                self._idle()
            self._busy = not self._closed
            return self._busy

    def _may(self) -> bool:
        """Return true where a step would do something, is not held, and its memory may be taken. Hold the lock."""
        return self._held_until <= self._clock() and self._wanted() and (self._lease.opened or self._room())

    def _give_back(self) -> None:
        """Close the ring; what is in flight is dropped."""
        self._lease.close()
        self._feed.clear()
        with self.lock:
            self._giving = False

    def _wanted(self) -> bool:
        """Return true where a step would do something. Hold the lock."""
        if self.line.end != 0 and not self._needed():
            return False
        if self._next is not self.score and not self._feed.extends or not self._lease.opened:
            return True
        return self._feed.wanted

    def _act(self) -> None:
        if self._giving:
            self._give_back()
        else:
            self._round()

    def _round(self) -> None:
        """Take in the latest score, submit what is wanted, step, lay what finished."""
        feed = self._feed
        with self.lock:
            self._again = False
            score, heard, earliest = self._next, Heard(self._hot_id, self._slot_id), feed.awaited
            if feed.extends:
                score, heard, earliest = self.score, feed.heard, feed.earliest
        before, session = self.score, self._take(score)
        if self.score is not before:
            feed.turned()
        feed.hear(heard, earliest)
        feed.submit(session)
        feed.flights.step_begins()
        done = session.step()
        if self._ahead is not None:
            self._ahead.synchronize()  # a tick is enqueued while one runs, and no more: the next hears a later knob
        self._ahead = session.lane.done()
        feed.flights.step_ends()
        feed.stepped()
        for finished in done:
            feed.lay(finished)
            self._made()

    def _take(self, score: Score) -> Session:
        """Play a score from now on; where that fails, the old one plays on. After a rest the line goes on."""
        before, rested = self.score, not self._lease.opened
        try:
            if self._lease.take(score):
                goes_on = rested and (before.frames, before.mode) == (score.frames, score.mode)
                self._feed.begin(score, goes_on)
                with self.lock:
                    self._opened()
        except BaseException:
            with self.lock:
                if self._lease.opened and self._next is score:
                    self._next = self.score
            raise
        return self._lease.session

    def _fail(self, error: Exception) -> None:
        """Report an error; what is in flight is dropped, for a part of it may be lost. What was asked for meanwhile is
        tried.
        """
        if len(self._feed.flights):
            self._lease.session.clear()
        self._feed.clear()
        with self.lock:
            in_vain = self._next is self.score or not self._lease.opened
            self._broken = in_vain and not self._again
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
