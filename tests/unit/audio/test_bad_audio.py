"""Audio from outside: what is refused, and that what is accepted is brought to 48 kHz stereo unharmed."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from ostinato.engine_runtime.audio.encode import encode_audio, encode_timbre, prepare_audio
from ostinato.engine_runtime.config import Sampling
from ostinato.engine_runtime.errors import AudioError
from ostinato.engine_runtime.models.engines import eager_engine
from ostinato.engine_runtime.takes.render import render, take_batch

from ..refusal import refused, with_one

HOP = 1920  # samples a frame

ONES = torch.ones(2, 48_000)
BAD = {
    "silent": (torch.zeros(2, 48_000), 48_000, "silent"),
    "empty": (torch.zeros(2, 0), 48_000, "0 s"),
    "NaN": (with_one(ONES), 48_000, "NaN"),
    "infinite": (with_one(ONES[:1], math.inf), 44_100, "infinity"),
    "600.5 s": (torch.ones(1, 600_500), 1_000, "600.5 s"),
    "7 channels": (torch.ones(7, 48_000), 48_000, "[7, 48000]"),
    "a batch": (torch.ones(2, 2, 48_000), 48_000, "[2, 2, 48000]"),
    "no channel axis": (ONES[0], 48_000, "[48000]"),
    "no rate": (ONES, 0, "0 Hz"),
    "negative rate": (ONES, -48_000, "-48000 Hz"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("encode", [encode_audio, encode_timbre])
def test_audio_that_cannot_be_used(turbo, conditions, encode: Callable, name: str) -> None:
    waveform, rate, given = BAD[name]
    with refused(eager_engine(turbo), conditions(turbo, 10, 1)[0], AudioError, given):
        encode(turbo, waveform, rate)


def test_audio_shorter_than_a_frame(turbo, conditions) -> None:
    with refused(eager_engine(turbo), conditions(turbo, 10, 1)[0], AudioError, "1919 samples"):
        encode_audio(turbo, ONES[:1, :1_919], 48_000)
    assert encode_audio(turbo, ONES[:1, :1_920], 48_000).shape == (1, 64)


def tone(rate: int, seconds: float = 0.4) -> torch.Tensor:
    """440 Hz, mono, RMS 0.35."""
    return 0.5 * torch.sin(2 * torch.pi * 440 * torch.arange(round(rate * seconds)) / rate)[None]


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 44_099])
def test_a_tone_keeps_its_pitch_and_level(rate: int) -> None:
    audio = prepare_audio(tone(rate, 1.0), rate)
    assert audio.shape == (2, 48_000) and audio.dtype == torch.float32
    assert torch.equal(audio[0], audio[1])
    inside = audio[0, 4_000:-4_000]  # the filter rings at the ends
    spectrum = torch.fft.rfft(inside * torch.hann_window(inside.numel()), n=480_000).abs()
    assert float(spectrum.argmax()) / 10 == pytest.approx(440.0, abs=0.5)
    assert float(inside.square().mean().sqrt()) == pytest.approx(0.5 / math.sqrt(2), rel=0.01)


def test_mono_equals_the_stereo_of_the_same(turbo) -> None:
    mono = tone(48_000)
    stereo = mono.repeat(2, 1)
    assert torch.equal(encode_audio(turbo, mono, 48_000), encode_audio(turbo, stereo, 48_000))
    assert torch.equal(encode_audio(turbo, mono[None], 48_000), encode_audio(turbo, stereo, 48_000))


def test_a_timbre_repeats_with_its_seed(turbo, monkeypatch: pytest.MonkeyPatch) -> None:
    class Posterior:
        """The VAE's, without the 30 s of work."""

        def __init__(self, audio: torch.Tensor) -> None:
            self.mean = audio.unflatten(-1, (-1, HOP)).mean(-1).repeat(1, 32, 1)

        def sample(self, generator: torch.Generator) -> torch.Tensor:
            return self.mean + torch.randn(self.mean.shape, generator=generator)

    monkeypatch.setattr(turbo.pipe.vae, "encode", lambda audio: SimpleNamespace(latent_dist=Posterior(audio)))
    before = torch.random.get_rng_state()
    first, again, other = (encode_timbre(turbo, tone(16_000), 16_000, seed) for seed in (3, 3, 4))
    assert first.shape == (750, 64) and torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_sources_of_two_rates_play_together(turbo, conditions) -> None:
    rates = (48_000, 44_100, 8_000)
    sources = [encode_audio(turbo, tone(rate), rate) for rate in rates]
    assert [s.shape for s in sources] == [(10, 64)] * 3
    for other in sources[1:]:
        assert float((other - sources[0])[2:-2].norm() / sources[0][2:-2].norm()) < 0.1  # the encoder draws noise
    asked = take_batch(conditions(turbo, 10, 1)[0], Sampling(steps=2, denoise=0.5), 3, 0, None, sources)
    assert all(bool(x.isfinite().all()) for x in render("rates", eager_engine(turbo), asked, depth=2)[0])
