"""A live session: a ring that makes music and the sound of it, each in a thread of its own.

The sound never waits for the ring: whatever a tick, a new prompt or a new ring takes, the music of before plays on.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum

from ..errors import InputError, SessionError
from .beat import Grid, Tempo, check_tempo
from .block import Block
from .capture import Capture, captured, span_of
from .figures import Figures, figures_of
from .lease import KEPT_SECONDS
from .level import DELAY, SAMPLE_RATE
from .line import Heard
from .maker import HOLD, Maker
from .outlet import Outlet, Outlets
from .score import Cost, Score
from .sound import Sound

UNHEARD = 60.0  # seconds without a listener after which a session rests until it is started again
GIVE_BACK = 10.0  # seconds that may pass until a resting session has no memory left: the longest tick or decode
OPEN = Tempo()


class State(StrEnum):
    """The states of a session; `closed` is final."""

    READY = "ready"
    PLAYING = "playing"
    PAUSED = "paused"
    CLOSED = "closed"


class LiveSession:
    """Music that plays until it is closed. Every method works from any thread; `play` from one at a time.

    Args:
        name: its id.
        score: what it plays first. Its first latent is made at once, so that the first sound need not wait for it.
        clock: of all that it times, in seconds.

    Attributes:
        key: tells it from a session of the same name before or after it.
        error: of the last thing that went wrong, until it is started again or something is changed.
        outlets: the listeners.
    """

    def __init__(self, name: str, score: Score, clock: Callable[[], float] = time.monotonic) -> None:
        self.name, self.score = name, score
        self._still = State.READY  # the state while there is no sound
        self.key = secrets.token_hex(8)
        self.error: Exception | None = None
        self.outlets = outlets = Outlets()
        self._clock, self._lock = clock, threading.Condition(threading.Lock())
        lock = self._lock
        self._sound = Sound(
            name, score.vae, score.spec, lock, lambda: self._maker, outlets.block, self.fail, KEPT_SECONDS, clock
        )
        self._cursor = self._sound.cursor
        opened, decoded = lambda: self._sound.woken(self._maker.giving), lambda: self._cursor.decoded
        self._maker: Maker = Maker(
            name, score, lock, decoded, self._needed, self._idle, opened, outlets.changed, self.fail, self, clock
        )
        self._sound.open()
        self._maker.open()

    # --- listening ---

    def attach(self, outlet: Outlet) -> None:
        """Let a listener hear what is made from now on, in the place of the one before."""
        with self._lock:
            self.outlets.add(outlet)

    def detach(self, outlet: Outlet) -> None:
        """Let a listener go; one that is unknown is passed over."""
        with self._lock:
            self.outlets.drop(outlet)

    def report(self, epoch: int, position: int, lead: int, moving: bool, by: Outlet | None = None) -> None:
        """Note the position, in samples, that a listener hears now, and how many it wants ahead of it.

        What is made follows the reports: without any, it ends 2 s after the last. Those of a listener that has not the
        sound are passed over.
        """
        with self._lock:
            if by is None or self.outlets.has_sound(by):
                self._sound.report(epoch, position, lead, moving)

    def resume(self, outlet: Outlet, epoch: int, position: int) -> list[Block]:
        """Attach a listener that has the sound up to a position: return `Cursor.blocks_since`, which it has not. Where
        they are no longer here, the sound begins a new epoch where it was heard last, and nothing is returned.
        """
        with self._lock:
            self.outlets.add(outlet)
            blocks = self._cursor.blocks_since(epoch, position)
            if blocks is None:
                self._sound.begin(self._cursor.listener.position)
            return blocks or []

    @property
    def made(self) -> Heard:
        """Return the changes in the music that was made last, whether or not it is decoded."""
        return self._maker.line.changes_at(1 << 62)

    @property
    def epoch(self) -> int:
        return self._cursor.epoch

    @property
    def position(self) -> int:
        """Return the position, in samples, at which the next piece of sound begins."""
        return self._cursor.decoded * self.score.spec.hop

    @property
    def unheard(self) -> float:
        """Return the seconds since a listener was here, or since the session was started."""
        return self._clock() - self._sound.reported

    # --- playing ---

    def start(self) -> None:
        """Play, or go on; what went wrong is tried again.

        Raises:
            SessionError: for a closed session.
        """
        self.error = None
        self._to(State.PAUSED, True)

    def pause(self) -> None:
        """Make no more sound and no more music, until `start`."""
        self._to(State.PAUSED, False)

    def stop(self) -> None:
        """Pause, and begin a new epoch with the next `start`: what was sent and not heard is not heard any more."""
        with self._lock:
            self._sound.begin(self._cursor.listener.now())
        self._to(State.READY, False)

    def rest(self, room: Callable[[], bool] | None = None) -> None:
        """Give back all memory of ring and decoder; returns once that is done, even where `room` lets them take it
        again at once.

        What was made is kept, and the music goes on from there.

        Args:
            room: tells whether the memory may be taken again; asked from time to time by a thread of the session that
                holds its lock. Without it the session pauses, and `start` takes it.
        """
        with self._lock:
            self._rest(room)
            if not (self._maker.here or self._sound.here):
                self._lock.wait_for(lambda: not (self._sound.giving or self._maker.giving), GIVE_BACK)
        self.outlets.changed()

    def close(self) -> None:
        """End both threads and give up the ring. Closing twice is allowed."""
        if not self.closed:
            with self._lock:
                self._still = State.CLOSED
                self._sound.play(False)
            self._maker.close()
            self._sound.close()
            self.outlets.changed()

    def play(self, score: Score, change: int, at: int = 0) -> Cost:
        """Play another score as soon as its cost allows.

        Args:
            change: the id of this change, larger than those before; blocks come back with it.
            at: the position, in samples, before which it must not be heard, to the nearest latent frame. Other changes
                that are played before that position wait for it too; another ring does not wait.

        Raises:
            InputError: for a model of another family.
            SessionError: for a closed session.
        """
        self._alive()
        if score.spec != self.score.spec:
            raise InputError(
                f"the new music is of {score.spec}", f"this session plays {self.score.spec}", "start another session"
            )
        with self._lock:
            self._sound.use(score.vae)
        self.score, self.error = score, None
        return self._maker.play(score, change, round((at - DELAY) / score.spec.hop) if at else 0)

    def next_beat(self, unit: str, tempo: Tempo, reach: float) -> int:
        """Return the position, in samples, of the first beat or bar line that a change can be heard at.

        Args:
            reach: seconds until its music is made.

        Raises:
            InputError: where the tempo is open.
        """
        check_tempo(tempo.bpm)
        with self._lock:
            grid = Grid.of(self._maker.line, tempo, self.score.spec.hop, SAMPLE_RATE, DELAY)
            return grid.next(self._cursor.listener.now() + reach * SAMPLE_RATE, unit)

    def reach(self, cost: Cost) -> float:
        """Return the seconds from `play` until a change of this cost can be at the listener, on the safe side."""
        cursor, frame = self._cursor, 1.0 / self.score.spec.frame_rate
        return self._maker.reach(cost) + cursor.listener.lead / SAMPLE_RATE + cursor.pace.spent + frame

    @contextmanager
    def held(self) -> Iterator[None]:
        """Have the ring begin no tick inside a block, for at most `HOLD`: what is evaluated there has the device."""
        self._maker.hold(HOLD)
        try:
            yield
        finally:
            self._maker.hold(0.0)

    @property
    def works(self) -> bool:
        """Return true where the ring makes music; it rests where more would bring nothing new, or nobody hears it."""
        with self._lock:
            return self._maker.works

    @property
    def listening(self) -> bool:
        """Return true where it plays and somebody hears it."""
        with self._lock:
            return self._needed()

    # --- looking back ---

    @property
    def state(self) -> State:
        """Return what it does now: it is paused too where its sound failed, or nobody has listened for long."""
        return State.PLAYING if self._sound.playing else self._still

    @property
    def closed(self) -> bool:
        return self._still is State.CLOSED

    @property
    def heard_until(self) -> int:
        """Return the position, in samples, that the listener hears now."""
        with self._lock:
            return self._cursor.listener.now()

    def heard_since(self, position: int) -> tuple[int, bytes]:
        """Return what was heard from a position on, as int16 pairs, and the first position that is still here."""
        with self._lock:
            return self._cursor.tape.between(position, self._cursor.listener.now())

    def capture(self, seconds: float = 0.0, bars: int = 0, tempo: Tempo = OPEN) -> Capture:
        """Return the last seconds, or bars, that were heard; at most `KEPT_SECONDS`.

        Raises:
            InputError: for neither or both, bars without a tempo, or where nothing was played yet.
        """
        spec = self.score.spec
        span = span_of(seconds, bars, tempo, spec)
        with self._lock:
            heard = self._cursor.listener.now() or self._cursor.decoded * spec.hop
            moments = [m for m in self._cursor.tape.moments() if m.block.position < heard]
        return captured(moments, self._maker.take, span, spec)

    def figures(self) -> Figures:
        stats = self._maker.stats
        with self._lock:
            return figures_of(self._sound, stats, self.score)

    @property
    def awaited(self) -> bool:
        """Return true where its end is waited for."""
        return self.closed

    # --- what the threads call ---

    def _to(self, still: State, playing: bool) -> None:
        """Play or not; `still` is the state from when there is no sound."""
        with self._lock:
            self._alive()
            self._still = still
            self._sound.play(playing)
        self._maker.wake()
        self.outlets.changed()

    def _rest(self, room: Callable[[], bool] | None) -> None:
        """Ask both threads to give back. Hold the lock."""
        if room is None:
            self._sound.playing = False
        self._sound.rest()
        self._maker.rest(room or (lambda: self._sound.playing))

    def _idle(self) -> None:
        """Rest where nobody has listened for long. Called by the ring's thread, which holds the lock."""
        if not self._sound.resting and self._maker.has_memory and self.unheard > UNHEARD:
            self._rest(None)

    def _needed(self) -> bool:
        return self._sound.playing and self._cursor.listener.here

    def _alive(self) -> None:
        if self.closed:
            raise SessionError(f"the live session {self.name!r} is closed", "only an open one plays", "start another")

    def fail(self, error: Exception) -> None:
        """Tell the listeners what went wrong; the session lives on."""
        self.error = error
        self.outlets.failed(error)
