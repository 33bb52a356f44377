"""The runner: a ring and the tick that runs it on the device, which are built, moved and emptied together."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from torch import Tensor

from ..config import StreamConfig
from ..device.lane import Lane
from ..device.memory import guarded
from ..engines.contract import Engine
from ..engines.factors import Factors
from .finished import Finished
from .knob_state import Change, KnobState
from .member import Member
from .prepared import Prepared
from .ring import Ring, Slot
from .stats import TickClock
from .tick import Tick


class Runner:
    """A ring and its tick. Used in a step, or with the stage's step lock held.

    Args:
        lock: of the stage, held where the ring is replaced and where a request enters or leaves a slot, so that another
            thread may look at the ring with it.

    Attributes:
        tick: None before the first request and after an error; it is then built anew.
        lora: adapters that all slots play with.
    """

    def __init__(self, engine: Engine, lane: Lane, lock: threading.Lock) -> None:
        self.engine, self.lane, self._lock = engine, lane, lock
        self.ring, self.clock = Ring(), TickClock(lane.stream)
        self.tick: Tick | None = None
        self.lora: Factors | None = None

    def receive(self, given: Prepared | KnobState | Factors) -> None:
        """Order the lane after the work that made these tensors. Hold `Lane.lock`."""
        for event in given.ready if isinstance(given.ready, tuple) else (given.ready,):
            self.lane.wait(event)
        for tensor in given.tensors():
            self.lane.keep(tensor)

    def set_lora(self, lora: Factors | None) -> None:
        """Play with these adapters from the next tick on; None plays without."""
        self.lora = lora
        if lora is not None:
            self.receive(lora)

    def set_knobs(self, member: Member, changes: Sequence[Change]) -> None:
        """Write changed knobs into a member's slots."""
        tick = self.tick
        names = member.set_knobs(changes, tick.frames if tick else None, self.engine.device, self.lane)
        self.receive(member.next_knobs)
        if member.knobs is not member.next_knobs:
            self.receive(member.knobs)
        if tick is not None:
            slots = self.ring.occupied_by(member)
            gates = tick.set_knobs(self.ring.span(member), [slot.index for slot in slots], member.knobs, names)
            for slot in slots:
                slot.gates = gates[slot.index]

    def admit(self, member: Member) -> bool:
        """Move a member's oldest waiting request into a free slot; returns false where there is none."""
        tick, prepared = self.tick, member.waiting[0]
        if tick is None:
            return False
        with self._lock:
            slot = self.ring.admit(member, prepared.request)
            if slot is None:
                return False
            member.waiting.popleft()
        self.receive(prepared)
        slot.gates = tick.write(slot.index, prepared, member.knobs)
        member.admitted()
        return True

    def advance(self) -> list[Slot]:
        """Run the tick over every slot; returns those that reached sigma 0."""
        ring = self.ring
        if self.tick is None or ring.idle:
            return []
        self.clock.start()
        self.tick.run(ring.plan(), self.lora)
        self.clock.stop()
        with self._lock:
            for slot in ring.occupied:
                slot.member.steps += 1
            return ring.advance()

    def copy(self, slots: Sequence[Slot]) -> list[Tensor]:
        """Copy the latents of these slots, `[T, C]` float32 each."""
        return [] if self.tick is None else [self.tick.read(slot.index) for slot in slots]

    def hand_out(self, done: Sequence[Slot], latents: Sequence[Tensor]) -> list[Finished]:
        """Return the latents of these slots with their requests; count those, and free the slots."""
        mark = self.lane.done() if done else None
        finished = []
        for slot, latent in zip(done, latents, strict=True):
            if slot.request is not None:
                finished.append(Finished(slot.member.name, slot.request, latent, self.lane, mark))
                with self._lock:
                    slot.member.count_finished(slot.request)
                    self.free(slot)
        return finished

    def free(self, slot: Slot) -> None:
        """Empty a slot. Hold the lock."""
        if self.tick is not None:
            self.tick.buffers.free(slot.index)
        slot.request = None

    def clear(self, member: Member) -> None:
        """Drop what a member has in flight, counted. Hold the lock."""
        slots = self.ring.occupied_by(member)
        for slot in slots:
            self.free(slot)
        member.count_dropped(len(slots))

    def build(self, ring: Ring, config: StreamConfig, frames: int) -> None:
        """Make a tick for a ring with nothing in flight and every member's next knobs, and play that ring."""
        with self._lock:
            self.ring = ring
        for member, _ in ring.shares:
            member.knobs = member.next_knobs
            member.knobs.knobs.check_frames(frames, self.engine.spec.channels)
        self.tick = self._make_tick(self.engine, config, ring, frames, config.tokens)

    def move(self, engine: Engine, ring: Ring) -> None:
        """Move all that is in flight to another engine and ring; an error leaves everything as it is.

        Args:
            ring: made by `Ring.resized`.
        """
        old = self.tick
        if old is not None and ring.slots:
            with guarded(*self.shortage(ring)):
                tick = self._make_tick(engine, old.config, ring, old.frames, old.tokens)
                for new, slot in self.ring.moves_to(ring):
                    tick.copy_slot(new.index, old, slot.index)
            self.tick = tick
        with self._lock:
            self.ring = ring
        self.engine = engine

    def shortage(self, ring: Ring) -> tuple[str, str, str]:
        """Return what `MemoryShortage` says where memory ran out for a ring."""
        return (
            f"a ring of depth {len(ring.slots)} found no room on {self.engine.device}",
            "its buffers and the decoder's workspace must fit beside the model",
            "lower the depth or the seconds, or unload other models",
        )

    def _make_tick(self, engine: Engine, config: StreamConfig, ring: Ring, frames: int, tokens: int) -> Tick:
        """Make a tick for a ring, with every member's knobs in its slots."""
        tick = Tick(engine, config, len(ring.slots), frames, tokens, self.lane)
        for member, _ in ring.shares:
            tick.set_knobs(ring.span(member), (), member.knobs)
        return tick
