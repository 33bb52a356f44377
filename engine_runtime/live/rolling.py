"""The take of the last moments of a session that plays on for hours."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ..config import StreamConfig
from ..controls.knobs import Knobs
from ..engines.contract import Engine
from ..engines.factors import Factors
from ..stream.request import Request
from ..takes.codec import fingerprint
from ..takes.take import ADAPTED, CONFIGURED, SUBMITTED, TURNED, Event, Log


@dataclass(frozen=True)
class _Made:
    """A latent that finished: the ticks at which its request came and it was done, when, and its fingerprint."""

    came: int
    when: float
    name: str


class RollingLog:
    """A listener that keeps enough of the past to play its last seconds again, and no more.

    What came before the oldest request that is kept is folded into the configuration and the knobs that a replay opens
    with. That repeats the latents because a live session gives its ring no request that has to wait: it enters a slot
    in the step that takes it in, whatever else plays, and no two of its latents finish in one step.

    All methods but `log` are called by the thread that plays.

    Args:
        seconds: how long finished latents are kept.
    """

    def __init__(
        self,
        engine: Engine,
        config: StreamConfig,
        knobs: Knobs,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log, self._seconds, self._clock = Log.of(engine, config, knobs), seconds, clock
        self._first = 0  # the tick that a replay begins with
        self._events: deque[Event] = deque()
        self._made: list[_Made] = []
        self._flying: dict[int, tuple[Request, int]] = {}  # by identity, with the tick it came at
        self._lora: dict[str, Any] | None = None  # adapters that play at the first tick
        self._shown = self._copy()

    def configured(self, tick: int, changes: dict[str, Any]) -> None:
        self._add(Event(tick, CONFIGURED, dict(changes)))

    def knobs_set(self, tick: int, changes: dict[str, Any]) -> None:
        self._add(Event(tick, TURNED, dict(changes)))

    def adapted(self, tick: int, lora: Factors | None) -> None:
        noted = Log("", self._log.config, self._log.knobs)
        noted.adapted(tick, lora)
        self._add(noted.events[0])

    def submitted(self, tick: int, request: Request) -> None:
        self._flying[id(request)] = request, tick
        self._add(Event(tick, SUBMITTED, request))

    def cleared(self, tick: int) -> None:
        self._cut(tick)

    def failed(self, tick: int) -> None:
        self._cut(tick + 1)

    def finished(self, request: Request, latent: Tensor) -> None:
        """Note a latent of the last step, in the order in which they finished. Waits for its device."""
        _, came = self._flying.pop(id(request))
        now = self._clock()
        self._made.append(_Made(came, now, fingerprint(latent)))
        ends = [after.when for after in self._made[1:]] + [now]  # each plays until the next is made
        fresh = [made.came for made, end in zip(self._made, ends, strict=True) if end >= now - self._seconds]
        first = min([*fresh, *(tick for _, tick in self._flying.values())])
        # a replay makes all that came from its first tick on, so none of that may be missing
        self._made = [made for made in self._made if made.came >= first]
        self._fold(first)
        self._shown = self._copy()

    def log(self) -> Log:
        """Return the take of what is kept, up to the last finished latent; its first tick is 0. From any thread."""
        return self._shown

    def _copy(self) -> Log:
        events = [replace(event, tick=event.tick - self._first) for event in self._events]
        if self._lora is not None:
            events.insert(0, Event(0, ADAPTED, self._lora))
        base = self._log
        log = Log(base.engine, base.config, base.knobs, base.recipe, base.origin, events, spec=base.spec)
        log.ticks = max((event.tick + 1 for event in events), default=0)
        log.latents = [made.name for made in self._made]
        return log

    def _add(self, event: Event) -> None:
        self._events.append(event)

    def _cut(self, tick: int) -> None:
        """Forget what was made and what flew before a tick: a step that failed dropped it."""
        self._made.clear()
        self._flying.clear()
        self._fold(tick)

    def _fold(self, tick: int) -> None:
        """Let a replay begin with this tick."""
        self._first = max(self._first, tick)
        while self._events and self._events[0].tick < self._first:
            event = self._events.popleft()
            if event.kind == CONFIGURED:
                self._log.config = replace(self._log.config, **event.what)
            elif event.kind == TURNED:
                self._log.knobs = self._log.knobs.changed(**event.what)
            elif event.kind == ADAPTED:
                self._lora = event.what if event.what["digests"] else None
