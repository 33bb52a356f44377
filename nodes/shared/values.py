"""Number widgets whose socket also takes a curve."""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Any

from ...engine_runtime.errors import InputError
from .comfy import io
from .types import Curve

if TYPE_CHECKING:
    from torch import Tensor


def value_input(
    id: str,
    *,
    default: float,
    min: float,
    max: float,
    step: float,
    tooltip: str,
    optional: bool = False,
    advanced: bool | None = None,
) -> io.Input:
    """A FLOAT widget; its socket takes a FLOAT or an OSTINATO_CURVE. Read what arrives with `to_value`.

    ComfyUI holds a typed number against `min` and `max`; what comes through a link it does not.
    """
    number = io.Float.Input(
        id,
        default=default,
        min=min,
        max=max,
        step=step,
        tooltip=f"{tooltip} Also takes a curve.",
        optional=optional,
        advanced=advanced,
    )
    return io.MultiType.Input(number, types=[io.Float, Curve])


def share_input(id: str, default: float, tooltip: str, advanced: bool | None = None) -> io.Input:
    """A FLOAT widget for a part of the whole: 0 to 1."""
    return io.Float.Input(id, default=default, min=0.0, max=1.0, step=0.01, tooltip=tooltip, advanced=advanced)


def to_value(value: Any, frames: int, name: str = "the value") -> float | Tensor:
    """What such an input was given, for music of `frames` latent frames: a float, or `[frames]` float32 on the CPU.

    Raises:
        InputError: for a curve of another length, or something that is neither number nor curve.
    """
    from ...engine_runtime.controls import curves

    if isinstance(value, curves.Curve):
        import torch

        return torch.from_numpy(value.values(frames))
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InputError(f"{name} is a {type(value).__name__}", "allowed is a number or a curve", "connect one of them")
    return float(value)


def is_curve(value: Any) -> bool:
    """Whether such an input was given a curve."""
    from ...engine_runtime.controls import curves

    return isinstance(value, curves.Curve)
