"""A session, one caller's part in a ring: requests in, finished latents out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..config import StreamConfig
from ..controls.automation import Track
from ..controls.knobs import Knobs
from ..device.lane import Lane
from ..engines.contract import Engine
from ..engines.factors import Factors
from ..errors import InputError, SessionError
from .finished import Finished
from .inbox import Listener
from .prepared import Prepared
from .request import Request
from .stage import Stage
from .stats import Stats


class Session:
    """A caller's lease of slots. `submit`, `set` and `configure` work from any thread, `step` from the thread that
    plays.

    Arrivals are taken in at the start of the next step, all at once and in a fixed order, so that a log of them is
    enough to repeat the playing. The ring is built for the first request that needs it. A request of another length, or
    one that needs guidance, conditions or tokens that the ring does not have, waits until the ring is empty; the ring
    is then rebuilt for it. On a stage that sessions share it is refused instead.

    Args:
        name: the session's id.
        stage: the stage it plays on.
        config: its slots, and the structure of a ring of its own.
        knobs: the hot knobs to start with.
        log: gets all that arrives, with the number of the step that takes it in.
    """

    def __init__(
        self, name: str, stage: Stage, config: StreamConfig, knobs: Knobs | None = None, log: Listener | None = None
    ) -> None:
        self.name, self.stage, self._lock = name, stage, stage.lock
        self._member = stage.join(name, config, knobs or Knobs(), log)
        self._inbox = self._member.inbox

    @property
    def engine(self) -> Engine:
        return self.stage.engine

    @property
    def lane(self) -> Lane:
        return self.stage.lane

    @property
    def knobs(self) -> Knobs:
        """Return the knobs as the next step will have them."""
        return self._inbox.knobs

    @property
    def config(self) -> StreamConfig:
        """Return the configuration now, with what requests needed beyond the one asked for."""
        return self._member.config

    @property
    def closed(self) -> bool:
        return self._member.closed

    @property
    def ticks(self) -> int:
        """Count the steps taken part in."""
        return self._member.ticks

    @property
    def steps_done(self) -> int:
        """Count the steps of all its requests together."""
        return self._member.steps

    @property
    def queued(self) -> list[Request]:
        """List the requests that have no slot yet, the oldest first."""
        with self._lock:
            return self._member.queued

    @property
    def idle(self) -> bool:
        """Return true where nothing is queued and nothing in flight."""
        with self._lock:
            return not self._member.queued and not self.stage.ring.occupied_by(self._member)

    @property
    def room(self) -> bool:
        """Return true where a request can be queued without dropping another."""
        return len(self.queued) < self.config.queue

    def submit(self, request: Request) -> None:
        """Queue a request. A full queue drops its oldest request, which is counted by the next step at the latest.

        Raises:
            InputError: for a request of another model, that the knobs do not fit, or that a shared ring cannot take.
            EngineLimitError: for more frames or tokens than the engine takes.
            SessionError: for a closed session.
        """
        prepared = Prepared.prepare(request, self.engine, self.lane)
        with self._lock:
            self.stage.check_request(self._member, request)
            self._check_open()
            self._inbox.check(prepared)
            self._inbox.submit(prepared)

    def submit_unchecked(self, request: Request) -> None:
        """Queue a request of a replay, which passed the checks of `submit` when the take was played."""
        prepared = Prepared.prepare(request, self.engine, self.lane)
        with self._lock:
            self._check_open()
            self._inbox.submit(prepared)

    def set(self, **changes: Any) -> None:
        """Set hot knobs, for the next tick of every slot in flight and for every later request.

        A curve acts on requests of its own length: to change the length of the music, set the curve first, then submit
        requests of the new length. Requests in flight keep their own.

        Raises:
            InputError: for an unknown knob, a value out of range, a curve of another length than a request that waits,
                or a guidance scale for requests that play without the negative rows it needs.
            SessionError: for a closed session.
        """
        change = self._inbox.prepare(changes)
        with self._lock:
            self._check_open()
            if changes.get("guidance_scale") is not None and "guidance_scale" not in change.neutral:
                self.stage.check_guidance_scale(self._member)
            if self.stage.shared is not None:
                change.check_frames(self.stage.shared.frames)
            for request in self._member.queued:
                change.check_frames(request.frames)
            self._inbox.set(change)

    def set_unchecked(self, changes: dict[str, Any]) -> None:
        """Set knobs in a replay, without the checks of `set` against requests."""
        change = self._inbox.prepare(changes)
        with self._lock:
            self._check_open()
            self._inbox.set(change)

    def adapt(self, lora: Factors | None) -> None:
        """Play these adapters from the next tick on, in every slot; None plays none.

        Args:
            lora: made by `lora.stack.stack` for this engine.

        Raises:
            InputError: for an engine that takes no adapters or a smaller rank, for factors of another model, precision
                or device, and on a shared stage, whose rows are all decoded with the same weights.
            SessionError: for a closed session.
        """
        if lora is not None:
            engine = self.engine
            lora.check(engine.targets, engine.dtype, engine.device, engine.limits.rank, engine.krons)
            if self.stage.shared is not None:
                raise InputError(
                    "adapters were given to a session that shares its ring",
                    "all rows of a ring are decoded with the same ones",
                    "open a session of its own",
                )
        with self._lock:
            self._check_open()
            self._inbox.adapt(lora)

    def configure(self, **changes: Any) -> None:
        """Change depth, queue, spread, length_change or hot_guidance at the next step.

        More depth admits at once. Less depth admits nothing until the requests in flight fit; none of them is dropped.

        Raises:
            InputError: for another field, or a value out of range.
            EngineLimitError: for more slots than there is room for.
            SessionError: for a closed session.
        """
        with self._lock:
            self._check_open()
            self._inbox.configure(changes)

    def automate(self, tracks: Iterable[Track]) -> None:
        """Play tracks from the next step on; a knob set by hand at the same tick overrides its track."""
        with self._lock:
            self._check_open()
            self._inbox.automate(tracks, self.ticks)

    def step(self) -> list[Finished]:
        """Run `Stage.step` of a stage of its own.

        Raises:
            SessionError: for a closed session; on a shared stage, whose step returns the latents of all sessions.
        """
        self._check_open()
        if self.stage.shared is not None:
            raise SessionError(
                f"session {self.name!r} shares its ring", "a step advances every session's slots", "step its stage"
            )
        return self.stage.step()

    def play(self, requests: Iterable[Request], before: Callable[[], None] = lambda: None) -> Iterator[Finished]:
        """Run requests through the ring, submitting as it has room, until the last one is done. Drops nothing.

        Args:
            before: called before each step; what it raises ends the playing.
        """
        source = iter(requests)
        more = True
        while more or not self.idle:
            while more and self.room:
                request = next(source, None)
                more = request is not None
                if request is not None:
                    self.submit(request)
            before()
            yield from self.step()

    def clear(self) -> None:
        """Drop the requests in flight, counted."""
        self.stage.drop(self._member)

    def close(self) -> None:
        """Drop what is queued or in flight, counted, and leave the stage. Closing twice is allowed."""
        self.stage.leave(self._member)

    def settle(self) -> None:
        """Wait until the last tick is over, so that `stats` has its time. Not for use while playing."""
        self.stage.runner.clock.settle()

    def stats(self) -> Stats:
        """Return the figures so far; those of the ticks are of all sessions of the stage."""
        member, tick, clock = self._member, self.stage.tick, self.stage.runner.clock
        ticks, tick_ms, seconds = clock.ticks, clock.tick_ms(), clock.seconds
        with self._lock:
            ring = self.stage.ring
            slots = ring.slots[ring.span(member)]
            return Stats(
                ticks,
                member.finished,
                member.dropped,
                tick_ms,
                seconds,
                self.engine.spec.seconds(member.frames),
                member.config.depth,
                tick.frames if tick else 0,
                self.engine.name,
                tick.fused if tick else None,
                tick.guidance if tick else member.config.guidance,
                self.engine.spec,
                tuple((0, 0) if slot.request is None else (slot.step, slot.request.steps) for slot in slots),
            )

    def _check_open(self) -> None:
        """Raise `SessionError` for a closed session."""
        if self.closed:
            raise SessionError(f"session {self.name!r} is closed", "only an open session plays", "open it again")
