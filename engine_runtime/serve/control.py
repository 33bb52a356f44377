"""What turns the widgets of a live session: changes from any connection, coalesced by widget, taken in by one thread.

No change is lost: of several for one widget the last counts, and each sender is told which change took its own in.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import OstinatoError
from ..live.score import Cost, Score
from ..live.session import LiveSession

log = logging.getLogger(__name__)
Place = tuple[str, str]  # node id and input


class Graph(Protocol):
    """The graph that a session plays; its widgets are the knobs. `turn` is called by one thread, the rest by any."""

    @property
    def bpm(self) -> float:
        """Return the tempo of the prompt; 0 where it is left open."""
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
    """

    def __init__(self, session: LiveSession, graph: Graph) -> None:
        self.session, self.graph = session, graph
        self._changes = itertools.count(1)
        self._waiting: dict[Place, Any] = {}
        self._tell: dict[tuple[Place, Any], Callable[[Taken], None]] = {}  # by place and sender: the last of each
        self._lock = threading.Condition(threading.Lock())
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"ostinato control {session.name}", daemon=True)
        self._thread.start()

    def set(self, place: Place, value: Any, sender: Any, tell: Callable[[Taken], None]) -> None:
        """Turn a widget. An earlier value that was not taken in yet is passed over.

        Args:
            tell: called from the thread with what became of it, or of a later value of the same sender.

        Raises:
            InputError: for an unknown widget, or a value that it does not take.
        """
        checked = self.graph.check(place, value)
        with self._lock:
            self._waiting.pop(place, None)  # the order of the last changes counts
            self._waiting[place] = checked
            self._tell[place, sender] = tell
            self._lock.notify()

    def close(self) -> None:
        """End the thread; what waits is dropped with the session."""
        with self._lock:
            self._closed = True
            self._lock.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._lock:
                while not self._waiting and not self._closed:
                    self._lock.wait()
                if self._closed:
                    return
                waiting, tell = self._waiting, self._tell
                self._waiting, self._tell = {}, {}
            self._take(waiting, tell)

    def _take(self, waiting: dict[Place, Any], tell: Mapping[tuple[Place, Any], Callable[[Taken], None]]) -> None:
        """Turn all at once; where that fails, one by one, so that a bad value holds up no other."""
        parts = [waiting]
        if len(waiting) > 1:
            try:
                self._report(waiting, self._turned(waiting), tell)
                return
            except Exception:
                parts = [{place: value} for place, value in waiting.items()]
        for part in parts:
            try:
                taken = self._turned(part)
            except OstinatoError as error:
                taken = Taken(0, Cost.NOTHING, error)
            except Exception as error:
                log.exception("a widget of the live session %s could not be turned", self.session.name)
                taken = Taken(0, Cost.NOTHING, _internal(error))
            self._report(part, taken, tell)

    def _turned(self, changes: Mapping[Place, Any]) -> Taken:
        score, change = self.graph.turn(changes), next(self._changes)
        return Taken(change, self.session.play(score, change))

    @staticmethod
    def _report(
        part: Mapping[Place, Any], taken: Taken, tell: Mapping[tuple[Place, Any], Callable[[Taken], None]]
    ) -> None:
        for (place, _), answer in tell.items():
            if place in part:
                answer(taken)


def _internal(error: Exception) -> OstinatoError:
    return OstinatoError(
        f"it failed with {type(error).__name__}: {error}", "this is a fault of Ostinato", "report it with the log"
    )
