"""Values of knobs: a number for all frames, or a curve with one number a frame. Imports no torch."""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from ..errors import InputError, check_range

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import TypeIs

Value: TypeAlias = Union[float, "Tensor"]  # or a curve `[T]`, float


def is_curve(value: Any) -> TypeIs[Tensor]:
    """Return true for a tensor, false for a number."""
    return hasattr(value, "isfinite")


def check_value(name: str, value: Value, low: float, high: float, remedy: str, channels: int | None = 0) -> None:
    """Raise `InputError` unless every number lies from `low` to `high`; NaN never passes. Waits for a curve's device.

    Args:
        channels: where not 0, a curve may also be `[channels]` or `[T, channels]`; None for any number of them.
    """
    if not is_curve(value):
        if not isinstance(value, Real) or isinstance(value, bool):
            raise InputError(
                f"{name} is a {type(value).__name__}", "allowed is a number or a curve", "give a float or a tensor"
            )
        check_range(name, value, low, high, remedy)
        return
    curve = value
    wide = "channels" if channels is None else channels
    shapes = "[frames]" + f", [{wide}] or [frames, {wide}]" * (channels != 0)
    fits = curve.ndim == 1 or (curve.ndim == 2 and channels in (None, curve.shape[1]))
    if not fits or 0 in curve.shape:
        raise InputError(f"the curve of {name} has shape {list(curve.shape)}", f"allowed is {shapes}", "make it fit")
    if not bool(curve.isfinite().all()):
        raise InputError(f"the curve of {name} holds NaN or infinite values", "allowed are numbers", "make it again")
    for extreme in (float(curve.min()), float(curve.max())):
        check_range(name, extreme, low, high, remedy)


def fits_frames(curve: Any, frames: int, channels: int = 0) -> bool:
    """Return true where a curve has one number a frame, or one a channel."""
    return curve.shape[0] == frames or tuple(curve.shape) == (channels,)


def check_frames(name: str, value: Any, frames: int, channels: int = 0) -> None:
    """Raise `InputError` unless a curve has one number a frame."""
    if not is_curve(value):
        return
    if not fits_frames(value, frames, channels):
        raise InputError(
            f"the curve of {name} has {value.shape[0]} frames",
            f"the music has {frames}",
            "resample the curve, or make one for this length",
        )


def is_constant(value: Value, number: float) -> bool:
    """Return true where the value is `number` everywhere. Waits for a curve's device: call it when a value is set, not
    later.
    """
    if is_curve(value):
        return bool((value == number).all())
    return bool(value == number)
