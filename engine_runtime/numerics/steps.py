"""Solver steps as pure functions.

D slots, T frames, C = 64 channels; t falls from 1 (noise) to 0; per-slot scalars have shape `[D, 1, 1]`, per-slot
curves `[D, T, 1]`. Where a function takes `on` (`[D, 1, 1]` bool), a slot that is off keeps its bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

_TINY = torch.finfo(torch.float32).tiny  # keeps a t of 0, as a free slot has, out of the denominator


def start(noise: Tensor, source: Tensor | None, t0: float, share: Tensor | float | None = None) -> Tensor:
    """Return `noise`, or with a source and `t0 < 1`: `t0 * noise + (1 - t0) * source` (rectified flow, arXiv
    2209.03003).

    Args:
        noise: `[T, C]` float32.
        source: `[T, C]` or None.
        t0: the first sigma.
        share: share of noise, a number or `[T, 1]`; overrides `t0`.
    """
    if source is None or (share is None and t0 >= 1.0):
        return noise
    share = t0 if share is None else share
    return share * noise + (1.0 - share) * source


def clean(seen: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
    """Compute `x0 = x - t * v`, the predicted clean latent (rectified flow, arXiv 2209.03003).

    Args:
        seen: `x`, the state that the decoder's input was made of, `[D, T, C]`.
        velocity: `v`, `[D, T, C]`.
        t: sigma, `[D, 1, 1]`.
    """
    return seen - t * velocity


def toward(x0: Tensor, other: Tensor, share: Tensor, on: Tensor) -> Tensor:
    """Compute `(1 - a) * x0 + a * other` where `on`: for x0 targets, and for the source under the sde solver.

    Where both are the same, as in frames that a mask keeps, that is the value, bit for bit.
    """
    return torch.where(on & (x0 != other), (1.0 - share) * x0 + share * other, x0)


def euler(x: Tensor, velocity: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    """Compute `x += (t' - t) * v`, in place (Euler's method on dx/dt = v). A slot with `t' == t` keeps its bits."""
    return x.add_(velocity * (t_next - t))


def euler_to(x: Tensor, x0: Tensor, velocity: Tensor, t: Tensor, t_next: Tensor, on: Tensor) -> Tensor:
    """Compute `x0 + (t' / t) * (x - x0)` where `on`, Euler's step straight toward a prediction that was changed; else
    `euler`, out of place.

    The step to `t' = 0` gives the prediction bit for bit, whatever the sigma before it.
    """
    share = t_next / t.clamp_min(_TINY)
    return torch.where(on, x0 + share * (x - x0), x + velocity * (t_next - t))


def injected(x: Tensor, eps: Tensor, amount: Tensor, t_next: Tensor, on: Tensor) -> Tensor:
    """Compute `x + t' * c * eps` where `on`: fresh noise after an Euler step; none at the last, where `t'` is 0."""
    return torch.where(on, x + (t_next * amount) * eps, x)


def renoised(x: Tensor, x0: Tensor, eps: Tensor, t_next: Tensor, on: Tensor) -> Tensor:
    """Compute `t' * eps + (1 - t') * x0` where `on`: the sde step (ACE-Step 1.5's `infer_method` sde)."""
    return torch.where(on, t_next * eps + (1.0 - t_next) * x0, x)


def mask_at(mask: Tensor, strength: Tensor) -> Tensor:
    """Compute `k + (1 - s) * (1 - k)`, a mask at strength `s`: the mask itself, bit for bit, at 1; ones at 0."""
    return mask + (1.0 - strength) * (1.0 - mask)


def masked_input(x: Tensor, mask: Tensor, original: Tensor, noise: Tensor, t: Tensor, on: Tensor) -> Tensor:
    """Compute `k * x + (1 - k) * (t * e + (1 - t) * o)`, the decoder's input of an inpainting slot.

    Args:
        x: state, `[D, T, C]`.
        mask: `k`, 1 where music is made anew, `[D, T, C]`.
        original, noise: `o` and the fixed `e`, `[D, T, C]`.
        t: sigma, `[D, 1, 1]`.
        on: true where the slot has a mask, `[D, 1, 1]` bool.
    """
    kept = t * noise + (1.0 - t) * original
    return torch.where(on, mask * x + (1.0 - mask) * kept, x)


def masked_clean(x0: Tensor, mask: Tensor, original: Tensor, on: Tensor) -> Tensor:
    """Compute `k * x0 + (1 - k) * o` where `on`.

    The step is then taken from the state and not from the decoder's input, as ComfyUI's inpainting samplers do; the two
    differ where a mask is soft.
    """
    return torch.where(on, mask * x0 + (1.0 - mask) * original, x0)


def composed(velocities: Tensor, weights: Tensor) -> Tensor:
    """Compute `sum(v_i w_i) / sum(w_i)` per frame (composable diffusion, arXiv 2206.01714, with normalised weights).

    Where all weights are 0 the first condition counts alone.

    Args:
        velocities: `[K, D, T, C]`; where a weight is 0 it may hold anything.
        weights: `[K, D, T, 1]`, not negative.
    """
    first, *rest = weights.unbind(0)
    total = first
    for weight in rest:
        total = total + weight
    nothing = total <= 0
    mixed = velocities[0] * torch.where(nothing, 1.0, first)
    for velocity, weight in zip(velocities[1:], rest, strict=True):
        mixed = mixed + torch.where(weight > 0, velocity * weight, 0.0)
    return mixed / torch.where(nothing, 1.0, total)
