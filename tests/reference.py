"""The formulas of the design page, section 4, once more: float64 NumPy, one request and one step at a time.

Written from the page alone and sharing nothing with the runtime, so that one mistake has to be made twice to pass.
Requests and knobs are read as plain data. Latents are `[T, C]`; norms, projections and wavelets run over time, the
first axis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pywt
import torch

Array = np.ndarray
Velocity = Callable[[Array, float, Any], Array]  # x, t, the number of a part or "negative"


def schedule(steps: int, shift: float = 1.0, denoise: float = 1.0) -> list[float]:
    """`linspace(t_0, 0, n + 1)`, each `s * t / (1 + (s - 1) * t)`; `t_0` is 1 or `n / int(n / d)`."""
    t0 = 1.0 if denoise >= 1.0 else steps / int(steps / denoise)
    return [shift * t / (1.0 + (shift - 1.0) * t) for t in np.linspace(t0, 0.0, steps + 1)]


def comfyui_tail(steps: int, shift: float, denoise: float) -> list[float]:
    """What ComfyUI's KSampler does: a full schedule of `int(n / d)` steps, of which the last `n` are walked."""
    return schedule(int(steps / denoise), shift)[-(steps + 1) :]


def array(tensor: Any) -> Array:
    return np.asarray(tensor.double())


def per_frame(value: Any) -> Any:
    """A number as it is; a curve `[T]` as a column beside the channels."""
    return array(value)[:, None] if hasattr(value, "shape") else float(value)


def per_channel(value: Any, channels: int) -> Any:
    """Of C numbers each is a channel's; else as `per_frame`, or `[T, C]` as it is."""
    shape = tuple(getattr(value, "shape", ()))
    return array(value) if shape == (channels,) or len(shape) == 2 else per_frame(value)


def begin(noise: Array, source: Array | None, t0: float, share: Any = None) -> Array:
    """`t_0 * noise + (1 - t_0) * source`; without a source, or at `t_0 = 1`, the noise. A `share` of noise goes first.

    The share is a number or `[T, 1]`.
    """
    if source is None or (share is None and t0 >= 1.0):
        return noise.copy()
    c = t0 if share is None else share
    return c * noise + (1.0 - c) * source


def length(v: Array) -> Array:
    """Norm over time: `[C]`."""
    return np.sqrt((v * v).sum(axis=0))


def guided(positive: Array, m: Array, w: Any, eta: float, limit: float) -> Array:
    """`v+ + (w - 1) * m_perp`, `m` cut to a norm of `limit` per channel, its part along `v+` kept `eta` times.

    `w` is a number or `[T]`.
    """
    out = np.empty_like(positive)
    for c in range(positive.shape[1]):
        p, u = positive[:, c], m[:, c]
        size = float(np.sqrt(u @ u))
        if size > limit:
            u = u * (limit / size)
        along = p * ((u @ p) / (p @ p))
        out[:, c] = p + (w - 1.0) * ((u - along) + eta * along)
    return out


def rescaled(v: Array, before: Array, phi: Any) -> Array:
    """`phi * v * |before| / |v| + (1 - phi) * v`; `phi` is a number or `[T, 1]`."""
    return phi * v * (length(before) / length(v)) + (1.0 - phi) * v


def holds(start: float, end: float, i: int, n: int) -> bool:
    """`start * n <= i < end * n`, where 0.7 * 10 is 7; an end of 1 is the last step."""
    return round(start * n, 6) <= i and (end >= 1.0 or i < round(end * n, 6))


def at_coefficients(curve: Any, count: int, taps: int) -> Any:
    """A curve where the coefficients of a filter with `taps` taps lie: around frame `2k + 1 - (taps - 1) / 2`."""
    if not hasattr(curve, "shape"):
        return float(curve)
    places = [2 * k + 1 - (taps - 1) / 2 for k in range(count)]
    return np.interp(places, range(len(curve)), array(curve))[:, None]


def corrected(x: Array, x0: Array, t: float, knobs: Any) -> Array:
    """Each wavelet band of `d = x - x0`, times its factor, added to `x`: the low one by `t`, the high by `1 - t`."""
    d = x - x0
    if knobs.dcw_mode == "pix":
        return x + per_frame(knobs.dcw_low) * d
    wavelet = pywt.Wavelet(knobs.dcw_wavelet)
    low, high = pywt.dwt(d, wavelet, mode="zero", axis=0)
    low *= t * at_coefficients(knobs.dcw_low, len(low), wavelet.dec_len) * (knobs.dcw_mode != "high")
    high *= (1.0 - t) * at_coefficients(knobs.dcw_high, len(high), wavelet.dec_len) * (knobs.dcw_mode != "low")
    return x + pywt.idwt(low, high, wavelet, mode="zero", axis=0)[: len(d)]


def fresh(request: Any, i: int) -> Array:
    """The noise of step `i`, as the seed alone says."""
    g = torch.Generator().manual_seed((request.sampling.seed * 1_000_003 + i + 1) % 2**63)
    return array(torch.randn(request.frames, request.spec.channels, generator=g))


class Loop:
    """One request from noise to latent."""

    def __init__(self, velocity: Velocity, request: Any) -> None:
        s = request.sampling
        self.velocity, self.request = velocity, request
        self.ts = list(request.schedule or schedule(s.steps, s.shift, s.denoise))
        self.n = len(self.ts) - 1
        noise = request.noise
        if noise is None:
            g = torch.Generator().manual_seed(s.seed)
            noise = torch.randn(1, request.spec.channels, request.frames, generator=g)[0].T
        self.noise = array(noise)
        self.source = None if request.source is None else array(request.source)
        share = None if request.initial_noise is None else per_frame(request.initial_noise)
        self.x = begin(self.noise, self.source, self.ts[0], share)
        self.m = np.zeros_like(self.x)
        self.kept: Array | None = None  # the negative velocity of the first step
        self.guided_from = next((i for i, t in enumerate(self.ts) if self.in_interval(t)), self.n)

    def step(self, i: int, knobs: Any) -> None:
        t, t_next = self.ts[i], self.ts[i + 1]
        seen, k = self.x, self.mask(i)
        if k is not None:
            seen = k * self.x + (1.0 - k) * (t * self.noise + (1.0 - t) * self.source)
        fed = per_channel(knobs.channel_gain, self.x.shape[1]) * seen
        v = self.guide(self.combined(fed, t, i, knobs.blend), fed, t, i, knobs)
        own = seen - t * v
        x0 = seen - t * (v * per_frame(knobs.velocity_scale))
        x0 = x0 if k is None else k * x0 + (1.0 - k) * self.source
        x0 = self.pulled(x0, i, knobs.target_strength)
        self.x = self.moved(x0, t, t_next, i, knobs)
        if knobs.dcw:
            self.x = corrected(self.x, x0 if self.redirected(k, i, knobs) else own, t, knobs)

    def redirected(self, k: Array | None, i: int, knobs: Any) -> bool:
        """Whether a mask or a target acts at step `i`; at strength 0 none does."""
        masked = k is not None and self.strength(i) > 0
        target = self.request.target
        pulled = target is not None and holds(target.start, target.end, i, self.n)
        return bool(masked or (pulled and np.any(per_frame(knobs.target_strength) != 0)))

    def mask(self, i: int) -> Array | None:
        """`k + (1 - s) * (1 - k)`, the strength `s` a line through its numbers over the steps."""
        if self.request.mask is None:
            return None
        s, k = self.strength(i), array(self.request.mask)
        return k + (1.0 - s) * (1.0 - k)

    def strength(self, i: int) -> float:
        line = self.request.mask_strength
        return line[0] if self.n == 1 else np.interp(i / (self.n - 1), np.linspace(0.0, 1.0, len(line)), line)

    def combined(self, fed: Array, t: float, i: int, blend: Any) -> Array:
        """`sum(w_j * v_j) / sum(w_j)` over the parts that hold; a blend of `b` makes each `w_j` less by `|b - j|`,
        and beyond the last part it is the last.
        """
        if not isinstance(self.request.condition, tuple) or len(self.request.condition) == 1:
            return self.velocity(fed, t, 0)
        b = None if blend is None else np.minimum(per_frame(blend), len(self.request.condition) - 1)
        total, weights = np.zeros_like(fed), np.zeros((len(fed), 1))
        for j, part in enumerate(self.request.condition):
            if holds(part.start, part.end, i, self.n):
                near = 1.0 if b is None else np.maximum(0.0, 1.0 - np.abs(b - j))
                w = per_frame(part.weight) * near
                total, weights = total + w * self.velocity(fed, t, j), weights + w
        nobody = weights == 0.0
        return np.where(nobody, self.velocity(fed, t, 0), total / np.where(nobody, 1.0, weights))

    def guide(self, v: Array, fed: Array, t: float, i: int, knobs: Any) -> Array:
        g = self.request.guidance
        if g.mode == "initialize" and i == 0:
            self.kept = self.velocity(fed, t, "negative")
        w = g.scale if knobs.guidance_scale is None else knobs.guidance_scale
        beta = g.momentum if knobs.momentum is None else knobs.momentum
        phi = g.rescale if knobs.rescale is None else knobs.rescale
        w = array(w) if hasattr(w, "shape") else w
        if g.mode == "off" or np.all(w == 1.0) or not self.in_interval(t):
            return v
        if g.mode == "full" and (i - self.guided_from) % g.every:
            return rescaled(guided(v, self.m, w, g.eta, g.norm_limit), v, per_frame(phi))
        if g.mode == "full":
            negative = self.velocity(fed, t, "negative")
        else:
            negative = self.kept if g.mode == "initialize" else self.noise
        self.m = (v - negative) + per_frame(beta) * self.m
        return rescaled(guided(v, self.m, w, g.eta, g.norm_limit), v, per_frame(phi))

    def in_interval(self, t: float) -> bool:
        return self.request.guidance.start <= 1.0 - float(np.float32(t)) <= self.request.guidance.end

    def pulled(self, x0: Array, i: int, strength: Any) -> Array:
        target, a = self.request.target, per_frame(strength)
        if target is None or not holds(target.start, target.end, i, self.n):
            return x0
        return (1.0 - a) * x0 + a * array(target.latent)

    def moved(self, x0: Array, t: float, t_next: float, i: int, knobs: Any) -> Array:
        """One step from `x` at `t` to `t_next`, straight through `x0`, or by noise made anew."""
        if self.request.sampling.solver == "sde":
            k = per_frame(knobs.sde)
            y = x0 if self.source is None else k * x0 + (1.0 - k) * self.source
            return t_next * fresh(self.request, i) + (1.0 - t_next) * y
        v = (self.x - x0) / t
        return self.x + (t_next - t) * v + t_next * per_frame(knobs.ode_noise) * fresh(self.request, i)


def generate(velocity: Velocity, request: Any, knobs_at: Callable[[int], Any]) -> Array:
    """The latent of one request by itself, with the knobs as `knobs_at` says for each of its steps."""
    loop = Loop(velocity, request)
    for i in range(loop.n):
        loop.step(i, knobs_at(i))
    return loop.x
