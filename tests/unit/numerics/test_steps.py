"""Each formula of a step by itself, in float64, and the bits of a slot that it is not for."""

from __future__ import annotations

import pytest
import torch
from ostinato.engine_runtime.numerics import guidance, steps

from ...helpers import drawn

D, T, C = 3, 5, 64
X, X0, V, OTHER, EPS = (drawn(seed, D, T, C) for seed in range(5))
SHARE = drawn(5, D, T, 1).sigmoid()
MASK = (2 * drawn(6, D, T, C).sigmoid() - 0.5).clamp(0, 1)
TIME, NEXT = torch.tensor([0.9, 0.5, 0.25]).view(D, 1, 1), torch.tensor([0.8, 0.3, 0.0]).view(D, 1, 1)
ON = torch.tensor([True, False, True]).view(D, 1, 1)
KEPT = TIME * EPS + (1 - TIME) * OTHER

# how it is computed, the formula, what a slot has where it is off
FORMULAS = {
    "toward": (lambda: steps.toward(X0, OTHER, SHARE, ON), (1 - SHARE) * X0 + SHARE * OTHER, X0),
    "euler_to": (
        lambda: steps.euler_to(X, X0, V, TIME, NEXT, ON),
        X + (NEXT - TIME) * (X - X0) / TIME,
        X + V * (NEXT - TIME),
    ),
    "injected": (lambda: steps.injected(X, EPS, SHARE, NEXT, ON), X + NEXT * SHARE * EPS, X),
    "renoised": (lambda: steps.renoised(X, X0, EPS, NEXT, ON), NEXT * EPS + (1 - NEXT) * X0, X),
    "masked_input": (lambda: steps.masked_input(X, MASK, OTHER, EPS, TIME, ON), MASK * X + (1 - MASK) * KEPT, X),
    "masked_clean": (lambda: steps.masked_clean(X0, MASK, OTHER, ON), MASK * X0 + (1 - MASK) * OTHER, X0),
    "rescaled": (
        lambda: guidance.rescaled(V, X, SHARE, ON),
        SHARE * V * X.norm(dim=1, keepdim=True) / V.norm(dim=1, keepdim=True) + (1 - SHARE) * V,
        V,
    ),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_a_formula_is_of_the_slots_that_are_on(name):
    compute, want, off = FORMULAS[name]
    got = compute()
    torch.testing.assert_close(got[::2], want[::2], atol=1e-6, rtol=1e-5)
    assert torch.equal(got[1], off[1]) and (want - off).abs().max() > 0.1


def test_the_clean_prediction():
    assert torch.equal(steps.clean(X, V, TIME), X - TIME * V)
    assert torch.equal(steps.clean(X, V, torch.zeros(D, 1, 1)), X)


@pytest.mark.parametrize("t", [1.0, 0.1, 1e-6, 1e-7, 1e-20, 1e-38, 1e-44, 0.0])
def test_the_last_step_ends_at_the_prediction_whatever_the_sigma(t):
    made = steps.euler_to(X, X0, V, torch.full((D, 1, 1), t), torch.zeros(D, 1, 1), ON)
    assert torch.equal(made[::2], X0[::2]) and torch.equal(made[1], X[1] + V[1] * -torch.tensor(t))


@pytest.mark.parametrize("t", [1.0, 1e-5, 1e-7, 1e-30])
def test_a_step_goes_its_share_of_the_way_whatever_the_sigma(t):
    at = torch.full((D, 1, 1), t)
    torch.testing.assert_close(steps.euler_to(X, X0, V, at, 0.25 * at, ON)[::2], (0.25 * X + 0.75 * X0)[::2])


def test_a_step_that_is_redirected_leaves_the_bits_of_the_others():
    plain = steps.euler(X.clone(), V, TIME, NEXT)
    assert torch.equal(steps.euler_to(X, X0, V, TIME, NEXT, ON)[1], plain[1])


def test_what_is_the_same_stays_the_same_at_any_share():
    assert torch.equal(steps.toward(X0, X0.clone(), SHARE, ON), X0)
    assert torch.equal(steps.toward(X0, OTHER, torch.ones(D, T, 1), ON)[::2], OTHER[::2])


@pytest.mark.parametrize(("strength", "want"), [(1.0, MASK), (0.0, torch.ones(D, T, C)), (0.25, MASK / 4 + 0.75)])
def test_a_mask_at_a_strength(strength, want):
    torch.testing.assert_close(steps.mask_at(MASK, torch.full((D, 1, 1), strength)), want)
    assert torch.equal(steps.mask_at(MASK, torch.ones(D, 1, 1)), MASK)


def test_several_conditions_are_averaged_per_frame():
    velocities, weights = torch.stack([X, V, OTHER]), torch.stack([SHARE, 3 * SHARE, 1 - SHARE])
    want = (X * SHARE + V * 3 * SHARE + OTHER * (1 - SHARE)) / (1 + 3 * SHARE)
    for size in (1.0, 0.01, 100.0):  # only their shares count
        torch.testing.assert_close(steps.composed(velocities, size * weights), want)


def test_a_condition_of_weight_0_may_hold_anything_and_all_of_weight_0_leave_the_first():
    weights = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]]).view(2, D, 1, 1).expand(2, D, T, 1)
    second = V.clone()
    second[0] = torch.nan
    made = steps.composed(torch.stack([X, second]), weights)
    assert torch.equal(made[0], X[0]) and torch.equal(made[1], V[1]) and torch.equal(made[2], X[2])


def test_a_velocity_of_zero_stays_finite_through_guidance():
    zero, average = torch.zeros(1, T, C), drawn(7, 1, T, C)
    one, on = torch.ones(1, 1, 1), torch.ones(1, 1, 1, dtype=torch.bool)
    made = guidance.apg(zero, average, 3 * one, 0 * one, 100 * one, on)
    torch.testing.assert_close(made, 2 * average)
    assert guidance.apg(X[:1], 0 * average, 3 * one, one, one, on).isfinite().all()
    assert guidance.rescaled(zero, X[:1], one, on).eq(0).all()


def test_what_is_parallel_is_kept_by_its_share():
    one, on = torch.ones(1, 1, 1), torch.ones(1, 1, 1, dtype=torch.bool)
    for eta in (0.0, 0.25, 1.0):
        made = guidance.apg(X[:1], 0.01 * X[:1], 3 * one, eta * one, 100 * one, on)
        torch.testing.assert_close(made, X[:1] * (1 + 2 * 0.01 * eta))


def test_a_quiet_velocity_has_a_direction_too():
    """Norms are kept from 0, not at most that small."""
    quiet, one, on = torch.full((1, T, C), 1e-3), torch.ones(1, 1, 1), torch.ones(1, 1, 1, dtype=torch.bool)
    torch.testing.assert_close(guidance.rescaled(2 * quiet, quiet, one, on), quiet)
    torch.testing.assert_close(guidance.apg(quiet, 3 * quiet, 2 * one, 0 * one, 9 * one, on), quiet)


def test_where_a_request_starts():
    noise, source = X[0], OTHER[0]
    assert steps.start(noise, None, 0.5, 0.5) is noise and steps.start(noise, source, 1.0) is noise
    torch.testing.assert_close(steps.start(noise, source, 0.5), 0.5 * noise + 0.5 * source)
    for share in (0.25, SHARE[0]):  # it counts, whatever the first sigma is
        torch.testing.assert_close(steps.start(noise, source, 1.0, share), share * noise + (1 - share) * source)
