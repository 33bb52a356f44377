"""The host's part of a tick by itself: what a slot does at its step, and which formulas the tick then runs."""

from __future__ import annotations

import pytest
import torch
from ostinato.engine_runtime.config import NO_GUIDANCE, Guidance, Sampling
from ostinato.engine_runtime.controls.knobs import KNOBS
from ostinato.engine_runtime.spec import ACE_STEP
from ostinato.engine_runtime.stream.request import Part, Request, Target
from ostinato.engine_runtime.stream.slot_plan import (
    COUNT,
    FLAGS,
    FREE,
    PLACE,
    Features,
    Gates,
    Scalars,
    SlotPlan,
    noise_seed,
    numbers_of,
)

from ...helpers import drawn, made_up

T, C, STEPS = 6, ACE_STEP.channels, 4
GIVEN = made_up(0, T)
SOURCE = drawn(3, T, C)
ALL = Gates("full", {**dict.fromkeys(PLACE, 1), "dcw": 3})


def request(solver="ode", **given) -> Request:
    """A guided one."""
    return Request(GIVEN, Sampling(STEPS, 1.0, seed=7, solver=solver), **{"guidance": Guidance(3.0), **given})


def acting(asked: Request, step: int, gates: Gates = ALL) -> set[str]:
    """The places in which knobs act."""
    return {PLACE[name] for name in SlotPlan.of(asked, step, gates).knobs}


def test_a_step_goes_from_one_sigma_to_the_next():
    plans = [SlotPlan.of(request(guidance=Guidance(3.0, eta=0.4, norm_limit=2.0)), i, Gates()) for i in range(STEPS)]
    assert [(p.scalars.t, p.scalars.t_next) for p in plans] == [(1.0, 0.75), (0.75, 0.5), (0.5, 0.25), (0.25, 0.0)]
    assert {(p.scalars.eta, p.scalars.norm_limit) for p in plans} == {(0.4, 2.0)}
    assert [p.holds for p in plans] == [(True,)] * STEPS and not any(p.keeps or p.knobs for p in plans)
    assert FREE.scalars.t == FREE.scalars.t_next and FREE.holds == ()


def test_fresh_noise_is_drawn_where_a_formula_takes_it():
    """Not at the last step, which ends at sigma 0; each step has a seed of its own."""
    seeds = [noise_seed(7, i) for i in range(STEPS - 1)]
    assert [SlotPlan.of(request("sde"), i, Gates()).noise for i in range(STEPS)] == [*seeds, None]
    noisy = Gates(knobs={"ode_noise": 1})
    assert [SlotPlan.of(request(), i, noisy).noise for i in range(STEPS)] == [*seeds, None]
    assert [SlotPlan.of(request(), i, Gates()).noise for i in range(STEPS)] == [None] * STEPS
    assert [SlotPlan.of(request("sde"), i, noisy).knobs for i in range(STEPS)] == [{}] * STEPS
    assert [SlotPlan.of(request(), i, noisy).knobs for i in range(STEPS)] == [{"ode_noise": 1}] * 3 + [{}]


def test_the_seed_of_a_step_is_written_down():
    """A take replays by it."""
    assert noise_seed(0, 0) == 1 and noise_seed(2, 3) == 2_000_010
    assert noise_seed(2**63, 0) == 1 and 0 <= noise_seed(2**64 - 1, 5) < 2**63


def test_knobs_act_at_the_steps_of_their_place():
    always = {"input", "conditions", "velocity", "correction"} & set(PLACE.values())
    assert acting(request(), 0) == always | {"guidance", "noise"}
    assert acting(request(), STEPS - 1) == always | {"guidance"}, "no noise after the last step"
    assert acting(request("sde"), 0) == always | {"guidance"}
    assert acting(request("sde", source=SOURCE), 0) == always | {"guidance", "sde"}
    assert acting(request(source=SOURCE), 0) == always | {"guidance", "noise"}
    late = request(target=Target(SOURCE, 0.5, 1.0))
    assert ["target" in acting(late, i) for i in range(STEPS)] == [False, False, True, True]
    assert acting(request(), 0, Gates("full", {"velocity_scale": 1})) == {"velocity"}
    assert SlotPlan.of(request(), 0, ALL).knobs["dcw"] == 3, "the number of its correction"


def test_guidance_acts_in_its_interval():
    asked = request(guidance=Guidance(3.0, start=0.25, end=0.75))
    inside = [asked.guidance.acts_at(t) for t in asked.sigmas[:-1]]
    assert set(inside) == {True, False}
    for negative in ("full", "initialize", "off"):
        gates = Gates(negative, {"guidance_scale": 1})
        plans = [SlotPlan.of(asked, i, gates) for i in range(STEPS)]
        assert ["guidance_scale" in plan.knobs for plan in plans] == inside
        decoded = {"full": inside, "initialize": [True, False, False, False], "off": [False] * STEPS}[negative]
        assert [plan.scalars.decoded for plan in plans] == decoded
        keeps = {"full": [False] * STEPS, "initialize": [True, *inside[1:]], "off": inside}[negative]
        assert [plan.keeps for plan in plans] == keeps
    assert not any(SlotPlan.of(asked, i, Gates("full")).scalars.decoded for i in range(STEPS)), "nothing is guided"
    plain = request(guidance=NO_GUIDANCE)
    assert SlotPlan.of(plain, 0, Gates("full", {"guidance_scale": 1})).knobs == {}


@pytest.mark.parametrize("start", [0.0, 0.25])
@pytest.mark.parametrize("every", [2, 3])
def test_a_negative_of_every_so_many_steps_is_counted_from_the_first_guided_one(start, every):
    asked, guides = request(guidance=Guidance(3.0, start=start, every=every)), Gates("full", {"guidance_scale": 1})
    first = int(start * STEPS)
    assert asked.guided_from == first
    plans = [SlotPlan.of(asked, i, guides) for i in range(STEPS)]
    decoded = [i >= first and (i - first) % every == 0 for i in range(STEPS)]
    assert [plan.scalars.decoded for plan in plans] == decoded
    assert [plan.scalars.held for plan in plans] == [i >= first and not decoded[i] for i in range(STEPS)]
    assert not any(plan.keeps for plan in plans), "the average is kept, no negative"
    still = [SlotPlan.of(asked, i, Gates("full")) for i in range(STEPS)]
    assert not any(plan.scalars.decoded or plan.scalars.held for plan in still), "nothing is guided"
    assert request(guidance=Guidance(3.0, start=1.0)).guided_from == STEPS


def test_a_mask_and_a_target_turn_the_step_toward_what_the_prediction_became():
    half = torch.ones(T, C)
    half[3:] = 0.0
    masked = request(source=SOURCE, mask=half, mask_strength=(1.0, 0.0))
    scalars = [SlotPlan.of(masked, i, Gates()).scalars for i in range(STEPS)]
    assert [s.mask_strength for s in scalars] == pytest.approx([1.0, 2 / 3, 1 / 3, 0.0])
    assert [s.masked for s in scalars] == [s.redirected for s in scalars] == [True, True, True, False]
    assert not any(s.renoised for s in scalars)
    plain = SlotPlan.of(request("sde"), 0, Gates()).scalars
    assert (plain.masked, plain.redirected, plain.renoised, plain.mask_strength) == (False, False, True, 1.0)
    pulled = request(target=Target(SOURCE, 0.0, 0.5))
    gates = Gates(knobs={"target_strength": 1})
    assert [SlotPlan.of(pulled, i, gates).scalars.redirected for i in range(STEPS)] == [True, True, False, False]


def test_numbers_are_rows_by_name_and_columns_by_slot():
    two = Request((Part(GIVEN, 1.0, 0.0, 0.5), Part(made_up(5, T), 1.0)), Sampling(STEPS, 1.0))
    plans = [SlotPlan.of(two, 2, ALL), FREE, SlotPlan.of(request(), 0, Gates())]
    numbers = numbers_of(plans, 3)
    assert len(numbers) == COUNT + 3 and {len(row) for row in numbers} == {3}
    assert numbers[: len(Scalars.__match_args__)] == list(zip(*(plan.scalars for plan in plans), strict=True))
    flags = dict(zip(PLACE, numbers[len(Scalars.__match_args__) : COUNT], strict=True))
    assert flags["dcw"] == (3, 0, 0) and flags["velocity_scale"] == (1, 0, 0)
    assert numbers[COUNT:] == [(False, False, True), (True, False, False), (False, False, False)]
    assert numbers_of(plans, 1)[COUNT:] == [(False, False, True)]
    assert Scalars.__match_args__[FLAGS:] == ("decoded", "held", "masked", "redirected", "renoised")
    assert set(PLACE) == {name for name, knob in KNOBS.items() if knob.gated}


def features(*plans: SlotPlan, passes=((0, 1),), first=()) -> Features:
    return Features.of(plans, numbers_of(plans, 2), passes, first)


def test_a_tick_runs_what_any_slot_needs():
    rest = features(FREE, SlotPlan.of(request(), 0, Gates()))
    assert rest == Features(frozenset(), False, False, False, ((0, 1),), (), ()) and not rest.predicted
    sde = features(FREE, SlotPlan.of(request("sde"), 0, Gates()))
    assert sde.on == {"renoised"} and sde.predicted
    busy = features(FREE, SlotPlan.of(request(), 0, ALL), passes=((0, 2),), first=(1,))
    assert busy.on == {"decoded", *SlotPlan.of(request(), 0, ALL).knobs} and busy.predicted
    assert (busy.passes, busy.first, busy.corrections, busy.mixed) == (((0, 2),), (1,), (3,), False)
    assert features(SlotPlan.of(request(), 0, Gates(knobs={"dcw": 2})), busy_plan()).corrections == (2, 3)
    assert not features(SlotPlan.of(request(), 0, Gates(knobs={"velocity_scale": 1}))).predicted


def test_a_free_slot_stays_where_it_is_and_turns_nothing_on():
    """Its row is decoded with the others, so what it held must not grow."""
    assert FREE.scalars.t == FREE.scalars.t_next
    assert features(FREE, FREE).on == frozenset() and not features(FREE).mixed and not features(FREE).softened


def busy_plan() -> SlotPlan:
    return SlotPlan.of(request(), 0, ALL)


def test_a_tick_knows_of_soft_masks_several_conditions_and_kept_negatives():
    half = torch.ones(T, C)
    half[3:] = 0.0
    for strength, soft in (((1.0,), False), ((0.5,), True), ((0.0,), False)):
        plan = SlotPlan.of(request(source=SOURCE, mask=half, mask_strength=strength), 1, Gates())
        assert features(FREE, plan).softened == soft and ("masked" in features(plan).on) == any(strength)
    two = Request((Part(GIVEN), Part(made_up(5, T))), Sampling(STEPS, 1.0))
    assert features(FREE, SlotPlan.of(two, 0, Gates())).composed and not features(busy_plan()).composed
    guided = Gates("initialize", {"guidance_scale": 1})
    assert features(FREE, SlotPlan.of(request(), 1, guided)).mixed
