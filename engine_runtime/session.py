"""A caller's ring: requests in, finished latents out."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from .automation import Track
from .config import StreamConfig, more_rows
from .constants import LATENT_HZ
from .engines import Engine
from .errors import InputError, MemoryShortage, SessionError
from .inbox import Inbox, Listener
from .knobs import Knobs
from .lane import Lane
from .lora.factors import Factors
from .memory import is_shortage
from .request import Request
from .ring import Ring, Slot
from .seat import Seat
from .setting import Change, Setting
from .stats import Stats, TickClock
from .tick import Tick


@dataclass(frozen=True, eq=False)
class Finished:
    """A latent that reached sigma 0, still on the lane's stream until it is taken."""

    request: Request
    latent: torch.Tensor
    lane: Lane
    done: torch.cuda.Event | None

    def take(self) -> torch.Tensor:
        """The latent `[T, 64]` float32, ordered before whatever the caller's current stream does next."""
        return self.lane.take(self.latent, self.done)


class Session:
    """Owns one ring; `submit`, `set` and `configure` from any thread, `step` from the thread that plays.

    What arrives is taken in at the start of the next step, all at once and in a fixed order, so that a log of it is
    enough to play the same again. The ring is built for the first request that needs it. A request of another length,
    or one that needs guidance, conditions or tokens that the ring does not have, waits until the ring is empty; it is
    then built anew for it.

    Args:
        name: the session's id.
        engine: the decoder.
        config: what the ring is built for.
        lane: the stream that the ticks run on.
        knobs: the hot knobs to start with.
        log: told all that arrives, with its tick.
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        config: StreamConfig,
        lane: Lane,
        knobs: Knobs | None = None,
        log: Listener | None = None,
    ) -> None:
        config.check_depth(config.depth, engine.limits.batch)
        self.name, self.engine, self.config, self.lane, self.log = name, engine, config, lane, log
        self._opened = config
        self._inbox = Inbox(engine, lane, config, knobs or Knobs())
        self._lock = self._inbox.lock  # what arrives and the counters, for a moment
        self._playing = threading.RLock()  # ring and tick, for a whole step
        self._queue: deque[Seat] = deque()
        self._latest = self._setting = Setting.of(self._inbox.knobs, engine.device, lane)  # for the next ring, and this
        self._receive(self._setting)
        self._lora: Factors | None = None
        self._ring = Ring(config.depth)
        self._tick: Tick | None = None
        self._clock = TickClock(engine.device.type == "cuda")
        self._since_admission = 1 << 30
        self._hurried = 0  # slots that were added and may be filled at once
        self._finished = self._dropped = self._frames_out = 0
        self.ticks = 0  # steps called
        self.steps_done = 0  # of all requests together
        self.closed = False

    @property
    def knobs(self) -> Knobs:
        """As the next step will have them."""
        return self._inbox.knobs

    def submit(self, request: Request) -> None:
        """Queue a request. A full queue drops its oldest entry, which is counted."""
        seat = Seat.prepare(request, self.engine, self.lane)
        with self._lock:
            self._alive()
            self._inbox.submit(seat)

    def set(self, **changes: Any) -> None:
        """Turn hot knobs: the next tick of every slot in flight has them, and every request after it.

        A curve acts on requests of its own length: to change the length of the music, set the curve first, then submit
        what has the new length. What plays keeps its own.

        Raises:
            InputError: for an unknown knob, a value out of range, a curve of another length than a request that waits,
                or a guidance scale for requests that play without the negative rows it needs.
        """
        change = self._inbox.prepare(changes)
        with self._lock:
            self._alive()
            if changes.get("guidance_scale") is not None and "guidance_scale" not in change.still:
                self._check_rows()
            for seat in (*self._inbox.seats, *self._queue):
                change.check_frames(seat.request.frames)
            self._inbox.turn(change)

    def repeat(self, changes: dict[str, Any]) -> None:
        """`set` for a replay: what was taken in once is taken in again, also where nothing can answer to it."""
        change = self._inbox.prepare(changes)
        with self._lock:
            self._alive()
            self._inbox.turn(change)

    def clear(self) -> None:
        """Drop what is in flight, counted."""
        with self._playing:
            self._drop()
            if self.log is not None:
                self.log.cleared(self.ticks)

    def adapt(self, lora: Factors | None) -> None:
        """Play these adapters from the next tick on, in every slot; None plays none.

        Args:
            lora: made by `lora.stack.stack` for this engine.

        Raises:
            InputError: for an engine that takes none or less rank, or factors of another model, precision or device.
        """
        if lora is not None:
            lora.check(self.engine.targets, self.engine.dtype, self.engine.device, self.engine.limits.rank)
        with self._lock:
            self._alive()
            self._inbox.adapt(lora)

    def configure(self, **changes: Any) -> None:
        """Change depth, queue, spread or length_change at the next step.

        More depth admits at once. Less depth lets in nothing until those in flight fit; none of them is lost.
        """
        with self._lock:
            self._alive()
            self._inbox.configure(changes)

    def automate(self, tracks: Iterable[Track]) -> None:
        """Play tracks from the next step on; what is set by hand at the same tick goes before them."""
        with self._lock:
            self._alive()
            self._inbox.automate(tracks, self.ticks)

    def step(self) -> list[Finished]:
        """Take in what arrived, admit what may enter, advance every slot by one step, hand out what finished.

        Whatever fails drops what is in flight, counted, and is passed on; the next step starts with an empty ring.
        """
        with self._playing, self.lane.lock, self.lane.use(), torch.inference_mode(False), torch.no_grad():
            self._alive()
            done: list[tuple[Slot, Request]] = []
            with self._dropping(done):
                self._take_in()
            self._resize()
            with self._dropping(done):
                self._admit()
                if self._ring.idle or self._tick is None:
                    return []
                self._clock.start()
                self._tick.run(self._ring.plan(), self._setting, self._lora)
                self._clock.stop()
                self.steps_done += self._ring.active
                with self._lock:
                    done += self._ring.advance()
                latents = [self._tick.read(slot.index) for slot, _ in done]
            return [self._hand_out(*held, latent) for held, latent in zip(done, latents, strict=True)]

    def play(self, requests: Iterable[Request], before: Callable[[], None] = lambda: None) -> Iterator[Finished]:
        """Run requests through the ring, feeding it as it has room, until the last one is out. Drops nothing.

        `before` is called before each step; what it raises ends the playing.
        """
        waiting = iter(requests)
        more = True
        while more or not self.idle:
            while more and self.room:
                request = next(waiting, None)
                more = request is not None
                if request is not None:
                    self.submit(request)
            before()
            yield from self.step()

    @property
    def idle(self) -> bool:
        """Nothing queued and nothing in flight."""
        with self._lock:
            return not self._inbox.seats and not self._queue and self._ring.idle

    @property
    def room(self) -> bool:
        """Whether a request can be queued without dropping another."""
        return len(self._inbox.seats) + len(self._queue) < self.config.queue

    def close(self) -> None:
        """Drop what is queued or in flight, counted, and free the ring. Closing twice is allowed."""
        with self._playing, self._lock:
            if not self.closed:
                self._dropped += len(self._inbox.seats) + len(self._queue) + self._ring.clear()
                self._inbox.seats.clear()
                self._queue.clear()
                self._tick = None
                self.closed = True

    def settle(self) -> None:
        """Wait until the last tick is over, so that `stats` knows its time. Not for use while playing."""
        self._clock.settle()

    def stats(self) -> Stats:
        tick = self._tick
        with self._lock:
            return Stats(
                self._clock.ticks,
                self._finished,
                self._dropped + self._inbox.dropped,
                self._clock.tick_ms(),
                self._clock.seconds,
                self._frames_out / LATENT_HZ,
                self.config.depth,
                tick.frames if tick else 0,
                self.engine.name,
                tick.fused if tick else None,
                tick.guidance if tick else self.config.guidance,
            )

    def _alive(self) -> None:
        if self.closed:
            raise SessionError(f"session {self.name!r} is closed", "only an open session plays", "open it again")

    def _check_rows(self) -> None:
        """A hot guidance scale needs the rows that it guides with."""
        for slot in self._ring.occupied:
            if slot.request and slot.gates.negative == "off" and slot.request.guidance.decodes:
                raise InputError(
                    "guidance scale is turned for requests that play without the negative rows it needs",
                    "a ring has them from the start or not at all",
                    "open the session with guidance full or initialize, and give the requests a null condition",
                )

    @contextmanager
    def _dropping(self, done: list) -> Iterator[None]:
        """Whatever fails drops what is in flight, and `done`, which just was."""
        try:
            yield
        except BaseException as error:
            self._drop(len(done))
            if self.log is not None:
                self.log.failed(self.ticks - 1)
            if is_shortage(error):
                raise self._shortage(self.config.depth) from error
            raise

    def _drop(self, more: int = 0) -> None:
        """Let go of all that is in flight, and `more` that was; the next step starts with an empty ring."""
        with self._lock:
            self._dropped += more + self._ring.clear()
        self._tick, self._setting = None, self._latest

    def _take_in(self) -> None:
        """All that arrived since the last step, in a fixed order: configuration, knobs, requests."""
        with self._lock:
            tick = self.ticks
            new = self._inbox.take(tick)
            self.ticks += 1
            self._opened = replace(self._opened, **new.configured)
            self.config = replace(self.config, **new.configured)
            self._queue += new.seats
            while len(self._queue) > self.config.queue:
                self._queue.popleft()
                self._dropped += 1
            if self.log is not None:
                new.tell(self.log, tick)
        if new.adapted:
            self._lora = new.lora
            if new.lora is not None:
                self._receive(new.lora)
        self._turn(new.turns)

    def _turn(self, changes: Sequence[Change]) -> None:
        """Write turned knobs into every slot in flight; a curve of another length waits for its own ring."""
        if not changes:
            return
        device, ring = self.engine.device, self._tick
        names: set[str] = set()
        for change in changes:
            here = change if ring is None else change.fitting(ring.frames)
            shared = here is change and self._setting is self._latest
            self._latest = self._latest.turned(change, device, self.lane)
            self._setting = self._latest if shared else self._setting.turned(here, device, self.lane)
            names.update(here.values)
        self._receive(self._latest)
        if self._setting is not self._latest:
            self._receive(self._setting)
        if ring is not None:
            gates = ring.turn([slot.index for slot in self._ring.occupied], self._setting, names)
            for slot in self._ring.occupied:
                slot.gates = gates[slot.index]

    def _receive(self, given: Seat | Setting | Factors) -> None:
        """Order the lane after the work that made these tensors."""
        for event in given.ready if isinstance(given.ready, tuple) else (given.ready,):
            self.lane.wait(event)
        for tensor in given.tensors():
            self.lane.keep(tensor)

    def _resize(self) -> None:
        """Bring the ring to the depth that was asked for, as soon as those in flight fit."""
        ring, old, depth = self._ring, self._tick, self.config.depth
        if len(ring.slots) == depth or ring.active > depth:
            return
        if old is not None:
            try:
                new = Tick(self.engine, replace(old.config, depth=depth), old.frames, old.tokens)
                new.turn((), self._setting)
                for slot, held in enumerate(ring.occupied):
                    new.take(slot, old, held.index)
            except BaseException as error:
                with self._lock:  # what plays goes on
                    self.config, self._opened = (replace(c, depth=old.depth) for c in (self.config, self._opened))
                if is_shortage(error):
                    raise self._shortage(depth) from error
                raise
            self._tick = new
        self._hurried += max(0, depth - len(ring.slots))
        with self._lock:
            ring.resize(depth)

    def _admit(self) -> None:
        self._since_admission += 1
        while self._ring.active < min(self.config.depth, len(self._ring.slots)):
            with self._lock:
                seat = self._queue[0] if self._queue else None
            if seat is None or self._paused(seat.request) or (tick := self._fitting(seat)) is None:
                return
            with self._lock:
                self._queue.popleft()
                slot = self._ring.admit(seat.request)
            self._receive(seat)
            slot.gates = tick.write(slot.index, seat, self._setting)
            self._since_admission, self._hurried = 0, max(0, self._hurried - 1)

    def _paused(self, request: Request) -> bool:
        """Whether a request must wait its turn, so that latents finish evenly."""
        spread = self.config.spread and not self._ring.idle and not self._hurried
        return spread and self._since_admission < -(-request.steps // self.config.depth)

    def _fitting(self, seat: Seat) -> Tick | None:
        """The ring's tick if it can seat the request; an empty ring is rebuilt so that it can."""
        tick, request, opened = self._tick, seat.request, self._opened
        hot = opened.guidance != "off" or opened.hot_guidance or self._latest.knobs.guidance_scale is not None
        parts, rows = len(request.parts), request.guidance.rows(hot)
        fits = tick and request.tokens <= tick.tokens and parts <= tick.conditions
        if tick and fits and more_rows(rows, tick.guidance) == tick.guidance and tick.frames == request.frames:
            return tick
        if tick and tick.frames != request.frames and self.config.length_change == "drop":
            with self._lock:
                self._dropped += self._ring.clear()
        if not self._ring.idle:
            return None
        config = replace(
            opened,
            guidance=more_rows(rows, opened.guidance),
            conditions=max(parts, opened.conditions),
            tokens=max(request.tokens, opened.tokens),
        )
        self._tick, self._setting = None, self._latest  # the old buffers go before the new ones come
        with self._lock:
            self._ring.resize(config.depth)
        try:
            self._setting.knobs.check_frames(request.frames)
            made = Tick(self.engine, config, request.frames, config.tokens)
            made.turn((), self._setting)
            self._tick = made
        except BaseException:
            with self._lock:
                self._queue.popleft()
                self._dropped += 1
            raise
        self.config = config
        return self._tick

    def _hand_out(self, slot: Slot, request: Request, latent: torch.Tensor) -> Finished:
        if self._tick is not None:
            self._tick.controls.free(slot.index)
        with self._lock:
            self._finished += 1
            self._frames_out += request.frames
        return Finished(request, latent, self.lane, self.lane.mark())

    def _shortage(self, depth: int) -> MemoryShortage:
        return MemoryShortage(
            f"a ring of depth {depth} found no room on {self.engine.device}",
            "its buffers and the decoder's workspace must fit beside the model",
            "lower the depth or the seconds, or unload other models",
        )
