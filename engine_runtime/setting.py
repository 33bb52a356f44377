"""Knobs as they reach the ring: their curves on the device, so that turning one costs copies there and no more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .correction import filters, to_band
from .knobs import KNOBS, Knobs
from .lane import Lane
from .values import Value, is_curve

BANDS = {"dcw_low": "low", "dcw_high": "high"}


@dataclass(frozen=True, eq=False)
class Setting:
    """Knobs, and what the tick needs of them.

    Attributes:
        curves: of the knobs that are curves, `[T, 1]` (`channel_gain`: `[T or 1, 64]`), float32 on the device.
        bands: of the factors of DCW that are curves, `[W, 1]`: one number a wavelet coefficient.
        ready: behind the work that made them.
    """

    knobs: Knobs
    curves: Mapping[str, Tensor] = field(default_factory=dict)
    bands: Mapping[str, Tensor] = field(default_factory=dict)
    ready: torch.cuda.Event | None = None

    @classmethod
    def prepare(cls, knobs: Knobs, device: torch.device, lane: Lane, before: Setting | None = None) -> Setting:
        """Move the curves to the device on the caller's current stream; what `before` has of them is kept."""
        curves, bands = {}, {}
        _ = knobs.neutral  # asked now, so that the tick need not
        kept = before if before is not None and before.knobs.dcw_wavelet == knobs.dcw_wavelet else None
        for name in KNOBS:
            value = getattr(knobs, name)
            if not is_curve(value):
                continue
            if before is not None and value is getattr(before.knobs, name):
                curves[name] = before.curves[name]
            else:
                curves[name] = to_device(column(value, KNOBS[name].channels), device)
            if name in BANDS:
                same = kept is not None and value is getattr(kept.knobs, name)
                band = kept.bands[name] if same and kept else to_device(_band(value, knobs.dcw_wavelet), device)
                bands[name] = band
        return cls(knobs, curves, bands, lane.mark())

    def value(self, name: str) -> Value | None:
        """A number, or the curve on the device."""
        return self.curves.get(name, getattr(self.knobs, name))

    def tensors(self) -> list[Tensor]:
        return [*self.curves.values(), *self.bands.values()]


def column(value: Tensor, channels: int = 0) -> Tensor:
    """A curve as `[T, 1]`; where it may be per channel, `[channels]` as `[1, channels]`."""
    if value.ndim == 2:
        return value
    return value[None] if value.shape[0] == channels else value[:, None]


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A float32 copy on the device; from the CPU without waiting for the stream."""
    tensor = tensor.detach().to(dtype=torch.float32)
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.contiguous().pin_memory()  # a copy from pageable memory would wait for the stream
    return tensor.to(device, non_blocking=True)


def _band(value: Tensor, wavelet: str) -> Tensor:
    curve = np.asarray(value.detach().cpu(), dtype=np.float64)
    return torch.from_numpy(to_band(curve, filters(wavelet)))[:, None]


def as_knobs(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changes with their curves copied, so that the caller may reuse its buffers."""
    return {name: value.detach().clone() if is_curve(value) else value for name, value in changes.items()}
