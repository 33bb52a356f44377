"""A live session: a ring that makes music and the sound of it, each in a thread of its own.

The sound never waits for the ring: whatever a tick, a new prompt or a new ring takes, the music of before plays on.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from typing import Any

from ..errors import InputError, SessionError
from .beat import Grid, Tempo, check_tempo
from .block import Block
from .capture import Capture, captured, span_of
from .figures import Figures, figures_of
from .lease import KEPT_SECONDS
from .level import DELAY, SAMPLE_RATE
from .line import Heard
from .maker import HOLD, Maker
from .outlet import Outlet
from .score import Cost, Score, check_hot
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

    Attributes:
        key: tells it from a session of the same name before or after it.
        error: of the last thing that went wrong, until something is changed.
        outlets: the listeners; the last has the sound.
    """

    def __init__(self, name: str, score: Score) -> None:
        self.name, self.score, self.state = name, score, State.READY
        self.key = secrets.token_hex(8)
        self.error: Exception | None = None
        self.outlets: tuple[Outlet, ...] = ()
        self._lock = threading.Condition(threading.Lock())
        self._sound = Sound(
            name, score.vae, score.spec, self._lock, lambda: self._maker, self._block, self.fail, KEPT_SECONDS
        )
        opened, decoded = lambda: self._sound.rest(False), lambda: self._sound.decoded
        self._maker = Maker(
            name, score, self._lock, decoded, self._needed, self._idle, opened, self._changed, self.fail, self
        )

    # --- listening ---

    def attach(self, outlet: Outlet) -> None:
        """Let a listener hear what is made from now on. The one that came last has the sound; the others watch."""
        with self._lock:
            self.outlets += (outlet,)

    def detach(self, outlet: Outlet) -> None:
        """Let a listener go; one that is unknown is passed over."""
        with self._lock:
            self.outlets = tuple(other for other in self.outlets if other is not outlet)

    def report(self, epoch: int, position: int, lead: int, moving: bool, by: Outlet | None = None) -> None:
        """Note the position, in samples, that a listener hears now, and how many it wants ahead of it.

        What is made follows the reports: without any, it ends 2 s after the last. Those of a listener that has not the
        sound are passed over.
        """
        with self._lock:
            if by is None or self.outlets[-1:] == (by,):
                self._sound.report(epoch, position, lead, moving)

    def resume_at(self, epoch: int, position: int) -> list[Block]:
        """Go on for a listener that has the sound up to a position: return the blocks from there on, and those that it
        has not heard yet, for they may have been made again.

        Where they are no longer here, or were made in another epoch, the sound begins a new epoch where it was heard
        last, and nothing is returned.
        """
        with self._lock:
            sound = self._sound
            start = min(position, sound.listener.now())
            if epoch == sound.epoch and start == sound.decoded * self.score.spec.hop:
                return []
            blocks = sound.tape.blocks_since(epoch, start) if epoch == sound.epoch else None
            if blocks is None:
                sound.begin(sound.listener.position)
            return blocks or []

    @property
    def made(self) -> Heard:
        """Return the changes in the music that was made last, whether or not it is decoded."""
        return self._maker.line.changes_at(1 << 62)

    @property
    def epoch(self) -> int:
        return self._sound.epoch

    @property
    def position(self) -> int:
        """Return the position, in samples, at which the next piece of sound begins."""
        return self._sound.decoded * self.score.spec.hop

    @property
    def unheard(self) -> float:
        """Return the seconds since a listener was here, or since the session was started."""
        return time.monotonic() - self._sound.reported

    # --- playing ---

    def start(self) -> None:
        """Play, or go on.

        Raises:
            SessionError: for a closed session.
        """
        self._to(State.PLAYING)

    def pause(self) -> None:
        """Make no more sound and no more music, until `start`."""
        self._to(State.PAUSED)

    def stop(self) -> None:
        """Pause, and begin a new epoch with the next `start`: what was sent and not heard is not heard any more."""
        with self._lock:
            self._sound.begin(self._sound.listener.now())
        self._to(State.READY)

    def rest(self, room: Callable[[], bool] | None = None) -> None:
        """Give back all memory of ring and decoder; returns once that is done.

        What was made is kept, and the music goes on from there.

        Args:
            room: tells whether the memory may be taken again; asked from time to time by a thread of the session that
                holds its lock. Without it the session pauses, and `start` takes it.
        """
        with self._lock:
            self._rest(room)
            if not (self._maker.here or self._sound.here):
                self._lock.wait_for(lambda: not (self._sound.has_memory or self._maker.has_memory), GIVE_BACK)
        self._changed()

    def close(self) -> None:
        """End both threads and give up the ring. Closing twice is allowed."""
        if not self.closed:
            self.state = State.CLOSED
            self._maker.close()
            self._sound.close()
            self._changed()

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
        hop = self.score.spec.hop
        with self._lock:
            line = self._maker.line
            first, size = line.first * hop + DELAY, 60.0 / tempo.bpm * SAMPLE_RATE
            grid = Grid(first, size, tempo.beats, line.length * hop)
            return grid.next(self._sound.listener.now() + reach * SAMPLE_RATE, unit)

    def reach(self, cost: Cost) -> float:
        """Return the seconds from `play` until a change of this cost can be at the listener, on the safe side."""
        sound, frame = self._sound, 1.0 / self.score.spec.frame_rate
        return self._maker.reach(cost) + sound.listener.lead / SAMPLE_RATE + sound.pace.spent + frame

    @contextmanager
    def held(self) -> Iterator[None]:
        """Have the ring begin no tick inside a block, for at most `HOLD`: what is evaluated there has the device."""
        self._maker.hold(HOLD)
        try:
            yield
        finally:
            self._maker.hold(0.0)

    def turn(self, change: int, **knobs: Any) -> Cost:
        """Turn hot knobs.

        Raises:
            InputError: for an unknown knob, a value out of range or a curve of another length.
            SessionError: for a closed session.
        """
        check_hot(self.score, knobs)
        return self.play(replace(self.score, knobs=self.score.knobs.changed(**knobs)), change)

    @property
    def listening(self) -> bool:
        """Return true where it plays and somebody hears it."""
        with self._lock:
            return self._needed()

    # --- looking back ---

    @property
    def closed(self) -> bool:
        return self.state is State.CLOSED

    @property
    def heard_until(self) -> int:
        """Return the position, in samples, that the listener hears now."""
        with self._lock:
            return self._sound.listener.now()

    def heard_since(self, position: int) -> tuple[int, bytes]:
        """Return what was heard from a position on, as int16 pairs, and the first position that is still here."""
        with self._lock:
            return self._sound.tape.between(position, self._sound.listener.now())

    def capture(self, seconds: float = 0.0, bars: int = 0, tempo: Tempo = OPEN) -> Capture:
        """Return the last seconds, or bars, that were heard; at most `KEPT_SECONDS`.

        Raises:
            InputError: for neither or both, bars without a tempo, or where nothing was played yet.
        """
        spec = self.score.spec
        span = span_of(seconds, bars, tempo, spec)
        with self._lock:
            heard = self._sound.listener.now() or self._sound.decoded * spec.hop
            moments = [m for m in self._sound.tape.moments() if m.block.position < heard]
        return captured(moments, self._maker.take, span, spec)

    def figures(self) -> Figures:
        stats = self._maker.stats
        with self._lock:
            return figures_of(self._sound, stats, self.score)

    # --- what the threads call ---

    def _to(self, state: State) -> None:
        self._alive()
        playing = state is State.PLAYING
        self.state = state
        with self._lock:
            self._sound.play(playing)
        self._maker.wake()
        self._changed()

    def _rest(self, room: Callable[[], bool] | None) -> None:
        """Ask both threads to give back. Hold the lock."""
        if room is None and self.state is State.PLAYING:
            self.state, self._sound.playing = State.PAUSED, False
        self._sound.rest(True)
        self._maker.rest(room or (lambda: self._sound.playing))

    def _idle(self) -> None:
        """Rest where nobody has listened for long. Called by the ring's thread, which holds the lock."""
        if not self._sound.resting and self._maker.has_memory and self.unheard > UNHEARD:
            self._rest(None)

    def _needed(self) -> bool:
        return self._sound.playing and self._sound.listener.here

    def _alive(self) -> None:
        if self.closed:
            raise SessionError(f"the live session {self.name!r} is closed", "only an open one plays", "start another")

    def _block(self, block: Block) -> None:
        for outlet in self.outlets[-1:]:
            outlet.block(block)

    def _changed(self) -> None:
        for outlet in self.outlets:
            outlet.changed()

    def fail(self, error: Exception) -> None:
        """Tell the listeners what went wrong; the session lives on."""
        self.error = error
        for outlet in self.outlets:
            outlet.failed(error)
