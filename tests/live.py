"""Requests and knobs with any of the controls set, and what the reference makes of them on the stand-in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

import numpy as np
import torch
from ostinato.engine_runtime.config import MODES, ROW_MODES, Guidance, Sampling
from ostinato.engine_runtime.controls.knobs import DCW_MODES, WAVELETS, Knobs
from ostinato.engine_runtime.stream.request import Condition, Part, Request, Target
from ostinato.engine_runtime.stream.session import Session
from torch import Tensor

from . import reference
from .helpers import analytic, drawn, made_up

# Float32 rounds latents of about 5 by 3e-7; what 8 steps with a guidance of up to 5 make of it was at most 1.8e-5 in
# 111 000 requests drawn as here, and 4e-7 in half of them.
CLOSE = {"atol": 5e-5, "rtol": 1e-5}
SPANS = ((0.0, 1.0), (0.0, 0.5), (0.25, 1.0), (0.3, 0.7))


@dataclass
class Draft:
    """A request, and the knobs it is played with, in the making.

    Attributes:
        form: whether numbers are `scalar`, `curve`, or `either`.
    """

    random: Random
    frames: int
    form: str = "either"
    sampling: dict[str, Any] = field(default_factory=dict)
    request: dict[str, Any] = field(default_factory=dict)
    knobs: dict[str, Any] = field(default_factory=dict)

    @property
    def curved(self) -> bool:
        return self.form == "curve" or (self.form == "either" and self.random.random() < 0.5)

    def number(self, low: float, high: float) -> float | Tensor:
        return self.uniform(low, high, self.frames) if self.curved else self.random.uniform(low, high)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        g = torch.Generator().manual_seed(self.random.randrange(1000))
        return low + (high - low) * torch.rand(shape, generator=g)

    def latent(self) -> Tensor:
        return drawn(self.random.randrange(1000), self.frames, 64)

    def source(self) -> None:
        self.request.setdefault("source", self.latent())

    def condition(self) -> Condition:
        """With a context of its own for the negative row, or without."""
        made = made_up(self.random.randrange(1000), self.frames, self.random.randint(1, 9))
        context = drawn(self.random.randrange(1000), self.frames, 128) if self.random.random() < 0.5 else None
        return Condition(made.tokens, made.context, made.null_tokens, context)

    def made(self) -> Request:
        condition = self.request.pop("condition", None) or self.condition()
        return Request(condition, Sampling(**self.sampling), **self.request)


def velocity_scale(d: Draft) -> None:
    d.knobs["velocity_scale"] = d.number(0.5, 1.3)


def ode_noise(d: Draft) -> None:
    d.knobs["ode_noise"] = d.number(0.1, 0.8)


def sde(d: Draft) -> None:
    d.sampling["solver"] = "sde"


def sde_to_source(d: Draft) -> None:
    sde(d)
    d.source()
    d.knobs["sde"] = d.number(0.0, 1.0)


def guidance(d: Draft, mode: str) -> None:
    pick = d.random.choice
    d.request["guidance"] = Guidance(
        d.number(1.5, 5.0),
        start=pick((0.0, 0.0, 0.3)),
        end=pick((1.0, 1.0, 0.8)),
        momentum=d.number(-0.75, 0.5),
        eta=pick((0.0, 0.0, 0.4)),
        norm_limit=pick((2.5, 0.5, 10.0)),
        rescale=d.number(0.0, 1.0),
        mode=mode,
        every=pick((1, 1, 2, 3)),
    )


def hot_guidance(d: Draft) -> None:
    """Some or all of the three knobs that go before a request's own."""
    own = Guidance(d.random.choice((1.0, 3.0)), mode=d.random.choice(MODES[1:]))
    d.request.setdefault("guidance", own)
    made = {"guidance_scale": d.number(0.0, 5.0), "momentum": d.number(-0.9, 0.5), "rescale": d.number(0.0, 1.0)}
    kept = d.random.sample(sorted(made), d.random.randint(1, 3))
    d.knobs.update((name, made[name]) for name in kept)


def mask(d: Draft) -> None:
    """Frames that are kept, made anew and anything between; curves are over the steps."""
    d.source()
    d.request["mask"] = (2.0 * d.uniform(0.0, 1.0, d.frames, 64) - 0.5).clamp(0.0, 1.0)
    lines = ((1.0, 0.0), (0.2, 0.9, 0.4), (0.0, 1.0)) if d.curved else ((1.0,), (0.6,))
    d.request["mask_strength"] = d.random.choice(lines)


def target(d: Draft) -> None:
    d.request["target"] = Target(d.latent(), *d.random.choice(SPANS))
    d.knobs["target_strength"] = d.number(0.1, 0.9)


def initial_noise(d: Draft) -> None:
    d.source()
    d.request["initial_noise"] = d.number(0.0, 1.0)


def channel_gain(d: Draft) -> None:
    shape = d.random.choice(((d.frames,), (64,), (d.frames, 64)))
    d.knobs["channel_gain"] = d.uniform(0.5, 1.5, *shape) if d.curved else d.random.uniform(0.5, 1.5)


def parts(d: Draft) -> None:
    """The first condition to the end and others beside it, or one that hands over to the next."""
    if d.random.random() < 0.3:
        cut = d.random.choice((0.25, 0.5, 0.7))
        spans = [(0.0, cut), (cut, 1.0)]
    else:
        spans = [(0.0, 1.0), *(d.random.choice(SPANS) for _ in range(d.random.randint(1, 3)))]
    d.request["condition"] = tuple(Part(d.condition(), d.number(0.1, 2.0), *span) for span in spans)


def blend(d: Draft) -> None:
    """Up to 3, which is beyond the last of fewer conditions."""
    if "condition" not in d.request:
        parts(d)
    d.knobs["blend"] = d.number(0.0, d.random.choice((1.0, 3.0)))


def dcw(d: Draft, mode: str) -> None:
    low, high = d.number(-0.3, 0.5), d.number(-0.3, 0.5)
    d.knobs.update(dcw=True, dcw_mode=mode, dcw_low=low, dcw_high=high, dcw_wavelet=d.random.choice(WAVELETS))


FEATURES: dict[str, Callable[[Draft], None]] = {
    **{f.__name__: f for f in (velocity_scale, ode_noise, sde, sde_to_source, mask, target, initial_noise)},
    **{f.__name__: f for f in (channel_gain, parts, blend)},
    **{f"guidance_{mode}": partial(guidance, mode=mode) for mode in MODES[1:]},
    "hot_guidance": hot_guidance,  # behind those, whose mode it keeps
    **{f"dcw_{mode}": partial(dcw, mode=mode) for mode in DCW_MODES},
}


def draft(random: Random, frames: int, names: Any, form: str = "either", **sampling: Any) -> Draft:
    """With the named features, and whatever else a request may be."""
    seed = random.choice((0, 7, 2**64 - 1))
    shift = random.choice((1.0, 3.0))
    made = Draft(random, frames, form, {"steps": random.randint(1, 8), "shift": shift, "seed": seed})
    if random.random() < 0.3:
        made.source()
        made.sampling["denoise"] = random.choice((1.0, 0.6))
    made.sampling.update(sampling)
    for name in FEATURES:
        if name in names:
            FEATURES[name](made)
    return made


def everything(seed: int, frames: int, mode: str = "full", **sampling: Any) -> Request:
    """A request with all that it may have, none of it neutral at any step of five."""
    fade = torch.linspace(0.2, 1.0, frames)
    return Request(
        (Part(made_up(seed, frames), 0.7), Part(made_up(seed + 10, frames, 3), fade, 0.0, 0.9)),
        Sampling(seed=seed, **sampling),
        Guidance(3.0 + fade, eta=0.2, rescale=0.3 * fade, mode=mode),
        source=drawn(seed + 20, frames, 64),
        mask=drawn(seed + 21, frames, 64).sigmoid(),
        mask_strength=(1.0, 0.4),
        target=Target(drawn(seed + 22, frames, 64), 0.0, 0.9),
        initial_noise=0.8,
    )


def rows(requests: list[Request]) -> dict[str, Any]:
    """The least that a ring is built for, so that it takes all of them."""
    modes = [r.guidance.mode for r in requests if r.guidance.mode in ROW_MODES]
    return {
        "guidance": max(modes, key=ROW_MODES.index, default="off"),
        "conditions": max(len(r.parts) for r in requests),
        "tokens": max(r.tokens for r in requests),
    }


def perform(session: Session, requests: list[Request], moves: dict[int, dict[str, Any]]) -> Performance:
    """Play them all, setting the knobs, or the depth, in `moves` before the ticks of those numbers."""
    log, out = [], {}
    for one in requests:
        session.submit(one)
    while not session.idle:
        changes = dict(moves.get(len(log), {}))
        if "depth" in changes:
            session.configure(depth=changes.pop("depth"))
        session.set(**changes)
        log.append(session.knobs)
        for finished in session.step():
            out[id(finished.request)] = finished.take(), len(log) - finished.request.steps
    return Performance([out[id(one)][0] for one in requests], [out[id(one)][1] for one in requests], log)


@dataclass(frozen=True)
class Performance:
    """The latents, the tick at which each request began, and the knobs of every tick."""

    latents: list[Tensor]
    began: list[int]
    knobs: list[Knobs]

    def agrees(self, requests: list[Request]) -> None:
        for latent, request, tick in zip(self.latents, requests, self.began, strict=True):
            want = expected(request, lambda i, tick=tick: self.knobs[tick + i])
            np.testing.assert_allclose(latent, want, **CLOSE)


def expected(request: Request, knobs_at: Callable[[int], Knobs]) -> np.ndarray:
    """The latent of a request on the stand-in, by the reference."""
    conditions = [part.condition for part in request.parts]

    def velocity(x, t, which):
        c = conditions[0] if which == "negative" else conditions[which]
        tokens, context = c.tokens, c.context
        if which == "negative":
            tokens, context = c.null_tokens, c.context if c.null_context is None else c.null_context
        return analytic(x, t, reference.array(tokens), reference.array(context))

    return reference.generate(velocity, request, knobs_at)
