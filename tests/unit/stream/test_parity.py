"""The ring against `diffusers.AceStepPipeline`: same weights, same noise, same latent."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_oobleck import (
    AutoencoderOobleckOutput,
    OobleckDiagonalGaussianDistribution,
)
from ostinato.engine_runtime.audio.encode import encode_audio, encode_timbre
from ostinato.engine_runtime.config import NO_GUIDANCE, Guidance, Sampling
from ostinato.engine_runtime.engines.decoder import MaskedDecoder
from ostinato.engine_runtime.models.conditioning import encode_prompt
from ostinato.engine_runtime.models.engines import eager_engine
from ostinato.engine_runtime.models.loading import load
from ostinato.engine_runtime.models.prompt import Prompt
from ostinato.engine_runtime.stream.request import Request

from ...helpers import drawn, play

HOP, SAMPLE_RATE = 1920, 48_000

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
# Guidance multiplies the velocities' rounding by its scale, so 1e-5 is then taken of the latent's peak. The pipeline's
# own float32 errs by up to 1.9e-5 (T 25 to 31) and 5.0e-5 (T 2) at scale 7, measured against it in float64.
RELATIVE = 1e-5
TAGS, LYRICS = "warm piano", "[verse]\nla la"
NAMES = {"bpm": "bpm", "key": "keyscale", "time_signature": "timesignature", "language": "vocal_language"}


@pytest.fixture(autouse=True)
def _global_seed():
    """The pipeline draws from the global generator; other tests should not feel it."""
    with torch.random.fork_rng(devices=[]):
        yield


def music(frames, seed=0):
    """Stereo noise `[2, 1920 * frames]` that breathes."""
    samples = frames * HOP
    swell = torch.linspace(0, 9, samples).sin()
    return 0.1 * drawn(seed, 2, samples) * swell


def cheap_encode(audio, return_dict=True):
    """Audio averaged over each frame in place of the VAE's encoder, which takes 40 s for a reference's 30 s, and is the
    same code for both.
    """
    level = torch.nn.functional.avg_pool1d(audio.abs(), HOP)  # [B, 2, T]
    mean = 20 * level.repeat(1, 32, 1) * torch.linspace(-1, 1, 64)[:, None]
    return AutoencoderOobleckOutput(OobleckDiagonalGaussianDistribution(torch.cat([mean, mean - 1], dim=1)))


def by_pipeline(model, prompt, sampling, guidance, noise, seed=0, **audio):
    """The pipeline's latent `[T, 64]`; `seed` is its posterior's when it encodes audio."""
    fields = {theirs: prompt.said(ours) or None for ours, theirs in NAMES.items()}
    if prompt.task == "repaint":
        fields.update(repainting_start=prompt.repaint_start, repainting_end=prompt.repaint_end)
    torch.manual_seed(seed)
    return model.pipe(
        prompt.tags,
        lyrics=prompt.lyrics,
        audio_duration=noise.shape[0] / 25,
        num_inference_steps=sampling.steps,
        shift=sampling.shift,
        guidance_scale=guidance.scale,
        cfg_interval_start=guidance.start,
        cfg_interval_end=guidance.end,
        latents=noise[None],
        output_type="latent",
        task_type=prompt.task,
        **fields,
        **audio,
    ).audios[0]


def close(guidance, want):
    return {"atol": RELATIVE * want.abs().max().item(), "rtol": 0.0} if guidance.active else CLOSE


def by_ring(model, condition, sampling, guidance, noise, **config):
    request = Request(condition, sampling, guidance, noise=noise)
    ring = "full" if guidance.active else "off"
    return play(eager_engine(model), [request], **{"depth": 1, "guidance": ring, **config})[0]


@pytest.mark.parametrize("frames", [30, 31], ids=["even", "odd"])
@pytest.mark.parametrize("scale", [None, 1.0, 7.0], ids=["turbo", "base", "base-guided"])
@pytest.mark.parametrize("task", ["text2music", "cover", "repaint"])
def test_tasks(turbo, base, monkeypatch, task, scale, frames):
    """Several step counts and shifts within each, since the conditions are what costs."""
    model = turbo if scale is None else base
    monkeypatch.setattr(model.pipe.vae, "encode", cheap_encode)
    agree(model, task, NO_GUIDANCE if scale is None else Guidance(scale), frames, [(1, 3.0), (2, 1.0), (8, 3.0)])


def test_a_source_through_the_vae(turbo):
    agree(turbo, "cover", NO_GUIDANCE, 7, [(2, 3.0)])


def agree(model, task, guidance, frames, walks):
    """The ring and the pipeline make the same of a task, at each of these step counts and shifts."""
    prompt = Prompt(TAGS, LYRICS, seconds=frames / 25, task=task, repaint_start=0.3, repaint_end=0.8)
    source, audio = None, {}
    if task != "text2music":
        audio = {"src_audio": music(frames)}
        source = encode_audio(model, audio["src_audio"], SAMPLE_RATE, seed=11)
    condition = encode_prompt(model, prompt, source)
    assert condition.frames == frames
    for i, walk in enumerate(walks):
        sampling, noise = Sampling(*walk), drawn(i, frames, 64)
        want = by_pipeline(model, prompt, sampling, guidance, noise, 11, **audio)
        torch.testing.assert_close(by_ring(model, condition, sampling, guidance, noise), want, **close(guidance, want))


@pytest.mark.parametrize("frames", [1, 2, 125])
def test_lengths(turbo, base, frames):
    for model, guidance in ((turbo, NO_GUIDANCE), (base, Guidance(7.0))):
        prompt, noise = Prompt(TAGS, seconds=frames / 25), drawn(3, frames, 64)
        want = by_pipeline(model, prompt, Sampling(2), guidance, noise)
        got = by_ring(model, encode_prompt(model, prompt), Sampling(2), guidance, noise)
        torch.testing.assert_close(got, want, **close(guidance, want))


@pytest.mark.parametrize("frames", [25, 30])
def test_guided_rounding_is_no_worse_than_the_pipelines(base, frames):
    """What `RELATIVE` may hide: seen from float64, the ring errs no more than the pipeline does itself."""
    exact = load("random-base", torch.device("cpu"), torch.float64)
    prompt, guidance = Prompt(TAGS, LYRICS, seconds=frames / 25), Guidance(7.0)
    condition = encode_prompt(base, prompt)
    for i, (steps, shift) in enumerate([(1, 1.0), (2, 3.0), (8, 3.0)]):
        sampling, noise = Sampling(steps, shift), drawn(i, frames, 64)
        truth = by_pipeline(exact, prompt, sampling, guidance, noise.double())
        theirs = (by_pipeline(base, prompt, sampling, guidance, noise) - truth).abs().max()
        ours = (by_ring(base, condition, sampling, guidance, noise) - truth).abs().max()
        assert truth.dtype == torch.float64 and ours < 2 * theirs


@pytest.mark.parametrize(
    "words",
    [
        {"bpm": 128},
        {"key": "C major"},
        {"time_signature": "3"},
        {"language": "ja", "lyrics": "あいうえお"},
        {"lyrics": ""},
        {"lyrics": "[instrumental]"},
        {"tags": "夜 ambient, émotion — 120%", "lyrics": "[chorus]\nlove\n\n[outro]\n", "bpm": 60, "key": "A minor"},
    ],
    ids=lambda words: "-".join(words),
)
def test_words(turbo, words):
    plain = {"tags": TAGS, "lyrics": LYRICS, "seconds": 1.0}
    prompt, noise = Prompt(**{**plain, **words}), drawn(5, 25, 64)
    got = by_ring(turbo, encode_prompt(turbo, prompt), Sampling(2), NO_GUIDANCE, noise)
    torch.testing.assert_close(got, by_pipeline(turbo, prompt, Sampling(2), NO_GUIDANCE, noise), **CLOSE)
    other = by_ring(turbo, encode_prompt(turbo, Prompt(**plain)), Sampling(2), NO_GUIDANCE, noise)
    assert (got - other).abs().max() > 1e-3, "the words change nothing, so the comparison proves nothing"


def test_timbre_reference(turbo, monkeypatch):
    monkeypatch.setattr(turbo.pipe.vae, "encode", cheap_encode)
    prompt, noise, reference = Prompt(TAGS, seconds=1.0), drawn(5, 25, 64), music(40, seed=2)
    timbre = encode_timbre(turbo, reference, SAMPLE_RATE, seed=4)
    got = by_ring(turbo, encode_prompt(turbo, prompt, timbre=timbre), Sampling(2), NO_GUIDANCE, noise)
    want = by_pipeline(turbo, prompt, Sampling(2), NO_GUIDANCE, noise, 4, reference_audio=reference)
    torch.testing.assert_close(got, want, **CLOSE)
    without = by_ring(turbo, encode_prompt(turbo, prompt), Sampling(2), NO_GUIDANCE, noise)
    assert (got - without).abs().max() > 1e-3


@pytest.mark.parametrize(("start", "end"), [(0.1, 1.0), (0.0, 0.3), (0.2, 0.7), (0.35, 0.65), (0.5, 0.5)])
def test_guidance_interval(base, start, end):
    """Ten even steps, so that round numbers fall on a step: the interval includes both of its ends."""
    prompt, noise, guidance = Prompt(TAGS, seconds=0.32), drawn(6, 8, 64), Guidance(7.0, start, end)
    want = by_pipeline(base, prompt, Sampling(10, 1.0), guidance, noise)
    got = by_ring(base, encode_prompt(base, prompt), Sampling(10, 1.0), guidance, noise)
    torch.testing.assert_close(got, want, **close(guidance, want))


@pytest.fixture(scope="module")
def alone(base):
    """Prompts of different token counts with what the pipeline makes of each by itself."""
    made = []
    for i, (tags, lyrics) in enumerate([("pad", ""), (TAGS, LYRICS), ("epic choir " * 12, "love and light " * 20)]):
        prompt, noise = Prompt(tags, lyrics, seconds=1.0), drawn(i, 25, 64)
        for guidance in (NO_GUIDANCE, Guidance(7.0)):
            want = by_pipeline(base, prompt, Sampling(2), guidance, noise)
            made.append((Request(encode_prompt(base, prompt), Sampling(2), guidance, noise=noise), want))
    return made


@pytest.mark.parametrize("tokens", [0, 128, 320, 1024])
def test_token_counts_side_by_side(base, alone, tokens):
    """The buffer is as long as its longest condition, or longer; no row feels it."""
    counts = {r.condition.tokens.shape[0] for r, _ in alone}
    assert len(counts) == 3
    for order in (alone, alone[::-1]):
        got = play(eager_engine(base), [r for r, _ in order], depth=6, guidance="full", tokens=tokens, spread=False)
        for latent, (request, want) in zip(got, order, strict=True):
            torch.testing.assert_close(latent, want, **close(request.guidance, want))


@pytest.mark.parametrize("frames", [2, 24, 62])
def test_decoder_is_the_transformer_when_nothing_is_masked(turbo, base, frames):
    for model, kept in ((turbo, slice(None)), (base, slice(0, 1))):
        transformer = model.pipe.transformer
        x, t, context = drawn(0, 3, frames, 64), torch.tensor([1.0, 0.43, 0.07]), drawn(1, 3, frames, 128)
        tokens = drawn(2, 3, 9, transformer.condition_embedder.in_features)[:, kept]
        with torch.no_grad():
            want = transformer(x, t, t, tokens, context, return_dict=False)[0]
            got = MaskedDecoder(transformer)(x, t, tokens, torch.ones(tokens.shape[:2], dtype=torch.bool), context)
        assert torch.equal(got, want)
