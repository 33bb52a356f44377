"""A VAE's engine in the model's place, over the stand-in context: the same audio, whole and in windows; its check."""

from __future__ import annotations

import pytest
import torch
from ostinato.engine_runtime.audio.decode import decode, margin_frames
from ostinato.engine_runtime.engines.profiles import Profile, Span
from ostinato.engine_runtime.engines.prove import Proof, Refused
from ostinato.engine_runtime.errors import EngineError, EngineLimitError, InputError
from ostinato.engine_runtime.trt.files.sidecar import Expect
from ostinato.engine_runtime.trt.health.check import compare

from .... import trt_stand_in as stand_in
from ....helpers import drawn
from ....trt_plan import VaeHalf

HOP = 1920  # samples a frame

WIDE = Profile(Span(1, 2, 3), Span(1, 20, 60))
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def vae(turbo):
    return turbo.pipe.vae


def engine_of(vae, kind="vae_decoder", *profiles):
    return stand_in.load_vae(stand_in.make_vae(VaeHalf(vae, kind), *(profiles or (WIDE,))))


@pytest.mark.parametrize(("clips", "frames", "window"), [(1, 1, 0), (2, 30, 0), (1, 47, 9), (3, 40, 20)])
def test_it_decodes_as_the_model_does(vae, clips, frames, window):
    latents = drawn(1, clips, frames, 64)
    want = decode(vae, latents, window)
    torch.testing.assert_close(decode(engine_of(vae), latents, window), want, atol=1e-6, rtol=0)


@pytest.mark.parametrize("least", [50, 58])
def test_windows_that_are_too_short_for_the_engine_take_more_frames_around_them(vae, least):
    """Also where there is just one size: what lies beyond the reach changes nothing."""
    plan = stand_in.make_vae(VaeHalf(vae, "vae_decoder"), Profile(Span(1, 1, 1), Span(least, least, 58)))
    window = 58 - 2 * margin_frames(vae)
    latents = drawn(2, 1, 90, 64)
    torch.testing.assert_close(
        decode(stand_in.load_vae(plan), latents, window), decode(vae, latents), atol=1e-5, rtol=0
    )
    lengths = [execute["shapes"]["latents"][2] for execute in plan.executes]
    assert min(lengths) == least and max(lengths) <= 58 and len(lengths) > 2


def test_the_encoder_gives_the_mean(vae):
    audio = 0.1 * drawn(3, 2, 2, 12 * HOP)
    with torch.no_grad():
        want = vae.encode(audio).latent_dist.mean
    assert torch.equal(engine_of(vae, "vae_encoder")(audio), want)


def test_what_it_gives_is_not_overwritten(vae):
    engine = engine_of(vae)
    first = engine(drawn(4, 1, 64, 8))
    kept = first.clone()
    second = engine(drawn(5, 1, 64, 8))
    assert torch.equal(first, kept) and not torch.equal(first, second)


@pytest.mark.parametrize(
    ("kind", "shape", "named"),
    [
        ("vae_decoder", (4, 64, 10), "4 clips of 10 frames"),
        ("vae_decoder", (1, 64, 61), "1 clips of 61 frames"),
        ("vae_encoder", (1, 2, 61 * HOP), "1 clips of 61 frames"),
        ("vae_encoder", (1, 2, 10 * HOP + 1), "1 clips of 10 frames"),
    ],
)
def test_sizes_that_no_profile_takes_are_named(vae, kind, shape, named):
    plan = stand_in.make_vae(VaeHalf(vae, kind), WIDE)
    with pytest.raises(EngineLimitError, match=named) as error:
        stand_in.load_vae(plan)(torch.zeros(shape))
    assert "batch 1:2:3, frames 1:20:60" in error.value.allowed and not plan.executes


def test_a_clip_shorter_than_the_engine_takes_is_refused(vae):
    with pytest.raises(InputError, match="1 clips of 3 frames"):
        decode(engine_of(vae, "vae_decoder", Profile(Span(1, 1, 1), Span(4, 8, 8))), drawn(6, 1, 3, 64))


def test_the_engine_of_a_decoder_is_not_taken_for_a_vae(turbo):
    from ostinato.engine_runtime.engines.eager import EagerEngine

    plan = stand_in.make(EagerEngine(turbo.pipe.transformer, "test"))
    with pytest.raises(EngineError, match="not of a VAE"):
        stand_in.load_vae(plan)
    with pytest.raises(EngineError, match="not of a decoder"):
        stand_in.load(stand_in.make_vae(VaeHalf(turbo.pipe.vae, "vae_decoder"), WIDE))


def test_closed_it_refuses(vae):
    engine = engine_of(vae)
    engine.ready()
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine(drawn(7, 1, 64, 8))


# -- the check


PROVEN, FIXED = Profile(Span(1, 2, 2), Span(2, 5, 9)), Profile(Span(1, 1, 1), Span(3, 3, 3))
BAD = {"louder": lambda out: 1.01 * out, "not finite": lambda out: out / 0, "silent": torch.zeros_like}


def checked(plan):
    expects = []
    with stand_in.loaded(stand_in.library()):
        proof = compare(plan.sidecar, Expect(), CPU, lambda expect: expects.append(expect) or plan.data)
    assert len(expects[0].weights) == 64
    return proof


@pytest.mark.parametrize("kind", ["vae_decoder", "vae_encoder"])
def test_a_faithful_engine_passes_at_every_corner(vae, kind, monkeypatch):
    plan = stand_in.make_vae(VaeHalf(vae, kind), PROVEN, FIXED)
    proof = Proof.of(checked(plan))
    sizes = [(c.name, c.batch, c.frames) for c in proof.corners]
    assert sizes == [("minimum", 1, 2), ("optimum", 2, 5), ("maximum", 2, 9), ("minimum", 1, 3)]
    assert all(c.relative < 1e-5 and c.peak > 0.01 for c in proof.corners)
    assert str(proof.corners[0]).startswith("minimum (1 rows, 2 frames): relative")


@pytest.mark.parametrize(("kind", "bad"), [*(("vae_decoder", bad) for bad in BAD), ("vae_encoder", "louder")])
def test_an_engine_that_differs_is_refused_with_its_figures(vae, kind, bad, monkeypatch):
    plan = stand_in.make_vae(VaeHalf(vae, kind), PROVEN)
    plan.bend = BAD[bad]
    with pytest.raises(Refused, match=r"minimum \(1 rows, 2 frames\)") as error:
        checked(plan)
    assert not error.value.proof.passed
