"""The ring: slots, the request and step of each, and the plan of the coming tick. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .request import Request
from .slot_plan import FREE, Gates, SlotPlan


@dataclass
class Slot:
    """A place for one request in flight."""

    index: int
    owner: Any = None
    request: Request | None = None
    step: int = 0
    gates: Gates = Gates()

    @property
    def frames(self) -> int:
        return self.request.frames if self.request is not None else 0

    def plan(self) -> SlotPlan:
        """Plan the slot's part in the coming tick."""
        return FREE if self.request is None else SlotPlan.of(self.request, self.step, self.gates)


class Ring:
    """The slots of all owners, side by side; every tick moves each occupied slot one step on."""

    def __init__(self) -> None:
        self.slots: list[Slot] = []
        self.parts: list[tuple[Any, int]] = []  # owner, number of slots

    @property
    def occupied(self) -> list[Slot]:
        return [slot for slot in self.slots if slot.request is not None]

    @property
    def idle(self) -> bool:
        return not any(slot.request is not None for slot in self.slots)

    def span(self, owner: Any) -> slice:
        """Return the slice of an owner's slots."""
        start = 0
        for other, count in self.parts:
            if other is owner:
                return slice(start, start + count)
            start += count
        return slice(0, 0)

    def held(self, owner: Any) -> list[Slot]:
        """List an owner's occupied slots."""
        return [slot for slot in self.slots[self.span(owner)] if slot.request is not None]

    def admit(self, owner: Any, request: Request) -> Slot | None:
        """Put a request into the owner's first free slot and return the slot; None where there is none."""
        slot = next((slot for slot in self.slots[self.span(owner)] if slot.request is None), None)
        if slot is not None:
            slot.request, slot.step = request, 0
        return slot

    def plan(self) -> list[SlotPlan]:
        """Plan the coming tick, one entry a slot."""
        return [slot.plan() for slot in self.slots]

    def advance(self) -> list[tuple[Slot, Request]]:
        """Count one step in every slot; free and return those that reached sigma 0, with their requests."""
        done = []
        for slot in self.slots:
            if slot.request is None:
                continue
            slot.step += 1
            if slot.step == slot.request.steps:
                done.append((slot, slot.request))
                slot.request = None
        return done

    def clear(self, owner: Any) -> int:
        """Drop an owner's requests in flight; returns their number."""
        held = self.held(owner)
        for slot in held:
            slot.request = None
        return len(held)

    def laid(self, parts: Sequence[tuple[Any, int]]) -> Ring:
        """Return a ring with this number of slots for each owner, and move all requests in flight to it.

        Args:
            parts: owners and numbers of slots, each at least as many as the owner has occupied here.
        """
        ring = Ring()
        ring.parts = list(parts)
        ring.slots = [Slot(i, owner) for i, owner in enumerate(owner for owner, count in parts for _ in range(count))]
        for new, old in self.moved(ring):
            new.request, new.step, new.gates = old.request, old.step, old.gates
        return ring

    def moved(self, ring: Ring) -> list[tuple[Slot, Slot]]:
        """List where each occupied slot went in the other ring: (new slot, old slot)."""
        places = [zip(ring.slots[ring.span(owner)], self.held(owner), strict=False) for owner, _ in ring.parts]
        return [pair for place in places for pair in place]
