"""The ring: slots, the request and step of each, and the plan of the next tick. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .request import Request
from .slot_plan import FREE, Gates, SlotPlan

if TYPE_CHECKING:
    from .member import Member


@dataclass
class Slot:
    """A place for one request in flight.

    Attributes:
        index: its place in the ring, and in every buffer of the tick.
        member: whose slot it is.
        request: None in a free slot.
        step: steps done.
        gates: of the request and the knobs, decided when they are written.
    """

    index: int
    member: Member
    request: Request | None = None
    step: int = 0
    gates: Gates = Gates()

    def plan(self) -> SlotPlan:
        """Plan the slot's part in the next tick."""
        return FREE if self.request is None else SlotPlan.of(self.request, self.step, self.gates)


class Ring:
    """The slots of all members, side by side; every tick moves each occupied slot one step on.

    Attributes:
        shares: each member and its number of slots, in the order of the slots.
    """

    def __init__(self, shares: Sequence[tuple[Member, int]] = ()) -> None:
        self.shares = list(shares)
        members = (member for member, count in shares for _ in range(count))
        self.slots = [Slot(i, member) for i, member in enumerate(members)]

    @property
    def occupied(self) -> list[Slot]:
        return [slot for slot in self.slots if slot.request is not None]

    @property
    def idle(self) -> bool:
        return not any(slot.request is not None for slot in self.slots)

    def span(self, member: Member) -> slice:
        """Return the slice of a member's slots."""
        start = 0
        for other, count in self.shares:
            if other is member:
                return slice(start, start + count)
            start += count
        return slice(0, 0)

    def occupied_by(self, member: Member) -> list[Slot]:
        """List a member's occupied slots."""
        return [slot for slot in self.slots[self.span(member)] if slot.request is not None]

    def admit(self, member: Member, request: Request) -> Slot | None:
        """Put a request into the member's first free slot and return the slot; None where there is none."""
        slot = next((slot for slot in self.slots[self.span(member)] if slot.request is None), None)
        if slot is not None:
            slot.request, slot.step = request, 0
        return slot

    def plan(self) -> list[SlotPlan]:
        """Plan the next tick, one entry a slot."""
        return [slot.plan() for slot in self.slots]

    def advance(self) -> list[Slot]:
        """Count one step in every occupied slot; return those that reached sigma 0. They stay occupied until freed."""
        done = []
        for slot in self.slots:
            if slot.request is not None:
                slot.step += 1
                if slot.step == slot.request.steps:
                    done.append(slot)
        return done

    def resized(self, shares: Sequence[tuple[Member, int]]) -> Ring:
        """Return a ring with this number of slots for each member, and all requests in flight.

        Args:
            shares: members and numbers of slots, each at least as many as the member has occupied here.
        """
        ring = Ring(shares)
        for new, old in self.moves_to(ring):
            new.request, new.step, new.gates = old.request, old.step, old.gates
        return ring

    def moves_to(self, ring: Ring) -> list[tuple[Slot, Slot]]:
        """List where each occupied slot goes in another ring: (new slot, old slot)."""
        pairs = [zip(ring.slots[ring.span(m)], self.occupied_by(m), strict=False) for m, _ in ring.shares]
        return [pair for member in pairs for pair in member]
