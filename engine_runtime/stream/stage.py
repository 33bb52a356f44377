"""A stage: a ring and the sessions that play in it, one or several that share the engine's batch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import torch

from ..config import StreamConfig
from ..controls.knobs import Knobs
from ..device.lane import Lane
from ..device.memory import is_shortage
from ..engines.contract import Engine
from ..errors import InputError, MemoryShortage, SessionError
from .finished import Finished
from .fit import SharedSize, check_fits, check_negative_rows, check_same_model, fits, lacks_rows, widened
from .inbox import Inbox, Listener
from .knob_state import KnobState
from .member import Member
from .request import Request
from .ring import Ring
from .runner import Runner
from .tick import Tick


class Swap(NamedTuple):
    """A change of engine that the next step makes, as `Stage.swap` was asked."""

    engine: Engine
    on_end: Callable[[bool], None]


class Stage:
    """A ring and its members. They join and leave from any thread; the thread in `_step` owns the ring for that time.

    Every member has slots of its own, as many as its depth. With `frames` the ring is built once, for that length and
    for `config`, and several members share it: requests that need more are refused. Without, it belongs to one member
    and is rebuilt for a request that needs another ring.

    Two locks, taken in this order: `step_lock` for a whole step, `lock` for a moment. The members, and which request is
    in which slot, are written with both held, so that a thread may read them with either one; the rest of the runner
    with `step_lock` alone; the inboxes and the engine to change to with `lock` alone. `Member` says the same of itself.

    Args:
        engine: the decoder.
        lane: the stream that the ticks run on.
        config: the structure of the ring; the depth of a shared one is the sum of its members'.
        frames: T of a shared ring.
    """

    def __init__(self, engine: Engine, lane: Lane, config: StreamConfig, frames: int | None = None) -> None:
        self.lane, self.config = lane, config
        self.shared = None if frames is None else SharedSize.of(frames, config)
        self.lock = threading.Lock()
        self.step_lock = threading.RLock()
        self.members: tuple[Member, ...] = ()
        self.runner = Runner(engine, lane, self.lock)
        self._next: Swap | None = None

    @property
    def engine(self) -> Engine:
        return self.runner.engine

    @property
    def ring(self) -> Ring:
        return self.runner.ring

    @property
    def tick(self) -> Tick | None:
        return self.runner.tick

    def step(self) -> list[Finished]:
        """Play one tick:

        1. change to the engine that `swap` was given;
        2. take in what arrived;
        3. resize the ring to the depths asked for;
        4. admit requests that wait into free slots;
        5. advance every slot by one step;
        6. copy the latents that reached sigma 0;
        7. hand them out, and free their slots.

        An error of 1 or 3 leaves what is in flight as it is. Any other drops it, counted, and the next step starts with
        an empty ring. Both are passed on.
        """
        return self.lane.run(self._step)

    def _step(self) -> list[Finished]:
        with self.step_lock, self.lane.lock, _inference_mode_off(), torch.no_grad():
            self._change_engine()
            with self._dropping_on_error():
                self._take_in()
            self._resize()
            with self._dropping_on_error():
                self._admit()
                done = self.runner.advance()
                latents = self.runner.copy(done)
                return self.runner.hand_out(done, latents)

    def join(self, name: str, config: StreamConfig, knobs: Knobs, log: Listener | None = None) -> Member:
        """Give a session slots, from the next step on.

        Raises:
            SessionError: where the ring belongs to another session.
            EngineLimitError: where the slots of all sessions are more than the engine has rows.
        """
        channels, device = self.engine.spec.channels, self.engine.device
        inbox = Inbox(channels, device, self.lane, config, knobs, self.largest_depth)
        state = KnobState.of(knobs, channels, device, self.lane)
        with self.lane.lock:  # nothing may come between on a lane that is being captured
            self.runner.receive(state)
        member = Member(name, config, state, inbox, log)
        with self.lock:
            if self.members and self.shared is None:
                raise SessionError(
                    "a second session joins a ring that belongs to one",
                    "only a shared ring takes several",
                    "make a stage with Runtime.share and join that",
                )
            config.check_depth(config.depth, self.largest_depth(inbox))
            self.members += (member,)
        return member

    def leave(self, member: Member) -> None:
        """Drop what a member has waiting or in flight, counted, and its slots at the next step. Twice is allowed."""
        with self.step_lock:
            swap = None
            with self.lock:
                if member.closed:
                    return
                self.runner.clear(member)
                member.close()
                self.members = tuple(other for other in self.members if other is not member)
                if not self.members:
                    self.runner.tick, self.runner.lora = None, None
                    swap, self._next = self._next, None
            if swap is not None:
                swap.on_end(False)

    def drop(self, member: Member) -> None:
        """Drop what a member has in flight, counted."""
        with self.step_lock:
            with self.lock:
                self.runner.clear(member)
                if len(self.members) == 1:
                    self.runner.tick = None
            if member.log is not None:
                member.log.cleared(member.ticks)

    def largest_depth(self, inbox: Inbox) -> int:
        """Return the largest depth that the other members leave the one of this inbox. Hold `lock`."""
        engine = self.engine if self._next is None else self._next.engine
        return engine.limits.batch - sum(other.inbox.depth for other in self.members if other.inbox is not inbox)

    def check_request(self, member: Member, request: Request) -> None:
        """Raise `InputError` for a request that a shared ring can never take."""
        if self.shared is not None:
            check_fits(request, member.rows_for(request), self.shared)

    def check_guidance_scale(self, member: Member) -> None:
        """Raise `InputError` where a hot guidance scale needs rows that the ring does not have. Hold `lock`."""
        slots = self.ring.occupied_by(member)
        without = [slot.request for slot in slots if slot.request is not None and slot.gates.negative == "off"]
        if self.shared is not None:
            without += [request for request in member.queued if lacks_rows(request, self.shared)]
        check_negative_rows(without)

    def swap(self, engine: Engine, on_end: Callable[[bool], None] = lambda plays: None) -> None:
        """Play on another engine of the same model from the next step on.

        Errors of the change are raised by that step; what is in flight then goes on on the old engine.

        Args:
            on_end: called with true once the new engine plays, with false where it never will: the other may then be
                freed.

        Raises:
            InputError: for another width or device, adapters that it does not take, or while a take is recorded, which
                names one engine.
            EngineLimitError: for fewer rows than the members have slots.
        """
        check_same_model(engine, self.engine)
        with self.lock:
            if any(member.log is not None for member in self.members):
                raise InputError("the engine is to change in a take", "a take is of one engine", "end the take first")
            self._check_lora(engine)
            self.config.check_depth(sum(member.inbox.depth for member in self.members), engine.limits.batch)
            before, self._next = self._next, Swap(engine, on_end)
        if before is not None:
            before.on_end(False)

    def _change_engine(self) -> None:
        with self.lock:
            swap, self._next = self._next, None
        if swap is None:
            return
        try:
            self._check_lora(swap.engine)  # others may have come since it was asked for
            self.runner.move(swap.engine, self.ring.resized(self.ring.shares))
        except BaseException:
            swap.on_end(False)
            raise
        swap.on_end(True)

    def _take_in(self) -> None:
        """Take in what arrived for each member, in a fixed order: configuration, requests that join the queue,
        adapters, knobs.
        """
        for member in self.members:
            with self.lock:
                arrivals = member.take_in()
            if arrivals.lora_changed:
                self.runner.set_lora(arrivals.lora)
            if arrivals.knobs:
                self.runner.set_knobs(member, arrivals.knobs)

    def _resize(self) -> None:
        """Resize the ring to the depths asked for, as soon as the requests in flight fit."""
        ring = self.runner.ring
        shares = [(member, member.config.depth) for member in self.members]
        if shares == ring.shares or any(len(ring.occupied_by(member)) > depth for member, depth in shares):
            return
        try:
            self.runner.move(self.engine, ring.resized(shares))
        except BaseException:
            self._keep_size(dict(ring.shares))
            raise
        for member, count in ring.shares:
            member.new_slots += max(0, member.config.depth - count)

    def _keep_size(self, depths: dict[Member, int]) -> None:
        """Let the members that have slots go on with as many as they have; close those that have just come."""
        with self.lock:
            for member in self.members:
                if member in depths:
                    member.keep_depth(depths[member])
                else:
                    member.close()
            self.members = tuple(member for member in self.members if member in depths)

    def _admit(self) -> None:
        for member in self.members:
            member.ticks_since_admission += 1
            while self._admit_next(member):
                pass

    def _admit_next(self, member: Member) -> bool:
        """Give a member's oldest waiting request a slot; returns false where none may enter now."""
        if not member.waiting:
            return False
        in_flight = len(self.runner.ring.occupied_by(member))
        if in_flight >= member.config.depth:
            return False
        request = member.waiting[0].request
        if member.must_wait(request, in_flight) or not self._can_take(member, request):
            return False
        return self.runner.admit(member)

    def _can_take(self, member: Member, request: Request) -> bool:
        """Return true where the ring can take a request. An empty ring of one member is rebuilt so that it can."""
        rows, runner, shared = member.rows_for(request), self.runner, self.shared
        if runner.tick is not None and fits(request, rows, runner.tick):
            return True
        if shared is not None:  # the rows that a hot guidance scale asks for beyond the shared ones are left out
            if runner.tick is None:
                self._build(member, runner.ring, self.config, shared.frames)
            return True
        if runner.tick and runner.tick.frames != request.frames and member.config.length_change == "drop":
            with self.lock:
                runner.clear(member)
        if not runner.ring.idle:
            return False
        config = widened(member.base_config, request, rows)
        runner.tick = None  # the old buffers go before the new ones come
        self._build(member, Ring([(member, config.depth)]), config, request.frames)
        with self.lock:
            member.config = config
        return True

    def _build(self, member: Member, ring: Ring, config: StreamConfig, frames: int) -> None:
        """Build a ring; where that fails, drop the request that needed it and pass the error on."""
        try:
            self.runner.build(ring, config, frames)
        except BaseException:
            with self.lock:
                member.drop_oldest()
            raise

    @contextmanager
    def _dropping_on_error(self) -> Iterator[None]:
        """Drop what is in flight where the block fails, and pass the error on."""
        try:
            yield
        except BaseException as error:
            with self.lock:
                for member in self.members:
                    self.runner.clear(member)
                self.runner.tick = None
            for member in self.members:
                member.report_failure()
            if is_shortage(error):
                raise MemoryShortage(*self.runner.shortage(self.ring)) from error
            raise

    def _check_lora(self, engine: Engine) -> None:
        """Raise `InputError` where an engine cannot take adapters that play or will."""
        for lora in (self.runner.lora, *(member.inbox.lora for member in self.members)):
            if lora is not None:
                lora.check(engine.targets, engine.dtype, engine.device, engine.limits.rank, engine.krons)


def _inference_mode_off() -> AbstractContextManager:
    """Leave inference mode, if it is on: entering that needlessly took 0.08 ms on an H100's host."""
    return torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()
