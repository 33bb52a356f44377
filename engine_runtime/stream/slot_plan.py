"""The host's part of a tick: what each slot does at its step, and which formulas the tick runs. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..controls.knobs import KNOBS, PLACES
from .request import Request

PLACE = {name: knob.place for name, knob in KNOBS.items() if knob.gated}  # of the knobs with a gate
NONE: Mapping[str, int] = {}


class Gates(NamedTuple):
    """The formulas that a slot's request and knobs need, decided when they are set: so a tick reads no device.

    Attributes:
        negative: when rows are decoded for the negative: at every step, or every so many (`full`), at the first
            (`initialize`) or never (`off`).
        knobs: 1 for each that has an effect on the slot; for `dcw` the number of its correction in `correction.BY`.
    """

    negative: str = "off"
    knobs: Mapping[str, int] = NONE


class Scalars(NamedTuple):
    """The numbers of one slot's tick; from `decoded` on they are flags, 1 or 0. On the device each is `[D, 1, 1]`.

    Attributes:
        t, t_next: sigma before and after the step; equal in a free slot.
        eta, norm_limit: of the request's guidance.
        mask_strength: of the request's mask at this step.
        decoded: a negative velocity is decoded in this tick.
        held: the slot is guided by what it was guided by at the step before.
        masked: the request has a mask.
        redirected: a mask or a target changes the prediction, so the step is taken toward what it became.
        renoised: the solver is sde.
    """

    t: Any = 0.0
    t_next: Any = 0.0
    eta: Any = 0.0
    norm_limit: Any = 1.0
    mask_strength: Any = 1.0
    decoded: Any = 0.0
    held: Any = 0.0
    masked: Any = 0.0
    redirected: Any = 0.0
    renoised: Any = 0.0


COUNT = len(Scalars._fields) + len(PLACE)  # numbers of a slot: the scalars, then a flag for each knob with a gate
FLAGS = Scalars._fields.index("decoded")  # where the numbers become flags
_ZEROS = (0,) * len(PLACE)
_ALWAYS = dict.fromkeys(PLACES, True)


class SlotPlan(NamedTuple):
    """The part of one slot in a tick.

    Attributes:
        scalars: numbers of its request.
        knobs: of those in `Gates` the ones that act at this step.
        holds: for each of the request's conditions, true where it holds; empty in a free slot.
        keeps: the slot keeps the negative that it decodes now, or is guided by one that it kept.
        noise: seed of this step's fresh noise; None where none is needed.
    """

    scalars: Scalars = Scalars()
    knobs: Mapping[str, int] = NONE
    holds: tuple[bool, ...] = ()
    keeps: bool = False
    noise: int | None = None

    @classmethod
    def of(cls, request: Request, step: int, gates: Gates) -> SlotPlan:
        """Plan a step of a request."""
        t, t_next = request.sigmas[step : step + 2]
        guidance, target, sde = request.guidance, request.target, request.sampling.solver == "sde"
        guided = "guidance_scale" in gates.knobs and guidance.acts_at(t)
        due = (step - request.guided_from) % guidance.every == 0
        decoded = step == 0 if gates.negative == "initialize" else guided and due and gates.negative == "full"
        held = guided and not due and gates.negative == "full"
        strength = request.strength_at(step) if request.masked else 1.0
        masked = request.masked and strength > 0.0
        knobs = gates.knobs
        if knobs:
            acts = _ALWAYS | {
                "guidance": guided,
                "target": target is not None and target.holds(step, request.steps),
                "noise": not sde and t_next > 0.0,
                "sde": sde and request.source is not None,
            }
            knobs = {name: gate for name, gate in knobs.items() if acts[PLACE[name]]}
        drawn = t_next > 0.0 and (sde or "ode_noise" in knobs)
        return cls(
            Scalars(
                t=t,
                t_next=t_next,
                eta=guidance.eta,
                norm_limit=guidance.norm_limit,
                mask_strength=strength,
                decoded=decoded,
                held=held,
                masked=masked,
                redirected=masked or "target_strength" in knobs,
                renoised=sde,
            ),
            knobs,
            holds=tuple([part.holds(step, request.steps) for part in request.parts]),
            keeps=gates.negative == "initialize" if decoded else guided and not held,
            noise=noise_seed(request.sampling.seed, step) if drawn else None,
        )


FREE = SlotPlan()


class Features(NamedTuple):
    """All that a tick's calls depend on, apart from the ring's own shape; a captured tick is replayed for the same.

    Attributes:
        on: names of the flags and knobs that are on in any slot.
        softened: a mask has a strength other than 1.
        composed: a slot has several conditions.
        mixed: some slots are guided by a negative of this tick, others by one that they kept.
        passes: (first, end) of the blocks of rows that are decoded together.
        first: slots that decode by themselves the negative which they then keep.
        corrections: numbers of the corrections that any slot has.
    """

    on: frozenset[str]
    softened: bool
    composed: bool
    mixed: bool
    passes: tuple[tuple[int, int], ...]
    first: tuple[int, ...]
    corrections: tuple[int, ...]

    @property
    def predicted(self) -> bool:
        """Return true where a formula reads the clean prediction."""
        return not self.on.isdisjoint(("redirected", "renoised", "dcw"))

    @classmethod
    def of(
        cls,
        plans: Sequence[SlotPlan],
        numbers: Sequence[tuple[float, ...]],
        passes: tuple[tuple[int, int], ...],
        first: tuple[int, ...],
    ) -> Features:
        """Decide the features of the coming tick.

        Args:
            numbers: of the plans, as `numbers_of` returns them.
        """
        on = {name for name, row in zip(Scalars._fields[FLAGS:], numbers[FLAGS:], strict=False) if any(row)}
        on.update(*[plan.knobs for plan in plans])
        return cls(
            on=frozenset(on),
            softened=any([plan.scalars.masked and plan.scalars.mask_strength != 1.0 for plan in plans]),
            composed=any([len(plan.holds) > 1 for plan in plans]),
            mixed=any([plan.keeps for plan in plans]),
            passes=passes,
            first=first,
            corrections=tuple(sorted({plan.knobs["dcw"] for plan in plans if "dcw" in plan.knobs})),
        )


def numbers_of(plans: Sequence[SlotPlan], conditions: int) -> list[tuple[float, ...]]:
    """List the numbers of a tick, a row for each name with one number a slot: `COUNT` of them, then a row for each
    condition, true where it holds.
    """
    spare = (False,) * conditions
    columns = [
        (*plan.scalars, *map(plan.knobs.get, PLACE, _ZEROS), *(*plan.holds, *spare)[:conditions]) for plan in plans
    ]
    return list(zip(*columns, strict=True))


def noise_seed(seed: int, step: int) -> int:
    """Compute the seed of a step's fresh noise from the request's seed and the step alone: a request repeats."""
    return (seed * 1_000_003 + step + 1) % 2**63
