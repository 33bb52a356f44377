"""The formulas of the design page, section 4, once more: float64 NumPy, one request and one step at a time.

Written from the page alone and sharing nothing with the runtime, so that one mistake has to be made twice to pass.
Latents are `[T, 64]`; norms and projections run over time, the first axis.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
Velocity = Callable[[Array, float, bool], Array]  # x, t, whether of the negative condition


def schedule(steps: int, shift: float = 1.0, denoise: float = 1.0) -> list[float]:
    """`linspace(t_0, 0, n + 1)`, each `s * t / (1 + (s - 1) * t)`; `t_0` is 1 or `n / int(n / d)`."""
    t0 = 1.0 if denoise >= 1.0 else steps / int(steps / denoise)
    return [shift * t / (1.0 + (shift - 1.0) * t) for t in np.linspace(t0, 0.0, steps + 1)]


def comfyui_tail(steps: int, shift: float, denoise: float) -> list[float]:
    """What ComfyUI's KSampler does: a full schedule of `int(n / d)` steps, of which the last `n` are walked."""
    return schedule(int(steps / denoise), shift)[-(steps + 1) :]


def begin(noise: Array, source: Array | None, t0: float) -> Array:
    """`t_0 * noise + (1 - t_0) * source`; without a source, or at `t_0 = 1`, the noise."""
    if source is None or t0 >= 1.0:
        return noise.copy()
    return t0 * noise + (1.0 - t0) * source


def length(v: Array) -> Array:
    """Norm over time: `[C]`."""
    return np.sqrt((v * v).sum(axis=0))


def guided(positive: Array, m: Array, w: float, eta: float, limit: float) -> Array:
    """`v+ + (w - 1) * m_perp`, `m` cut to a norm of `limit` per channel, its part along `v+` kept `eta` times."""
    out = np.empty_like(positive)
    for c in range(positive.shape[1]):
        p, u = positive[:, c], m[:, c]
        size = float(np.sqrt(u @ u))
        if size > limit:
            u = u * (limit / size)
        along = p * ((u @ p) / (p @ p))
        out[:, c] = p + (w - 1.0) * ((u - along) + eta * along)
    return out


@dataclass(frozen=True)
class Apg:
    """Guidance scale `w` and its interval, as `1 - t`; momentum `beta`."""

    w: float = 1.0
    start: float = 0.0
    end: float = 1.0
    beta: float = -0.75
    eta: float = 0.0
    limit: float = 2.5


def generate(
    velocity: Velocity, ts: list[float], noise: Array, source: Array | None = None, apg: Apg | None = None
) -> Array:
    """One request from noise to latent by Euler's method, `x += (t' - t) * v`."""
    apg = apg or Apg()
    x = begin(noise.astype(np.float64), None if source is None else source.astype(np.float64), ts[0])
    m = np.zeros_like(x)
    for t, t_next in zip(ts[:-1], ts[1:], strict=True):
        v = velocity(x, t, False)
        if apg.w != 1.0 and apg.start - 1e-12 <= 1.0 - t <= apg.end + 1e-12:
            m = (v - velocity(x, t, True)) + apg.beta * m
            v = guided(v, m, apg.w, apg.eta, apg.limit)
        x = x + (t_next - t) * v
    return x


def generate_all(jobs: list[tuple]) -> list[Array]:
    """Every job by itself: a slot does not know of the others."""
    return [generate(*job) for job in jobs]
