"""Which request sits in which slot, and at which step. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from .request import Request


class Scalars(NamedTuple):
    """What one slot's tick depends on besides tensors; a free slot has `t == t_next`."""

    t: float = 0.0
    t_next: float = 0.0
    scale: float = 1.0
    momentum: float = 0.0
    eta: float = 0.0
    norm_limit: float = 1.0
    masked: float = 0.0


FREE = Scalars()


@dataclass
class Slot:
    """A place for one request in flight."""

    index: int
    request: Request | None = None
    step: int = 0

    def scalars(self) -> Scalars:
        if self.request is None:
            return FREE
        t, t_next = self.request.sigmas[self.step : self.step + 2]
        g = self.request.guidance
        masked = float(self.request.mask is not None)
        return Scalars(t, t_next, g.scale_at(t), g.momentum, g.eta, g.norm_limit, masked)


class Ring:
    """`depth` slots; every tick moves each occupied slot one step on."""

    def __init__(self, depth: int) -> None:
        self.slots = [Slot(i) for i in range(depth)]

    @property
    def free(self) -> list[Slot]:
        return [slot for slot in self.slots if slot.request is None]

    @property
    def active(self) -> int:
        return sum(slot.request is not None for slot in self.slots)

    @property
    def idle(self) -> bool:
        return self.active == 0

    def admit(self, request: Request) -> Slot:
        """Seat a request in the first free slot."""
        slot = self.free[0]
        slot.request, slot.step = request, 0
        return slot

    def plan(self) -> list[Scalars]:
        """The scalars of the coming tick, one entry a slot."""
        return [slot.scalars() for slot in self.slots]

    def advance(self) -> list[tuple[Slot, Request]]:
        """Count one step everywhere; returns the slots that reached sigma 0, now free again, and what they held."""
        done = []
        for slot in self.slots:
            if slot.request is None:
                continue
            slot.step += 1
            if slot.step == slot.request.steps:
                done.append((slot, slot.request))
                slot.request = None
        return done

    def clear(self) -> int:
        """Drop everything in flight; returns how many there were."""
        held = self.active
        for slot in self.slots:
            slot.request = None
        return held
