"""The ring: slots, the request and step of each, and the plan of the coming tick. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from .request import Request


@dataclass(frozen=True)
class Gates:
    """The features that a slot's request and knobs need, decided when they are set: the tick reads no device.

    Attributes:
        guided: guidance has an effect at the steps inside its interval.
        negative: when rows are decoded for it: at every step (`full`), at the first (`initialize`) or never (`off`).
        rescaled, scaled, gained, noisy, targeted: the knob of that kind is not neutral.
        corrected: number of the correction, from 1, as in `correction.BY`; 0 for none.
        sourced: the sde solver mixes in the source.
    """

    guided: bool = False
    negative: str = "off"
    rescaled: bool = False
    scaled: bool = False
    gained: bool = False
    noisy: bool = False
    targeted: bool = False
    corrected: int = 0
    sourced: bool = False


class Scalars(NamedTuple):
    """The numbers of one slot's tick. From `guided` on they are flags, 1 or 0; `corrected` is the number of a
    correction.

    A free slot has `t == t_next`. On the device each is a tensor `[D, 1, 1]`.
    """

    t: Any = 0.0
    t_next: Any = 0.0
    eta: Any = 0.0
    norm_limit: Any = 1.0
    strength: Any = 1.0
    guided: Any = 0.0
    decoded: Any = 0.0  # a negative velocity, in this tick
    rescaled: Any = 0.0
    masked: Any = 0.0
    targeted: Any = 0.0
    blended: Any = 0.0  # masked or targeted
    renoised: Any = 0.0
    sourced: Any = 0.0
    injected: Any = 0.0
    corrected: Any = 0.0


class SlotPlan(NamedTuple):
    """The part of one slot in a tick.

    Attributes:
        scalars: for the device.
        holds: for each of the request's conditions, true where it holds; empty in a free slot.
        gates: of the slot.
        noise: seed of this step's fresh noise; None where none is needed.
    """

    scalars: Scalars = Scalars()
    holds: tuple[bool, ...] = ()
    gates: Gates = Gates()
    noise: int | None = None


FREE = SlotPlan()


def noise_seed(seed: int, step: int) -> int:
    """Compute the seed of a step's fresh noise from the request's seed and the step alone, so that a request repeats.
    """
    return (seed * 1_000_003 + step + 1) % 2**63


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
        request, gates = self.request, self.gates
        if request is None:
            return FREE
        t, t_next = request.sigmas[self.step : self.step + 2]
        g, sde = request.guidance, request.sampling.solver == "sde"
        guided = gates.guided and g.acts_at(t)
        decoded = self.step == 0 if gates.negative == "initialize" else guided and gates.negative == "full"
        strength = request.strength_at(self.step) if request.masked else 1.0
        masked = request.masked and strength > 0.0
        targeted = gates.targeted and request.target is not None and request.target.holds(self.step, request.steps)
        injected = gates.noisy and not sde and t_next > 0.0
        scalars = Scalars(
            t=t,
            t_next=t_next,
            eta=g.eta,
            norm_limit=g.norm_limit,
            strength=strength,
            guided=guided,
            decoded=decoded,
            rescaled=guided and gates.rescaled,
            masked=masked,
            targeted=targeted,
            blended=masked or targeted,
            renoised=sde,
            sourced=sde and gates.sourced,
            injected=injected,
            corrected=gates.corrected,
        )
        drawn = noise_seed(request.sampling.seed, self.step) if injected or (sde and t_next > 0.0) else None
        holds = tuple(part.holds(self.step, request.steps) for part in request.parts)
        return SlotPlan(scalars, holds, gates, drawn)


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
