"""The live sessions of a process, by name: started, found again and updated, ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ..errors import InputError
from ..live.session import LiveSession
from .control import Control, Graph
from .keep import Keep
from .share import Share

MOST = 8  # sessions; one that nobody hears makes room for another
LEFT = 10.0  # seconds without a listener after which it does; a page that is loaded again takes two


@dataclass(frozen=True)
class Live:
    """A session that is offered.

    Attributes:
        share: the set that it is, where this program has its file; in ComfyUI the editor has it.
        end: ends it at a client's wish and takes it off the list; None where it ends with its program alone. Waits
            for its threads.
    """

    session: LiveSession
    control: Control
    keep: Keep
    end: Callable[[], None] | None = None
    share: Share | None = None

    def close(self) -> None:
        """End its threads. Closing twice is allowed."""
        self.control.close()
        self.keep.close()
        self.session.close()


class Sessions(Mapping[str, Live]):
    """Sessions by name, `most` of them, timed by `clock` in seconds. Every method works from any thread."""

    def __init__(self, most: int = MOST, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = most, clock
        self._live: dict[str, Live] = {}
        self.changing = threading.Lock()  # held while a session is started, updated or taken off the list

    def __getitem__(self, name: str) -> Live:
        return self._live[name]

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._live))

    def __len__(self) -> int:
        return len(self._live)

    def play(
        self, name: str, make: Callable[[Graph | None], Graph], keep: Callable[[LiveSession], Keep], since: float
    ) -> Live:
        """Start a session, or give the one of that name another graph, without a gap.

        A model of another family takes another session: the old one ends. Of more than `most`, the one that was not
        heard for longest ends.

        Args:
            make: makes the graph; given the one that plays, of which it may take over what it made.
            since: when (`time.monotonic`) the values of the graph were read; widgets turned later keep their turn.

        Raises:
            OstinatoError: for a graph that cannot be played, or one more than `most` that are all heard; what played
                before plays on.
        """
        with self.changing:
            old = self._live.get(name)
            if old is not None and not old.session.closed:
                with old.control.alone() as before:
                    graph = make(before)
                if graph.score.spec == old.session.score.spec:
                    old.control.play(graph, since)
                    return old
            else:
                graph = make(None)
            spare = self._spare() if old is None else None
            session = LiveSession(name, graph.score, self._clock)
            made = Live(session, Control(session, graph), keep(session), lambda: self.end(name, session))
            self._live[name] = made
        for one in (old, spare):
            if one is not None:
                one.close()
        return made

    def _spare(self) -> Live | None:
        """Take the session off the list that another one has the place of; None where there is room."""
        if len(self._live) < self._most:
            return None
        name, live = max(self._live.items(), key=lambda item: item[1].session.unheard)
        if live.session.unheard < LEFT:
            raise InputError(f"{self._most} live sessions play", f"at most {self._most} do", "end one: remove its node")
        return self._live.pop(name)

    def end(self, name: str, session: LiveSession | None = None) -> None:
        """End a session, unless another one than `session` has its name by now; an unknown name is passed over."""
        with self.changing:
            live = self._live.get(name)
            if live is None or session not in (None, live.session):
                return
            del self._live[name]
        live.close()

    def close(self) -> None:
        """End all of them."""
        for name in self:
            self.end(name)
