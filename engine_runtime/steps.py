"""Solver steps as pure functions.

D slots, T frames, C = 64 channels; t falls from 1 (noise) to 0; per-slot scalars have shape `[D, 1, 1]`.
"""

from __future__ import annotations

import torch
from torch import Tensor

T_MIN = 1e-6  # below any step of a schedule; keeps a free slot's t = 0 out of the denominator


def start(noise: Tensor, source: Tensor | None, t0: float) -> Tensor:
    """`x = noise`, or with a source and `t0 < 1`: `x = t0 * noise + (1 - t0) * source` (rectified flow, 2209.03003).

    Args:
        noise: `[T, C]` float32.
        source: `[T, C]` or None.
        t0: the first sigma.
    """
    return noise if source is None or t0 >= 1.0 else t0 * noise + (1.0 - t0) * source


def euler(x: Tensor, velocity: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    """`x += (t' - t) * v`, in place (Euler's method on dx/dt = v). A slot with `t' == t` stays as it is."""
    return x.add_(velocity * (t_next - t))


def masked_input(x: Tensor, mask: Tensor, original: Tensor, noise: Tensor, t: Tensor, on: Tensor) -> Tensor:
    """`k * x + (1 - k) * (t * e + (1 - t) * o)`: what the decoder sees of an inpainting slot, else `x` bit for bit.

    Args:
        x: state, `[D, T, C]`.
        mask: `k`, 1 where music is made anew, `[D, T, C]`.
        original, noise: `o` and the fixed `e`, `[D, T, C]`.
        t: `[D, 1, 1]`.
        on: whether the slot has a mask, `[D, 1, 1]` bool.
    """
    kept = t * noise + (1.0 - t) * original
    return torch.where(on, mask * x + (1.0 - mask) * kept, x)


def masked_velocity(
    x: Tensor, seen: Tensor, velocity: Tensor, mask: Tensor, original: Tensor, t: Tensor, on: Tensor
) -> Tensor:
    """`(x - x0) / t` with `x0 = k * (seen - t * v) + (1 - k) * o`, else `v` bit for bit.

    `seen` is what the decoder was given, `x` the state that is stepped: where a mask is soft they differ, and the step
    is taken from the state, as ComfyUI's inpainting samplers do.
    """
    x0 = mask * (seen - t * velocity) + (1.0 - mask) * original
    return torch.where(on, (x - x0) / t.clamp_min(T_MIN), velocity)
