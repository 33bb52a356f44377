"""A request by itself: what it takes and refuses, the steps of a span, the strength of a mask. No engine plays."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from ostinato.engine_runtime.config import Guidance, Sampling
from ostinato.engine_runtime.constants import MAX_CONDITIONS, MAX_STEPS
from ostinato.engine_runtime.errors import InputError
from ostinato.engine_runtime.spec import ACE_STEP
from ostinato.engine_runtime.stream.request import Condition, Part, Request, Target, check_tensor, in_span

from ...helpers import WIDTH, drawn, made_up

T, C = 6, ACE_STEP.channels
GIVEN = made_up(0, T)


def refuses(words: str, make) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("start", "end", "steps", "held"),
    [
        (0.0, 1.0, 4, [0, 1, 2, 3]),
        (0.25, 0.75, 4, [1, 2]),
        (0.5, 1.0, 2, [1]),
        (0.5, 0.99, 3, [2]),
        (1 / 3, 2 / 3, 3, [1]),
        (0.3, 0.6, 10, [3, 4, 5]),  # 0.3 * 10 is a bit more than 3
        (0.1, 0.7, 10, [1, 2, 3, 4, 5, 6]),  # and 0.7 * 10 a bit more than 7
        (0.0, 0.1, 4, [0]),
        (0.9, 1.0, 4, []),
    ],
)
def test_a_span_holds_for_steps(start, end, steps, held):
    assert [step for step in range(steps) if in_span(start, end, step, steps)] == held
    assert [step for step in range(steps) if Part(GIVEN, 1.0, start, end).holds(step, steps)] == held
    assert [step for step in range(steps) if Target(drawn(0, T, C), start, end).holds(step, steps)] == held


def test_a_span_is_not_empty():
    for make in (lambda *span: Part(GIVEN, 1.0, *span), lambda *span: Target(drawn(0, T, C), *span)):
        for span in ((0.5, 0.5), (0.6, 0.5), (-0.1, 1.0), (0.0, 1.1)):
            with pytest.raises(InputError):
                make(*span)
    refuses("holds from 0.5 to 0.5", lambda: Part(GIVEN, 1.0, 0.5, 0.5))


@pytest.mark.parametrize(
    ("strength", "steps", "line"),
    [
        ((0.4,), 3, [0.4, 0.4, 0.4]),
        ((1.0, 0.0), 5, [1.0, 0.75, 0.5, 0.25, 0.0]),
        ((0.0, 1.0, 0.5), 5, [0.0, 0.5, 1.0, 0.75, 0.5]),
        ((0.2, 0.8), 1, [0.2]),
        ((0.0, 0.9, 0.3), 2, [0.0, 0.3]),
    ],
)
def test_the_strength_of_a_mask_runs_over_the_steps(strength, steps, line):
    request = Request(GIVEN, Sampling(steps), mask_strength=strength)
    assert [request.strength_at(step) for step in range(steps)] == pytest.approx(line)


def test_a_mask_that_keeps_nothing_is_none():
    source, half = drawn(0, T, C), torch.ones(T, C)
    half[2:] = 0.0
    assert Request(GIVEN, source=source, mask=half).masked
    assert Request(GIVEN, source=source, mask=half, mask_strength=(0.0, 0.5)).masked
    assert not Request(GIVEN, source=source, mask=half, mask_strength=(0.0, 0.0)).masked
    assert not Request(GIVEN, source=source, mask=torch.ones(T, C)).masked
    assert not Request(GIVEN, source=source).masked


@pytest.mark.parametrize("value", [-0.01, 1.01])
def test_a_mask_lies_in_0_to_1(value):
    mask = torch.ones(T, C)
    mask[0], mask[1] = 0.0, 1.0
    Request(GIVEN, source=drawn(0, T, C), mask=mask)
    mask[3, 5] = value
    refuses("the mask holds values outside", lambda: Request(GIVEN, source=drawn(0, T, C), mask=mask))


def test_the_strength_of_a_mask_has_a_number_a_step_at_most():
    assert Request(GIVEN, mask_strength=(1.0,) * MAX_STEPS)
    refuses(f"has {MAX_STEPS + 1} numbers", lambda: Request(GIVEN, mask_strength=(1.0,) * (MAX_STEPS + 1)))
    refuses("has 0 numbers", lambda: Request(GIVEN, mask_strength=()))
    refuses("mask strength is 1.5", lambda: Request(GIVEN, mask_strength=(1.0, 1.5)))
    refuses("mask strength is -1", lambda: Request(GIVEN, mask_strength=(-1.0,)))


def test_what_needs_a_source_is_refused_without_one():
    source = drawn(0, T, C)
    needs = {"a mask and no source": {"mask": torch.ones(T, C)}, "initial noise is set": {"initial_noise": 0.5}}
    needs["the first sigma is 0.5 and"] = {"sampling": Sampling(4, 1.0, 0.5)}
    for words, given in needs.items():
        Request(GIVEN, source=source, **given)
        refuses(words, lambda given=given: Request(GIVEN, **given))
    for share in (-0.1, 1.1, torch.ones(T + 1)):
        refuses("initial noise", lambda share=share: Request(GIVEN, source=source, initial_noise=share))
    for share in (0.0, 1.0, torch.ones(T)):
        Request(GIVEN, source=source, initial_noise=share)


def test_guidance_needs_a_null_condition_where_it_decodes_one():
    turbo = made_up(0, T, guided=False)
    refuses("mode full is set on a condition without", lambda: Request(turbo, guidance=Guidance(3.0)))
    for guidance in (Guidance(3.0, mode="self"), Guidance(1.0)):
        Request(turbo, guidance=guidance)
        Request(GIVEN, guidance=guidance)
    Request(GIVEN, guidance=Guidance(3.0))
    for name in ("scale", "momentum", "rescale"):
        curve = {name: torch.full((T + 1,), 0.5)}
        refuses(f"guidance {name} has {T + 1} frames", lambda curve=curve: Request(GIVEN, guidance=Guidance(**curve)))


def test_every_step_and_frame_has_a_condition():
    other = made_up(5, T)
    parts = Part(GIVEN, 1.0, 0.0, 0.5), Part(other, 1.0, 0.5, 1.0)
    Request(parts, Sampling(4))
    refuses("no condition holds at step 3 of 4", lambda: Request(parts[:1], Sampling(4)))
    refuses("no condition holds at step 1 of 4", lambda: Request(parts[1:], Sampling(4)))
    half = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    Request((Part(GIVEN, half), Part(other, 1.0 - half)), Sampling(4))
    refuses("no condition holds at step 1 of 4", lambda: Request((Part(GIVEN, half), Part(other, half)), Sampling(4)))
    many = (Part(GIVEN),) * (MAX_CONDITIONS + 1)
    Request(many[1:])
    refuses(f"the number of conditions is {MAX_CONDITIONS + 1}", lambda: Request(many))
    refuses("the number of conditions is 0", lambda: Request(()))


def test_the_weight_of_a_condition_is_a_number_or_a_curve_of_its_length():
    for weight in (0.0, 1e3, torch.ones(T)):
        Part(GIVEN, weight)
    for weight in (-0.1, 1001.0, math.nan, torch.ones(T + 1), torch.full((T,), -1.0)):
        refuses("the weight of a condition" if isinstance(weight, float) else "weight", lambda w=weight: Part(GIVEN, w))


def test_a_target_has_numbers_only():
    refuses("the target holds NaN", lambda: Target(torch.full((T, C), math.nan)))
    refuses("the target has shape [6]", lambda: Target(torch.ones(T)))


def test_conditions_that_are_combined_are_alike():
    longer = made_up(5, T + 1)
    refuses("conditions of 6 and 7 frames", lambda: Request((Part(GIVEN), Part(longer))))
    wide = made_up(5, T, width=WIDTH + 1)
    refuses(f"a condition's tokens has shape [5, {WIDTH + 1}]", lambda: Request((Part(GIVEN), Part(wide))))
    other = replace(GIVEN, spec=replace(ACE_STEP, name="another model"))
    refuses("another model", lambda: Request((Part(GIVEN), Part(other))))
    long = made_up(5, T, tokens=9)
    assert Request((Part(GIVEN), Part(long))).tokens == Request((Part(long), Part(GIVEN))).tokens == 9


def test_the_longer_row_of_a_condition_counts():
    tokens, context = drawn(0, 5, WIDTH), drawn(1, T, ACE_STEP.context)
    lengths = [Condition(tokens, context, null).length for null in (None, drawn(2, 3, WIDTH), drawn(2, 8, WIDTH))]
    assert lengths == [5, 5, 8]


def test_a_condition_of_nothing_is_refused():
    one = Condition(drawn(0, 1, WIDTH), drawn(1, 1, ACE_STEP.context))
    assert (one.length, one.frames) == (1, 1)
    refuses("0 tokens and 1 frames", lambda: Condition(drawn(0, 0, WIDTH), one.context))
    refuses("1 tokens and 0 frames", lambda: Condition(one.tokens, drawn(0, 0, ACE_STEP.context)))
    refuses("the null condition has shape", lambda: Condition(one.tokens, one.context, drawn(0, 1, WIDTH + 1)))
    null = drawn(0, 1, WIDTH)
    refuses("null condition's context has", lambda: Condition(one.tokens, one.context, null, drawn(0, 2, 128)))


def test_a_tensor_of_another_shape_or_with_bad_numbers_is_refused():
    check_tensor("it", torch.ones(2, 3), None, 3)
    for shape in ((2, 4), (3,), (1, 2, 3)):
        refuses(
            f"it has shape {list(shape)}; allowed is [any, 3]",
            lambda s=shape: check_tensor("it", torch.ones(s), None, 3),
        )
    for bad in (math.nan, math.inf):
        tensor = torch.ones(2, 3)
        tensor[1, 2] = bad
        refuses("it holds NaN or infinite", lambda tensor=tensor: check_tensor("it", tensor, 2, 3))
    for name in ("source", "noise", "mask"):
        refuses(f"has shape [{T}, {C + 1}]", lambda name=name: Request(GIVEN, **{name: torch.ones(T, C + 1)}))
    refuses("the target has shape", lambda: Request(GIVEN, target=Target(torch.ones(T + 1, C))))
    refuses("the sigmas are", lambda: Request(GIVEN, schedule=(0.5, 0.7, 0.0)))
