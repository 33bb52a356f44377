"""The ring of a live session: opened for a score, turned as the score changes, opened anew where it must be."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from ..audio.decode import Vae
from ..lora.stack import stacked_for
from ..stream.session import Session
from ..stream.sessions import runtime
from .rolling import RollingLog
from .score import Cost, Score, cost, moved

KEPT_SECONDS = 60.0  # of the past that a capture can reach
_names = itertools.count(1)


class Lease:
    """A session of the runtime and its rolling log. All methods are called by the thread that plays.

    Attributes:
        score: what the ring plays; until it is opened, the first score.
        session: of the ring that is open.
        record: of the ring that was opened last.
    """

    session: Session
    record: RollingLog | None = None

    def __init__(self, name: str, score: Score) -> None:
        self.name, self.score, self.opened = name, score, False
        self._moved: dict[str, Tensor] = {}  # the moving knobs as they were set last

    def take(self, score: Score) -> bool:
        """Play a score from the next step on; returns true where that took another ring.

        Raises:
            OstinatoError: where the score cannot be played; the ring is left with the one before.
        """
        if self.opened and cost(self.score, score) < Cost.RING:
            self._turn(score)
            return False
        self._open(score)
        return True

    def move(self, moment: int) -> None:
        """Set the knobs that move with the time of play, for what sounds from a moment on."""
        now = self.score.knobs_at(moment)
        changes = {
            name: value
            for name, value in now.items()
            if (old := self._moved.get(name)) is None or not torch.equal(old, value)
        }
        if changes:
            self.session.set(**changes)
            self._moved |= changes

    def close(self) -> None:
        """Close the ring. Its engine rests, unless another ring has brought it too: engines count."""
        if self.opened:
            self.opened = False
            runtime().close(self.session.name)
            self.score.engine.rest()

    def _open(self, score: Score) -> None:
        """Open a ring; the old one is closed once the new one is there."""
        name, config = f"{self.name} ({next(_names)})", score.config()
        record = RollingLog(score.engine, config, score.knobs, KEPT_SECONDS)
        score.engine.ready()
        try:
            wake(score.vae)
            session = runtime().open(name, score.engine, config, score.knobs, record)
            if score.adapters:
                _adapt(session, score)
            session.automate(score.tracks)
        except BaseException:
            runtime().close(name)
            score.engine.rest()
            raise
        self.close()
        self.session, self.record, self.score, self.opened = session, record, score, True
        self._moved = {}

    def _turn(self, score: Score) -> None:
        """Give the ring what is hot in a score; the rest goes into its requests."""
        before, session = self.score, self.session
        if score is before:
            return
        if before.depth != score.depth:
            session.configure(depth=score.depth)
        if before.adapters is not score.adapters:
            _adapt(session, score)
        if before.tracks != score.tracks:
            session.automate(score.tracks)
        if changes := moved(before.knobs, score.knobs):
            session.set(**changes)
            self._moved = {name: value for name, value in self._moved.items() if name not in changes}
        self.score = score


def wake(vae: Vae) -> None:
    """Bring a VAE's weights to the device, where it is one that can rest."""
    getattr(vae, "ready", lambda: None)()


def put_to_rest(vae: Vae) -> None:
    """Let a VAE give up its memory, where it can."""
    getattr(vae, "rest", lambda: None)()


def _adapt(session: Session, score: Score) -> None:
    if not score.adapters:
        session.adapt(None)
        return
    engine = score.engine
    lane = runtime().lane(engine.device)
    session.adapt(stacked_for(engine, score.adapters, lane))
