"""Knobs as the ring uses them: their curves on the device, so that a change costs only copies there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..controls.knobs import KNOBS, Knobs
from ..controls.values import Value, is_curve
from ..device.lane import Lane
from ..numerics.correction import filters, to_band

BANDS = tuple(name for name, knob in KNOBS.items() if knob.buffer == "band")


@dataclass(frozen=True, eq=False)
class Change:
    """A change of knobs, checked and on the device: prepared by the thread that asks for it, outside the tick.

    Attributes:
        values: by name, as they were given.
        neutral: names of those without effect at their new value.
        curves: of the values that are curves, `[T, 1]` (`channel_gain`: `[T or 1, C]`), float32 on the device.
        hosts: of the factors of DCW that are curves, `[T]` float64 on the host.
        ready: event after the work that made them.
        channels: of the latents that it fits.
    """

    values: Mapping[str, Any]
    neutral: frozenset[str]
    curves: Mapping[str, Tensor]
    hosts: Mapping[str, np.ndarray]
    ready: torch.cuda.Event | None
    channels: int

    @classmethod
    def prepare(cls, changes: Mapping[str, Any], channels: int, device: torch.device, lane: Lane) -> Change:
        """Check values and copy them to the device, on the caller's current stream. The caller may reuse its tensors.

        Args:
            channels: of the model's latents.

        Raises:
            InputError: for an unknown knob or a value out of range.
        """
        neutral = Knobs.check(changes, channels)
        values = {name: value.detach().clone() if is_curve(value) else value for name, value in changes.items()}
        curved = {name: value for name, value in values.items() if is_curve(value)}
        return cls(
            values,
            neutral,
            {
                name: to_device(column(value, channels * KNOBS[name].per_channel), device)
                for name, value in curved.items()
            },
            {name: np.asarray(curved[name].cpu(), dtype=np.float64) for name in BANDS if name in curved},
            lane.mark() if curved else None,
            channels,
        )

    def check_frames(self, frames: int) -> None:
        """Raise `InputError` for a curve of another length."""
        for name in self.curves:
            KNOBS[name].check_frames(self.values[name], frames, self.channels)

    def fitting(self, frames: int) -> Change:
        """Return the change without its curves of another length."""
        fit = {name: value for name, value in self.values.items() if KNOBS[name].fits(value, frames, self.channels)}
        return self if len(fit) == len(self.values) else replace(self, values=fit)


@dataclass(frozen=True, eq=False)
class KnobState:
    """The state of all knobs, and their tensors for the tick.

    Attributes:
        curves: of the knobs that are curves, as in `Change`.
        hosts: as in `Change`.
        bands: of the factors of DCW that are curves, `[W, 1]`: one number a wavelet coefficient.
        ready: events after the work that made them; those that have passed are removed.
    """

    knobs: Knobs
    curves: Mapping[str, Tensor] = field(default_factory=dict)
    hosts: Mapping[str, np.ndarray] = field(default_factory=dict)
    bands: Mapping[str, Tensor] = field(default_factory=dict)
    ready: tuple[torch.cuda.Event, ...] = ()

    @classmethod
    def of(cls, knobs: Knobs, channels: int, device: torch.device, lane: Lane) -> KnobState:
        """Make the state of these knobs."""
        every = {name: getattr(knobs, name) for name in KNOBS}
        return cls(Knobs()).changed(Change.prepare(every, channels, device, lane), device, lane)

    def changed(self, change: Change, device: torch.device, lane: Lane) -> KnobState:
        """Return the state after a change; never waits for the device.

        The bands are computed again where a factor or the wavelet changed.
        """
        values = change.values
        knobs = self.knobs.with_checked(values, change.neutral)
        curves = {name: tensor for name, tensor in self.curves.items() if name not in values}
        hosts = {name: host for name, host in self.hosts.items() if name not in values}
        curves |= {name: tensor for name, tensor in change.curves.items() if name in values}
        hosts |= {name: host for name, host in change.hosts.items() if name in values}
        events = [*self.ready, *([change.ready] if change.ready is not None else [])]
        bands = self.bands
        if not values.keys().isdisjoint({*BANDS, "dcw_wavelet"}):
            wavelet = filters(knobs.dcw_wavelet)
            bands = {n: to_device(torch.from_numpy(to_band(h, wavelet))[:, None], device) for n, h in hosts.items()}
            mark = lane.mark() if bands else None
            events += [mark] if mark is not None else []
        return KnobState(knobs, curves, hosts, bands, tuple(event for event in events if not event.query()))

    def value(self, name: str) -> Value | None:
        """Return a knob's number, or its curve on the device."""
        return self.curves.get(name, getattr(self.knobs, name))

    def tensors(self) -> Iterable[Tensor]:
        """List the tensors that the lane will read."""
        return (*self.curves.values(), *self.bands.values())


def column(value: Tensor, channels: int = 0) -> Tensor:
    """Return a curve `[T]` as `[T, 1]`, and one per channel `[channels]` as `[1, channels]`."""
    if value.ndim == 2:
        return value
    return value[None] if value.shape[0] == channels else value[:, None]


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to the device as float32, without waiting for the stream."""
    tensor = tensor.detach().to(dtype=torch.float32)
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.contiguous().pin_memory()  # a copy from pageable memory would wait for the stream
    return tensor.to(device, non_blocking=True)
