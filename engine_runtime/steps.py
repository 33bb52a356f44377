"""Solver steps as pure functions.

D slots, T frames, C = 64 channels; t falls from 1 (noise) to 0; per-slot scalars have shape `[D, 1, 1]`.
"""

from __future__ import annotations

from torch import Tensor


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
