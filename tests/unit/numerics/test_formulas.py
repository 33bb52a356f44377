"""The runtime's formulas, and the whole ring over a stand-in engine, against an independent float64 version."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from ostinato.engine_runtime.config import NO_GUIDANCE, ROW_MODES, Guidance, Sampling
from ostinato.engine_runtime.controls.knobs import Knobs
from ostinato.engine_runtime.numerics.guidance import apg, momentum
from ostinato.engine_runtime.numerics.schedule import sigmas
from ostinato.engine_runtime.numerics.steps import euler, start
from ostinato.engine_runtime.stream.request import Request

from ... import reference
from ...helpers import StandIn, drawn, made_up, play
from ...live import expected

TOLERANCE = {"atol": 3e-4, "rtol": 1e-4}  # float32 against float64 over 12 guided steps; latents reach 10

FRAMES = st.sampled_from([1, 2, 3, 7, 8, 25, 50])
SAMPLINGS = st.builds(
    Sampling,
    steps=st.integers(1, 12),
    shift=st.sampled_from([1.0, 2.0, 3.0]) | st.floats(0.2, 8.0),
    denoise=st.just(1.0) | st.floats(0.01, 1.0),
    seed=st.integers(0, 2**64 - 1),
)


@st.composite
def guidances(draw):
    start_, end = sorted((draw(st.just(0.0) | st.floats(0, 1)), draw(st.just(1.0) | st.floats(0, 1))))
    return Guidance(
        scale=draw(st.floats(0.0, 12.0)),
        start=start_,
        end=end,
        momentum=draw(st.just(-0.75) | st.floats(-1, 1)),
        eta=draw(st.just(0.0) | st.floats(0, 1)),
        norm_limit=draw(st.just(2.5) | st.floats(0.01, 20.0)),
    )


def column(value: float) -> torch.Tensor:
    return torch.tensor(value).view(1, 1, 1)


@given(SAMPLINGS)
def test_schedule(sampling):
    got = sigmas(sampling)
    want = reference.schedule(sampling.steps, sampling.shift, sampling.denoise)
    np.testing.assert_allclose(got, want, atol=1e-12)
    assert got[-1] == 0.0
    assert all(a > b for a, b in zip(got, got[1:], strict=False))


@given(st.integers(1, 12), st.floats(0.2, 8.0), st.floats(0.01, 0.9999))
def test_denoise_takes_the_tail_that_comfyui_takes(steps, shift, denoise):
    got = sigmas(Sampling(steps, shift, denoise))
    np.testing.assert_allclose(got, reference.comfyui_tail(steps, shift, denoise), atol=1e-12)
    unshifted = sigmas(Sampling(steps, 1.0, denoise))
    assert unshifted[0] == pytest.approx(steps / int(steps / denoise), abs=1e-12)


def test_schedule_by_hand():
    turbo = [1, 21 / 22, 9 / 10, 5 / 6, 3 / 4, 9 / 14, 1 / 2, 3 / 10, 0]  # 8 steps, shift 3: 3t / (1 + 2t)
    assert sigmas(Sampling(8, 3.0)) == pytest.approx(turbo)
    assert sigmas(Sampling(8, 1.0, 0.5)) == pytest.approx([0.5 - i / 16 for i in range(9)])
    assert sigmas(Sampling(1, 3.0)) == (1.0, 0.0)
    assert sigmas(Sampling(1, 1.0, 0.6)) == (1.0, 0.0)  # int(1 / 0.6) is 1
    assert sigmas(Sampling(4, 1.0, 0.0))[0] == pytest.approx(1e-4, rel=1e-3)


@given(FRAMES, st.floats(0.0, 1.0), st.booleans(), st.none() | st.floats(0.0, 1.0), st.integers(0, 99))
def test_start(frames, t0, with_source, share, seed):
    noise, source = drawn(seed, frames, 64), drawn(seed + 1, frames, 64) if with_source else None
    want = reference.begin(noise.double().numpy(), source.double().numpy() if with_source else None, t0, share)
    np.testing.assert_allclose(start(noise, source, t0, share), want, atol=1e-6)


@given(FRAMES, guidances(), st.integers(0, 99), st.floats(0.01, 10.0))
def test_apg_with_its_momentum(frames, g, seed, size):
    positive, negative, before = (drawn(seed + i, 1, frames, 64) * (size if i else 1) for i in range(3))
    positive = positive + 0.5 * positive.sign()  # a channel near zero has no direction to project on
    on = torch.ones(1, 1, 1, dtype=torch.bool)
    average = momentum(positive - negative, before, column(g.momentum), on)
    got = apg(positive, average, column(g.scale), column(g.eta), column(g.norm_limit), on)[0]
    p, n, b = (v[0].double().numpy() for v in (positive, negative, before))
    m = (p - n) + g.momentum * b
    np.testing.assert_allclose(average[0], m, atol=1e-4)
    np.testing.assert_allclose(got, reference.guided(p, m, g.scale, g.eta, g.norm_limit), **TOLERANCE)


def test_apg_norms_run_over_time_per_channel():
    """By hand: v+ along the first of two frames, so what guidance adds lies on the second, cut to the limit."""
    positive, average = torch.zeros(1, 2, 64), torch.zeros(1, 2, 64)
    positive[0, 0], average[0, 1, 0], average[0, 1, 1] = 1.0, 3.0, 50.0
    on = torch.ones(1, 1, 1, dtype=torch.bool)
    got = apg(positive, average, column(3.0), column(0.0), column(10.0), on)
    assert got[0, 0].eq(1.0).all()
    torch.testing.assert_close(got[0, 1, :3], torch.tensor([6.0, 20.0, 0.0]))


def test_a_slot_that_is_off_keeps_its_bits():
    positive, average = drawn(0, 2, 8, 64), drawn(1, 2, 8, 64)
    on = torch.tensor([True, False]).view(2, 1, 1)
    got = apg(positive, average, *(torch.full((2, 1, 1), v) for v in (7.0, 0.0, 2.5)), on)
    kept = momentum(drawn(2, 2, 8, 64), average, torch.full((2, 1, 1), -0.75), on)
    assert torch.equal(got[1], positive[1]) and torch.equal(kept[1], average[1])
    assert not torch.equal(got[0], positive[0]) and not torch.equal(kept[0], average[0])


def test_euler_is_in_place_and_leaves_a_slot_without_a_step():
    x, v = drawn(0, 2, 8, 64), drawn(1, 2, 8, 64)
    t, t_next = torch.tensor([0.9, 0.3]).view(2, 1, 1), torch.tensor([0.5, 0.3]).view(2, 1, 1)
    before = x.clone()
    assert euler(x, v, t, t_next) is x
    np.testing.assert_allclose(x[0], before[0].double() - 0.4 * v[0].double(), atol=1e-6)
    assert torch.equal(x[1], before[1])


@st.composite
def requests(draw, frames):
    seed = draw(st.integers(0, 1000))
    sampling, g = draw(SAMPLINGS), draw(st.just(NO_GUIDANCE) | guidances())
    ts = reference.schedule(sampling.steps, sampling.shift, sampling.denoise)
    # At a step on the very edge of the interval, rounding decides; the edges have a test of their own.
    assume(all(abs(1.0 - t - edge) > 1e-9 or edge in (0.0, 1.0) for t in ts[:-1] for edge in (g.start, g.end)))
    source = drawn(seed + 3, frames, 64) if ts[0] < 1.0 or draw(st.booleans()) else None
    noise = drawn(seed + 4, frames, 64)
    return Request(made_up(seed, frames, draw(st.integers(1, 9))), sampling, g, source, noise)


def by_reference(request: Request) -> np.ndarray:
    return expected(request, lambda _: Knobs())


@pytest.mark.parametrize("shift", [0.2, 0.7, 1.0, 3.0, 7.3])
def test_a_schedule_starts_at_one(shift):
    """A rounding above 1 would leave the first step outside a guidance interval that begins at 0."""
    assert sigmas(Sampling(5, shift))[0] == 1.0


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_ring(data):
    frames = data.draw(FRAMES)
    batch = data.draw(st.lists(requests(frames), min_size=1, max_size=6))
    depth, spread = data.draw(st.integers(1, 8)), data.draw(st.booleans())
    engine = StandIn(reuse=data.draw(st.booleans()))
    got = play(engine, batch, depth=depth, spread=spread, guidance=data.draw(st.sampled_from(ROW_MODES)), tokens=9)
    for request, latent in zip(batch, got, strict=True):
        assert latent.dtype == torch.float32 and latent.shape == (frames, 64)
        np.testing.assert_allclose(latent, by_reference(request), **TOLERANCE)


def test_the_ring_on_a_schedule_by_hand():
    request = Request(made_up(1, 7), schedule=(0.8, 0.31, 0.3, 0.0), source=drawn(2, 7, 64), noise=drawn(3, 7, 64))
    np.testing.assert_allclose(play(StandIn(), [request])[0], by_reference(request), **TOLERANCE)


@pytest.mark.parametrize(
    ("start_", "end", "on"), [(0.5, 1.0, "..##"), (0.0, 0.5, "###."), (0.25, 0.5, ".##."), (1.0, 1.0, "....")]
)
def test_the_interval_includes_its_edges(start_, end, on):
    ts = sigmas(Sampling(4, 1.0))  # 1 - t is 0, 1/4, 1/2, 3/4: exact in binary
    g = Guidance(7.0, start_, end)
    assert "".join("#" if g.acts_at(t) else "." for t in ts[:-1]) == on
    assert not any(NO_GUIDANCE.acts_at(t) for t in ts)


def test_noise_is_drawn_in_comfyuis_layout():
    """`[1, 64, T]` float32 on the CPU from the seed, transposed, whatever the default generator holds."""
    torch.manual_seed(1)
    c = made_up(1, 9)
    given_ = Request(c, Sampling(3, seed=5), noise=torch.randn(1, 64, 9, generator=torch.manual_seed(5))[0].T)
    torch.manual_seed(2)
    a, b = play(StandIn(), [Request(c, Sampling(3, seed=5)), given_])
    assert torch.equal(a, b)
