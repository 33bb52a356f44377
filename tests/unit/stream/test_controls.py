"""Every control against the independent reference: alone, combined, in company, over the stand-in engine."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ostinato.engine_runtime.config import ROW_MODES, Guidance, Sampling
from ostinato.engine_runtime.controls.knobs import Knobs
from ostinato.engine_runtime.engines.contract import Limits
from ostinato.engine_runtime.stream.request import Part, Request, Target

from ... import reference
from ...helpers import StandIn, drawn, made_up, play
from ...live import CLOSE, FEATURES, draft, expected, rows

FRAMES = [1, 2, 7, 8, 25]
RANDOM = st.randoms(use_true_random=False)


def agree(requests: list[Request], knobs: Knobs, engine: StandIn, **config) -> None:
    for latent, request in zip(play(engine, requests, knobs, **config), requests, strict=True):
        assert latent.dtype == torch.float32 and latent.shape == (request.frames, 64)
        np.testing.assert_allclose(latent, expected(request, lambda _: knobs), **CLOSE)


@pytest.mark.parametrize("steps", [1, 2, 8])
@pytest.mark.parametrize("form", ["scalar", "curve"])
@pytest.mark.parametrize("name", FEATURES)
def test_alone(name, form, steps):
    """It does what the reference says, and over eight steps it does something."""
    difference = 0.0
    for seed, frames in enumerate([1, 7, 8]):
        made, without = (draft(Random(seed), frames, names, form, steps=steps) for names in ([name], []))
        request, knobs = made.made(), Knobs(**made.knobs)
        agree([request], knobs, StandIn(), depth=1, **rows([request]))
        without.request["condition"] = request.first
        plain = expected(without.made(), lambda _: Knobs())
        difference = max(difference, np.abs(expected(request, lambda _, knobs=knobs: knobs) - plain).max())
    assert steps < 8 or difference > 0.01


@st.composite
def companies(draw, size):
    """A request with `size` features and others with other ones beside it, all under the knobs of the first."""
    random, frames = draw(RANDOM), draw(st.sampled_from(FRAMES))
    names = draw(st.lists(st.sampled_from(list(FEATURES)), min_size=size, max_size=size, unique=True))
    first = draft(random, frames, names)
    made = [first.made()]
    for _ in range(draw(st.integers(0, 3))):
        made.append(draft(random, frames, random.sample(list(FEATURES), random.randint(0, 2))).made())
    return made, Knobs(**first.knobs)


@pytest.mark.parametrize(("size", "examples"), [(2, 150), (3, 60)], ids=["pairs", "triples"])
def test_combined(size, examples):
    @settings(max_examples=examples)
    @given(companies(size), st.integers(1, 6), st.data())
    def run(company, depth, data):
        requests, knobs = company
        config = rows(requests)
        least = ROW_MODES.index(config["guidance"])
        config["guidance"] = data.draw(st.sampled_from(ROW_MODES[least:]))
        limits = Limits(data.draw(st.sampled_from([depth, 16, 64])), 4096, 1024)
        engine = StandIn(limits, reuse=data.draw(st.booleans()))
        agree(requests, knobs, engine, depth=depth, spread=data.draw(st.booleans()), **config)

    run()


def test_a_curve_of_64_is_of_channels():
    """Also where the music has 64 frames."""
    request, gain = Request(made_up(1, 64), Sampling(2)), torch.linspace(0.5, 1.5, 64)
    got, by_frame = (play(StandIn(), [request], Knobs(channel_gain=g))[0] for g in (gain, gain[:, None].expand(64, 64)))
    assert torch.equal(got, play(StandIn(), [request], Knobs(channel_gain=gain.expand(64, 64)))[0])
    assert not torch.allclose(got, by_frame, atol=1e-3)


def test_a_blend_of_a_single_condition_is_none():
    one = made_up(1, 7)
    plain, part = Request(one, Sampling(3)), Request((Part(one, 0.3),), Sampling(3))
    want = play(StandIn(), [plain])[0]
    for request in (plain, part):
        assert torch.equal(play(StandIn(), [request], Knobs(blend=2.0))[0], want)


@pytest.mark.parametrize("blend", [0.0, 1.0, 2.0])
def test_a_whole_blend_is_that_condition(blend):
    known = [made_up(i, 7, 1 + i, guided=False) for i in range(3)]
    request = Request(tuple(Part(c, 0.5 + i) for i, c in enumerate(known)), Sampling(4, seed=3))
    got = play(StandIn(), [request], Knobs(blend=blend), conditions=3)[0]
    alone = play(StandIn(), [Request(known[int(blend)], Sampling(4, seed=3))])[0]
    torch.testing.assert_close(got, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["low", "high", "double", "pix"])
def test_haar_bands_by_hand(mode):
    """Of two frames the low band is their mean and the high band what is left."""
    x, x0, t = np.full((2, 64), 5.0), np.full((2, 64), 1.0), 0.25
    x[1] = 3.0  # d is 4 and 2: mean 3, and 1 and -1 beside it
    low, high = 0.25 * 0.5 * 3.0, 0.75 * 0.2 * np.array([1.0, -1.0])
    want = {"low": low, "high": high, "double": low + high, "pix": 0.5 * np.array([4.0, 2.0])}[mode] * np.ones(2)
    got = reference.corrected(x, x0, t, Knobs(dcw=True, dcw_mode=mode, dcw_low=0.5, dcw_high=0.2))
    np.testing.assert_allclose(got - x, np.repeat(want[:, None], 64, 1), atol=1e-12)


ENDS = {
    "three steps": Sampling(3),
    "sde": Sampling(3, solver="sde"),
    **{
        f"200 steps, shift {shift:g}, denoise {d:g}": Sampling(200, shift, d)
        for shift in (0.01, 1.0)
        for d in (1.0, 1e-4)
    },
}
TINY = (1.0, 1e-5, 1e-7, 1e-12, 1e-30, 1e-39, 1e-44, 0.0)


@pytest.mark.parametrize("name", [*ENDS, "explicit"])
def test_a_target_at_full_strength_is_reached(name):
    """Bit for bit, and a mask that keeps all is its source, whatever is between and however small the last sigma."""
    target, source = drawn(1, 7, 64), drawn(2, 7, 64)
    sampling, schedule = ENDS.get(name, Sampling(len(TINY) - 1)), TINY if name == "explicit" else None
    common = {"sampling": sampling, "schedule": schedule, "source": source}
    aim = Request(made_up(1, 7), guidance=Guidance(3.0, mode="self"), target=Target(target), **common)
    keep = Request(made_up(1, 7), mask=torch.zeros(7, 64), **common)
    got = play(StandIn(), [aim, keep], Knobs(target_strength=1.0))
    assert torch.equal(got[0], target) and torch.equal(got[1], source)


KEEPS = {
    "plain": {},
    "DCW": {"dcw": True, "dcw_low": 0.4, "dcw_high": 0.3, "dcw_wavelet": "db4"},
    "DCW, pix": {"dcw": True, "dcw_mode": "pix", "dcw_low": 0.4},
    "velocity scale": {"velocity_scale": 0.7, "dcw": True},
    "noise": {"ode_noise": 0.5},
    "source under sde": {"sde": 0.3},
    "channel gain": {"channel_gain": torch.linspace(0.5, 1.5, 64)},
}


@pytest.mark.parametrize("solver", ["ode", "sde"])
@pytest.mark.parametrize("what", KEEPS)
def test_frames_that_a_mask_keeps_return_bit_for_bit(what, solver):
    source, mask = drawn(2, 20, 64), torch.ones(20, 64)
    mask[4:9], mask[9:12] = 0.0, 0.5
    request = Request(made_up(1, 20), Sampling(8, solver=solver, seed=4), source=source, mask=mask)
    beside = Request(made_up(2, 20), Sampling(8, seed=5))
    got = play(StandIn(), [request, beside], Knobs(**KEEPS[what]))[0]
    assert torch.equal(got[4:9], source[4:9])
    assert (got[:4] - source[:4]).abs().min(dim=1).values.max() > 0 and (got[9:12] - source[9:12]).abs().max() > 0.01


def test_dcw_pushes_away_from_what_the_network_said():
    """With velocity scale the step goes elsewhere than the network's own prediction; as in ACE-Step, this counts."""
    request = Request(made_up(1, 7), Sampling(1, seed=3))
    scaled = play(StandIn(), [request], Knobs(velocity_scale=0.5))[0]
    again = Request(made_up(1, 7), Sampling(1, seed=3))
    own = play(StandIn(), [again], Knobs())[0]  # one step from sigma 1 ends at the prediction
    last = Request(made_up(1, 7), Sampling(1, seed=3))
    got = play(StandIn(), [last], Knobs(velocity_scale=0.5, dcw=True, dcw_mode="pix", dcw_low=0.4))[0]
    torch.testing.assert_close(got, scaled + 0.4 * (scaled - own), atol=1e-5, rtol=1e-5)
    assert (scaled - own).abs().max() > 0.1


@pytest.mark.parametrize("ring", ["initialize", "full"])
def test_a_negative_is_decoded_before_guidance_begins(ring):
    """It is of the first step, also where guidance acts from a later one on."""
    request = Request(made_up(1, 7), Sampling(8), Guidance(3.0, start=0.3, mode="initialize"))
    agree([request], Knobs(), StandIn(reuse=True), depth=1, guidance=ring)


def test_guidance_of_a_blend():
    """Its negative lies behind the rows of all conditions."""
    parts = Part(made_up(1, 7)), Part(made_up(2, 7, 3), 0.4)
    requests = [Request(parts, Sampling(4), Guidance(3.0)), Request(parts, Sampling(4))]
    agree(requests, Knobs(), StandIn(reuse=True), depth=2, conditions=2, guidance="full", spread=False)


def test_a_blend_of_what_is_over_plays_the_first():
    """It stands in where all that holds weighs nothing, so it is decoded though it is over."""
    request = Request((Part(made_up(1, 7), 1.0, 0.0, 0.5), Part(made_up(2, 7), 1.0, 0.5, 1.0)), Sampling(4))
    agree([request], Knobs(blend=0.0), StandIn(reuse=True), depth=1, conditions=2)


def test_a_single_part_of_any_weight_is_that_condition_beside_a_blend():
    blend = Request((Part(made_up(5, 7)), Part(made_up(6, 7))), Sampling(3))
    plain, part = (Request(given, Sampling(3)) for given in (made_up(1, 7), (Part(made_up(1, 7), 0.3),)))
    got = [play(StandIn(), [one, blend], depth=2, conditions=2, spread=False)[0] for one in (plain, part)]
    assert torch.equal(*got)
