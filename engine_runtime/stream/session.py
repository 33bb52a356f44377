"""A session, one caller's part in a ring: requests in, finished latents out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from ..config import StreamConfig, more_rows
from ..controls.automation import Track
from ..controls.knobs import Knobs
from ..device.lane import Lane
from ..engines.contract import Engine
from ..engines.factors import Factors
from ..errors import InputError, SessionError
from .inbox import Inbox, Listener
from .knob_state import Change, KnobState
from .member import Finished
from .prepared import Prepared
from .request import Request
from .stage import Stage
from .stats import Stats
from .tick import Tick


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
        log: told all that arrives, with its tick.

    Attributes:
        config: the configuration now.
        opened: the configuration asked for, without what requests needed beyond it.
        waiting: requests that a step has taken in and no slot has yet.
        latest, setting: the knobs, for the next ring and for this one.
        ticks: steps taken part in.
        steps_done: steps of all its requests together.
    """

    def __init__(
        self, name: str, stage: Stage, config: StreamConfig, knobs: Knobs | None = None, log: Listener | None = None
    ) -> None:
        self.name, self.stage, self.config, self.opened, self.log = name, stage, config, config, log
        channels, device = stage.engine.spec.channels, stage.engine.device
        self._inbox = Inbox(
            channels, device, stage.lane, config, knobs or Knobs(), stage.lock, lambda: stage.room_for(self)
        )
        self._lock = stage.lock
        self.waiting: deque[Prepared] = deque()
        self.latest = self.setting = KnobState.of(self._inbox.knobs, channels, device, stage.lane)
        with stage.lane.lock:  # nothing may come between on a lane that is being captured
            stage.receive(self.setting)
        self.since_admission = 1 << 30
        self.hurried = 0  # slots that were added and may be filled at once
        self.finished = self.dropped = self.frames_out = 0
        self.ticks = self.steps_done = 0
        self.closed = False
        stage.join(self)

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

    def submit(self, request: Request) -> None:
        """Queue a request. A full queue drops its oldest request, which is counted by the next step at the latest.

        Raises:
            InputError: for a request of another model, that the knobs do not fit, or that a shared ring cannot take.
            EngineLimitError: for more frames or tokens than the engine takes.
            SessionError: for a closed session.
        """
        prepared = Prepared.prepare(request, self.engine, self.lane)
        self.stage.check(self, request)
        with self._lock:
            self._alive()
            self._inbox.check(prepared)
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
            self._alive()
            waiting = [prepared.request for prepared in (*self._inbox.prepared, *self.waiting)]
            if changes.get("guidance_scale") is not None and "guidance_scale" not in change.neutral:
                self._check_rows(waiting)
            if self.stage.frames is not None:
                change.check_frames(self.stage.frames)
            for request in waiting:
                change.check_frames(request.frames)
            self._inbox.turn(change)

    def submit_again(self, request: Request) -> None:
        """Queue a request of a replay, without the checks of `submit`: it passed them once."""
        prepared = Prepared.prepare(request, self.engine, self.lane)
        with self._lock:
            self._alive()
            self._inbox.submit(prepared)

    def set_again(self, changes: dict[str, Any]) -> None:
        """Set knobs in a replay, without the checks of `set` against requests."""
        change = self._inbox.prepare(changes)
        with self._lock:
            self._alive()
            self._inbox.turn(change)

    def clear(self) -> None:
        """Drop the requests in flight, counted."""
        with self.stage.playing:
            self.stage.drop(self)
            if self.log is not None:
                self.log.cleared(self.ticks)

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
            lora.check(self.engine.targets, self.engine.dtype, self.engine.device, self.engine.limits.rank)
            if self.stage.frames is not None:
                raise InputError(
                    "adapters were given to a session that shares its ring",
                    "all rows of a ring are decoded with the same ones",
                    "open a session of its own",
                )
        with self._lock:
            self._alive()
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
            self._alive()
            self._inbox.configure(changes)

    def automate(self, tracks: Iterable[Track]) -> None:
        """Play tracks from the next step on; a knob set by hand at the same tick overrides its track."""
        with self._lock:
            self._alive()
            self._inbox.automate(tracks, self.ticks)

    def step(self) -> list[Finished]:
        """Run `Stage.step` of a stage of its own.

        Raises:
            SessionError: for a closed session; on a shared stage, whose step returns the latents of all sessions.
        """
        self._alive()
        if self.stage.frames is not None:
            raise SessionError(f"session {self.name!r} shares its ring", "one step is everybody's", "step its stage")
        return self.stage.step()

    def play(self, requests: Iterable[Request], before: Callable[[], None] = lambda: None) -> Iterator[Finished]:
        """Run requests through the ring, submitting as it has room, until the last one is done. Drops nothing.

        Args:
            before: called before each step; what it raises ends the playing.
        """
        coming = iter(requests)
        more = True
        while more or not self.idle:
            while more and self.room:
                request = next(coming, None)
                more = request is not None
                if request is not None:
                    self.submit(request)
            before()
            yield from self.step()

    @property
    def idle(self) -> bool:
        """Return true where nothing is queued and nothing in flight."""
        with self._lock:
            return not self._inbox.prepared and not self.waiting and not self.stage.ring.held(self)

    @property
    def room(self) -> bool:
        """Return true where a request can be queued without dropping another."""
        return len(self._inbox.prepared) + len(self.waiting) < self.config.queue

    def close(self) -> None:
        """Drop what is queued or in flight, counted, and leave the stage. Closing twice is allowed."""
        with self.stage.playing:
            if not self.closed:
                dropped = self.stage.leave(self)
                with self._lock:
                    self.dropped += dropped
                    self.shut()

    def settle(self) -> None:
        """Wait until the last tick is over, so that `stats` has its time. Not for use while playing."""
        self.stage.clock.settle()

    def stats(self) -> Stats:
        tick, clock = self.stage.tick, self.stage.clock
        ticks, tick_ms, seconds = clock.ticks, clock.tick_ms(), clock.seconds
        with self._lock:
            return Stats(
                ticks,
                self.finished,
                self.dropped + self._inbox.dropped,
                tick_ms,
                seconds,
                self.engine.spec.seconds(self.frames_out),
                self.config.depth,
                tick.frames if tick else 0,
                self.engine.name,
                tick.fused if tick else None,
                tick.guidance if tick else self.config.guidance,
                self.engine.spec,
            )

    @property
    def asked(self) -> int:
        return self._inbox.depth

    @property
    def adapted(self) -> Factors | None:
        return self._inbox.lora

    # --- what its stage calls ---

    def take_in(self, tick: Tick | None) -> None:
        """Take in all that arrived since the last step, in a fixed order: configuration, adapters, knobs, requests."""
        with self._lock:
            number = self.ticks
            new = self._inbox.take(number)
            self.ticks += 1
            if new.configured:
                self.opened = replace(self.opened, **new.configured)
                self.config = replace(self.config, **new.configured)
            self.waiting += new.prepared
            while len(self.waiting) > self.config.queue:
                self.waiting.popleft()
                self.dropped += 1
            if self.log is not None:
                new.tell(self.log, number)
        if new.adapted:
            self.stage.lora = new.lora
            if new.lora is not None:
                self.stage.receive(new.lora)
        self._turn(new.turns, tick)

    def count(self, request: Request) -> None:
        self.finished += 1
        self.frames_out += request.frames

    def failed(self) -> None:
        if self.log is not None:
            self.log.failed(self.ticks - 1)

    def keep_depth(self, depth: int) -> None:
        self.config, self.opened = (replace(c, depth=depth) for c in (self.config, self.opened))
        self._inbox.keep_depth(depth)
        if self.log is not None:
            self.log.configured(self.ticks - 1, {"depth": depth})

    def shut(self) -> None:
        self.closed = True
        self.dropped += len(self._inbox.prepared) + len(self.waiting)
        self._inbox.prepared.clear()
        self.waiting.clear()

    def _turn(self, changes: Sequence[Change], tick: Tick | None) -> None:
        """Write changed knobs into the session's slots; a curve of another length is kept for the ring of that length.
        """
        if not changes:
            return
        device, ring = self.engine.device, self.stage.ring
        names: set[str] = set()
        for change in changes:
            here = change if tick is None else change.fitting(tick.frames)
            shared = here is change and self.setting is self.latest
            self.latest = self.latest.changed(change, device, self.lane)
            self.setting = self.latest if shared else self.setting.changed(here, device, self.lane)
            names.update(here.values)
        self.stage.receive(self.latest)
        if self.setting is not self.latest:
            self.stage.receive(self.setting)
        if tick is not None:
            held = ring.held(self)
            gates = tick.set_knobs(ring.span(self), [slot.index for slot in held], self.setting, names)
            for slot in held:
                slot.gates = gates[slot.index]

    def _alive(self) -> None:
        if self.closed:
            raise SessionError(f"session {self.name!r} is closed", "only an open session plays", "open it again")

    def _check_rows(self, waiting: Sequence[Request]) -> None:
        """Raise `InputError` where a hot guidance scale needs negative rows that the ring does not have.

        A ring gets its rows when it is built; a shared one never gets more.
        """
        ring, shared = self.stage.ring, self.stage.config.guidance if self.stage.frames is not None else None
        lacking = [slot.request for slot in ring.held(self) if slot.gates.negative == "off"]
        lacking += [r for r in waiting if shared is not None and more_rows(r.guidance.rows(True), shared) != shared]
        for request in lacking:
            if request is not None and request.guidance.decodes:
                raise InputError(
                    "guidance scale is turned for requests that play without the negative rows it needs",
                    "a ring has them from the start or not at all",
                    "open the session with guidance full or initialize, and give the requests a null condition",
                )
