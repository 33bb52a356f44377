"""Number inputs whose socket also takes a curve."""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Any, TypeGuard

from ...engine_runtime.errors import InputError
from ...engine_runtime.spec import ACE_STEP
from . import sockets
from .comfy import io

if TYPE_CHECKING:
    from torch import Tensor

    from ...engine_runtime.controls.curves import Curve


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
    """Make a FLOAT widget whose socket takes a FLOAT or an OSTINATO_CURVE; read its value with `to_value`.

    ComfyUI checks typed numbers against `min` and `max`, but not values that come through a link.
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
    return io.MultiType.Input(number, types=[io.Float, sockets.Curve])


def share_input(id: str, default: float, tooltip: str, **more: Any) -> io.Input:
    """Make a FLOAT widget for a fraction, 0 to 1."""
    return io.Float.Input(id, default=default, min=0.0, max=1.0, step=0.01, tooltip=tooltip, **more)


def to_value(
    value: Any, frames: int, name: str = "the value", rate: float = ACE_STEP.frame_rate, start: int | None = None
) -> float | Tensor:
    """Return the value of such an input for `frames` latent frames: a float, or float32 `[frames]` on the CPU.

    Args:
        rate: frames a second, Hz.
        start: the frame of play that is the first of them; None for the length alone.

    Raises:
        InputError: for a curve of another length, or a value that is neither a number nor a curve.
    """
    from ...engine_runtime.controls import curves

    if isinstance(value, curves.Curve):
        import torch

        return torch.from_numpy(value.values(frames, rate, start))
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InputError(f"{name} is a {type(value).__name__}", "allowed is a number or a curve", "connect one of them")
    return float(value)


def is_curve(value: Any) -> TypeGuard[Curve]:
    """Return whether the value of such an input is a curve."""
    from ...engine_runtime.controls import curves

    return isinstance(value, curves.Curve)
