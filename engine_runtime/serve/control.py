"""The control of a live session: turned widgets from any connection, coalesced by widget, taken in by one thread.

No change is lost: of several for one widget the last counts, and each sender is told which change took its own in.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from ..device.player import PLAYER
from ..errors import OstinatoError
from ..live.beat import NOW, Tempo
from ..live.level import SAMPLE_RATE
from ..live.score import Cost, Score
from ..live.session import LiveSession

log = logging.getLogger(__name__)
Place = tuple[str, str]  # node id and input
TURN_SECONDS = 10.0  # that a resting control may go on with its turn
LOOK = 0.02  # seconds between two looks at what waits for a beat
SPARE = 0.1  # seconds that a beat is farther away than a change takes: times differ
UNKNOWN = (0.3, Cost.SLOT)  # seconds and cost that a widget is taken to have before it was turned once
FORGET = 0.2  # share by which the longest time of late is forgotten at each turn


class Graph(Protocol):
    """The graph that a session plays; its widgets are the knobs. `turn` is called by one thread at a time, the rest by
    any.

    Attributes:
        score: what is played now.
    """

    score: Score

    @property
    def tempo(self) -> Tempo:
        """Return the tempo of the prompt."""
        ...

    def widgets(self) -> list[dict[str, Any]]:
        """Describe the widgets that can be turned, with their values."""
        ...

    def check(self, place: Place, value: Any) -> Any:
        """Return the value as the widget takes it; raises `InputError` for one that it does not take."""
        ...

    def turn(self, changes: Mapping[Place, Any]) -> Score:
        """Change values and return what is played now; where that raises, all values are those of before."""
        ...


@dataclass(frozen=True)
class _Waiting:
    """A checked value, and the position at which it is to be heard; 0 for as soon as can be."""

    value: Any
    at: int


@dataclass(frozen=True)
class Taken:
    """The outcome of a change.

    Attributes:
        change: its id in the blocks of sound; 0 where it was refused.
        cost: the way it takes.
        error: why it was refused.
    """

    change: int
    cost: Cost
    error: OstinatoError | None = None


class Control:
    """The thread that evaluates the graph, so that neither ring nor sound nor server waits for a new prompt.

    Args:
        session: plays what the graph makes.
        graph: whose widgets are turned.

    Attributes:
        turning: held while a graph is evaluated.
    """

    def __init__(self, session: LiveSession, graph: Graph) -> None:
        self.session, self.graph = session, graph
        self._changes = itertools.count(1)
        self._waiting: dict[Place, _Waiting] = {}
        self._spent: dict[Place, tuple[float, Cost]] = {}  # seconds that the graph took of late, and what it cost
        self._tell: dict[tuple[Place, Any], Callable[[Taken], None]] = {}  # by place and sender: the last of each
        self._turns: dict[Place, tuple[float, Any]] = {}  # when each was turned last, and to what
        self.turning = threading.RLock()
        self._lock = threading.Condition(threading.Lock())
        self._closed, self._waits = False, 0
        self._thread = threading.Thread(target=self._run, name=f"ostinato control {session.name}", daemon=True)
        self._thread.start()

    def set(self, place: Place, value: Any, sender: Any, tell: Callable[[Taken], None], when: str = NOW) -> int:
        """Turn a widget. An earlier value that was not taken in yet is passed over, whatever it waits for.

        Args:
            tell: called from the thread with what became of it, or of a later value of the same sender.
            when: `now`, or the `beat` or `bar` at which it is first heard: the next that it can be ready for.

        Returns:
            the position of that beat, in samples; 0 for now, and where nobody hears the session.

        Raises:
            InputError: for an unknown widget, a value that it does not take, or a beat of an open tempo.
        """
        checked = self.graph.check(place, value)
        at = 0
        if when != NOW and self.session.listening:
            at = self.session.next_beat(when, self.graph.tempo, self._reach(place) + SPARE)
        with self._lock:
            self._waiting.pop(place, None)  # the order of the last changes counts
            self._waiting[place] = _Waiting(checked, at)
            self._turns[place] = time.monotonic(), checked
            self._tell[place, sender] = tell
            self._lock.notify()
        return at

    def play(self, graph: Graph, since: float) -> Taken:
        """Play another graph from now on. Widgets that were turned after `since` keep their turn, where it has them.

        Raises:
            OstinatoError: where the session cannot play it; the graph of before is played on.
        """
        with self._lock:
            later = {place: value for place, (when, value) in self._turns.items() if when > since}
            self._turns = {place: turn for place, turn in self._turns.items() if turn[0] > since}
        with self.alone():
            score = graph.score
            if kept := {place: value for place, value in later.items() if _takes(graph, place, value)}:
                try:
                    score = graph.turn(kept)
                except OstinatoError as error:
                    log.warning("live session %s plays without what was turned last: %s", self.session.name, error)
            taken = self._played(score)
            self.graph = graph
            return taken

    @contextmanager
    def alone(self) -> Iterator[Graph]:
        """Evaluate nothing beside a block, which gets the graph; a turn that waits for the end of a job gives up."""
        with self._lock:
            self._waits += 1
        try:
            with self.turning:
                yield self.graph
        finally:
            with self._lock:
                self._waits -= 1

    @property
    def awaited(self) -> bool:
        """Return true where the end of a turn, or of the control, is waited for."""
        return self._closed or self._waits > 0

    def rest(self, room: Callable[[], bool] | None) -> None:
        """Return once no graph is evaluated in another thread: a `Player`, whose nodes bring weights for a moment."""
        if self.turning.acquire(timeout=TURN_SECONDS):
            self.turning.release()

    def close(self) -> None:
        """End the thread; what waits is dropped with the session. May be called twice."""
        with self._lock:
            self._closed = True
            self._lock.notify()
        self._thread.join()

    def _run(self) -> None:
        PLAYER.set(self)
        while True:
            due, tell = self._next_due()
            if self._closed:
                return
            for at in sorted({one.at for one in due.values()}):
                self._take({place: one.value for place, one in due.items() if one.at == at}, tell, at)

    def _next_due(self) -> tuple[dict[Place, _Waiting], dict[tuple[Place, Any], Callable[[Taken], None]]]:
        """Wait for values that are due, and take them from what waits; returns them and who is to be told."""
        while not self._closed:
            # the session has a lock of its own: it is asked before this one is taken
            heard = self.session.heard_until if self.session.listening else None
            with self._lock:
                reach = {place: self._reach(place) for place, one in self._waiting.items() if one.at}
                due = {
                    place: one
                    for place, one in self._waiting.items()
                    if not one.at or heard is None or heard + (reach[place] + LOOK) * SAMPLE_RATE >= one.at
                }
                if due:
                    self._waiting = {place: one for place, one in self._waiting.items() if place not in due}
                    answers = {key: tell for key, tell in self._tell.items() if key[0] in due}
                    self._tell = {key: tell for key, tell in self._tell.items() if key[0] not in due}
                    return due, answers
                if not self._closed:
                    self._lock.wait(LOOK if self._waiting else None)
        return {}, {}

    def _reach(self, place: Place) -> float:
        """Return the seconds from here until a turned widget can be heard, on the safe side."""
        spent, cost = self._spent.get(place, UNKNOWN)
        return spent + self.session.reach(cost)

    def _take(
        self, waiting: dict[Place, Any], tell: Mapping[tuple[Place, Any], Callable[[Taken], None]], at: int
    ) -> None:
        """Turn all at once; where that fails, one by one, so that a bad value holds up no other."""
        parts = [waiting]
        if len(waiting) > 1:
            try:
                self._report(waiting, self._turned(waiting, at), tell)
                return
            except Exception:
                parts = [{place: value} for place, value in waiting.items()]
        for part in parts:
            try:
                taken = self._turned(part, at)
            except OstinatoError as error:
                taken = Taken(0, Cost.NOTHING, error)
            except Exception as error:
                log.exception("a widget of the live session %s could not be turned", self.session.name)
                taken = Taken(0, Cost.NOTHING, _internal(error))
            self._report(part, taken, tell)

    def _turned(self, changes: Mapping[Place, Any], at: int) -> Taken:
        with self.turning:
            began = time.monotonic()
            with self.session.held():
                score = self.graph.turn(changes)
            taken = self._played(score, at)
            seconds = time.monotonic() - began
        for place in changes:
            known, _ = self._spent.get(place, (0.0, taken.cost))
            self._spent[place] = max(seconds, known + FORGET * (seconds - known)), taken.cost
        return taken

    def _played(self, score: Score, at: int = 0) -> Taken:
        """Give the session a score under a new number, the lock held: numbers rise in the order of what is played."""
        change = next(self._changes)
        return Taken(change, self.session.play(score, change, at))

    @staticmethod
    def _report(
        part: Mapping[Place, Any], taken: Taken, tell: Mapping[tuple[Place, Any], Callable[[Taken], None]]
    ) -> None:
        for (place, _), answer in tell.items():
            if place in part:
                answer(taken)


def _takes(graph: Graph, place: Place, value: Any) -> bool:
    try:
        graph.check(place, value)
    except OstinatoError:
        return False
    return True


def _internal(error: Exception) -> OstinatoError:
    return OstinatoError(
        f"it failed with {type(error).__name__}: {error}", "this is a fault of Ostinato", "report it with the log"
    )
