"""Two models that are not ACE-Step, of one formula each: what the runtime needs of another backbone, and no more."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderOobleck
from ostinato.engine_runtime.config import Guidance, Sampling
from ostinato.engine_runtime.controls.knobs import Knobs
from ostinato.engine_runtime.engines.contract import Limits, Rows, limits_of
from ostinato.engine_runtime.spec import ModelSpec
from ostinato.engine_runtime.stream.request import Condition, Part, Request, Target
from torch import Tensor

from . import reference
from .helpers import drawn

HUM = ModelSpec("Hum", channels=8, context=0, frame_rate=50, hop=320, audio_channels=1, max_seconds=30, width=12)
CHOIR = ModelSpec("Choir", channels=6, context=4, frame_rate=10, hop=2400, patch=3, steps=5, shift=2.0)
SPECS = [HUM, CHOIR]
WIDTH = 12  # H of both


def formula(x, t, voice, beside, sin=np.sin, tanh=np.tanh):
    """Velocity of frames `x` `[..., C]`: every input matters, none of them linearly, and it is never near zero."""
    return tanh(0.7 * x + voice) + 0.5 * sin((1.0 + t) * voice + beside) + 2.0


@dataclass
class SecondEngine:
    """The formula behind the decoder contract, float32 on the CPU."""

    spec: ModelSpec
    limits: Limits | None = None
    width: int = WIDTH
    dtype: torch.dtype = torch.float32
    device: torch.device = torch.device("cpu")
    krons = False
    targets: None = None
    capturable: bool = False

    def __post_init__(self) -> None:
        self.limits = self.limits or limits_of(8, self.spec)
        self.identity = self.name = f"engine of {self.spec.name}"

    def ready(self) -> None:
        pass

    def rest(self) -> None:
        pass

    def rows(self, batch: int, frames: int, tokens: int) -> Rows:
        self.limits.check(min(batch, self.limits.batch), frames, tokens)
        return Rows.allocate(self.spec, batch, frames, tokens, self.width, self.dtype, self.device)

    def __call__(self, rows: Rows) -> Tensor:
        x, beside = rows.hidden_states, rows.context_latents
        assert x.shape[1] % self.spec.patch == 0 and x.shape[2] == self.spec.channels
        assert beside.shape[2] == self.spec.context
        own = rows.encoder_attention_mask[:, :, None]
        voice = (rows.encoder_hidden_states.tanh() * own).sum(1, keepdim=True) / own.sum(1, keepdim=True)
        beside = beside.sum(2, keepdim=True)
        t = rows.timestep[:, None, None]
        return formula(x, t, voice[..., : x.shape[2]], beside, torch.sin, torch.tanh)


def condition(spec: ModelSpec, seed: int, frames: int, tokens: int = 5) -> Condition:
    """A condition of random numbers, with a null condition."""
    context = drawn(seed + 1, frames, spec.context)
    return Condition(drawn(seed, tokens, WIDTH), context, drawn(seed + 2, 1, WIDTH), spec=spec)


def everything(spec: ModelSpec, seed: int, frames: int, mode: str = "full") -> Request:
    """A request with two conditions, guidance, a source, a mask and a target."""
    one, two = (condition(spec, seed + i, frames, 4 + i) for i in (0, 5))
    line = torch.linspace(0.2, 1.0, frames)
    kept = (drawn(seed + 7, frames, spec.channels) > 0).float()
    return Request(
        (Part(one, line), Part(two, 1.0, 0.0, 0.6)),
        Sampling(spec.steps, spec.shift, 0.8, seed, ("ode", "sde")[seed % 2]),
        Guidance(3.0, mode=mode, rescale=0.3),
        source=drawn(seed + 8, frames, spec.channels),
        mask=kept,
        mask_strength=(1.0, 0.5),
        target=Target(drawn(seed + 9, frames, spec.channels)),
    )


def knobs(spec: ModelSpec, frames: int) -> Knobs:
    """Every kind of knob away from neutral: a number, a curve, one for each channel, a band."""
    gain = 0.8 + 0.4 * torch.rand(frames, spec.channels, generator=torch.Generator().manual_seed(1))
    line = torch.linspace(0.1, 0.3, frames)
    return Knobs(
        velocity_scale=0.9, ode_noise=line, sde=1.0 - line, target_strength=line, channel_gain=gain, blend=0.4, dcw=True
    )


def expected(request: Request, knobs_at: Callable[[int], Knobs]) -> np.ndarray:
    """The latent of a request by the reference, float64."""
    conditions = [part.condition for part in request.parts]

    def velocity(x, t, which):
        c = conditions[0] if which == "negative" else conditions[which]
        tokens = reference.array(c.null_tokens if which == "negative" else c.tokens)
        voice = np.tanh(tokens).mean(axis=0)[: x.shape[1]]
        return formula(x, t, voice, reference.array(c.context).sum(axis=1, keepdims=True))

    return reference.generate(velocity, request, knobs_at)


def vae_of(spec: ModelSpec, strides: tuple[int, ...]) -> AutoencoderOobleck:
    """A narrow autoencoder of these sizes, with random weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates the weight norm that this class uses
        vae = AutoencoderOobleck(
            encoder_hidden_size=2 * spec.channels,
            downsampling_ratios=list(strides),
            channel_multiples=[1] * len(strides),
            decoder_channels=4,
            decoder_input_channels=spec.channels,
            audio_channels=spec.audio_channels,
            sampling_rate=spec.sample_rate,
        )
    return vae.eval().requires_grad_(False)
