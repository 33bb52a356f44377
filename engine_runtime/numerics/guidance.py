"""Guidance as pure functions, without state or host sync.

D slots, T frames, C = 64 channels; per-slot scalars have shape `[D, 1, 1]`, per-slot curves `[D, T, 1]`.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-12  # as torch.nn.functional.normalize


def momentum(diff: Tensor, average: Tensor, beta: Tensor, on: Tensor) -> Tensor:
    """Compute `m = d + beta * m` where a slot is guided, else keep `m` (APG, arXiv 2410.02416, section 4).

    Args:
        diff: `d`, positive minus negative velocity, `[D, T, C]`.
        average: `m`, the running average, `[D, T, C]`.
        beta: momentum, `[D, T, 1]`.
        on: true where the slot is guided at this step, `[D, 1, 1]` bool.
    """
    return torch.where(on, diff + beta * average, average)


def apg(positive: Tensor, average: Tensor, scale: Tensor, eta: Tensor, limit: Tensor, on: Tensor) -> Tensor:
    """Compute `v = v+ + (w - 1) * (m_perp + eta * m_par)`, with `m` first scaled to a norm of at most `limit`.

    Adaptive projected guidance (APG, arXiv 2410.02416). Norms and the projection on `v+` run over time, per channel, as
    in the ACE-Step 1.5 base model. Where `on` is false the result is `v+`, bit for bit.

    Args:
        positive: `v+`, velocity of the positive rows, `[D, T, C]` float32.
        average: `m`, from `momentum`, `[D, T, C]` float32.
        scale: `w`, `[D, T, 1]`.
        eta, limit: per slot, `[D, 1, 1]`.
        on: true where the slot is guided at this step, `[D, 1, 1]` bool.
    """
    norm = average.norm(dim=1, keepdim=True)  # [D, 1, C]
    update = average * (limit / norm.clamp_min(EPS)).clamp_max(1.0)
    unit = positive / positive.norm(dim=1, keepdim=True).clamp_min(EPS)
    parallel = (update * unit).sum(dim=1, keepdim=True) * unit
    guided = positive + (scale - 1.0) * (update - parallel + eta * parallel)
    return torch.where(on, guided, positive)


def rescaled(guided: Tensor, positive: Tensor, share: Tensor, on: Tensor) -> Tensor:
    """Compute `phi * v * |v+| / |v| + (1 - phi) * v` where `on`; norms run over time, per channel.

    Source: arXiv 2305.08891, section 3.4.

    Args:
        guided, positive: velocity with and without guidance, `[D, T, C]` float32.
        share: `phi`, `[D, T, 1]`.
        on: `[D, 1, 1]` bool; elsewhere `guided` keeps its bits.
    """
    ratio = positive.norm(dim=1, keepdim=True) / guided.norm(dim=1, keepdim=True).clamp_min(EPS)
    return torch.where(on, share * (guided * ratio) + (1.0 - share) * guided, guided)
