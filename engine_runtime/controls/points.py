"""Curves through control points, by the rule of ComfyUI's curve widget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError, check_choice
from .curves import MAX_FRAMES, Array, Curve, drawn

INTERPOLATIONS = ("monotone_cubic", "linear")


def through(
    control: Sequence[Sequence[float]], interpolation: str = "monotone_cubic", low: float = 0.0, high: float = 1.0
) -> Curve:
    """Make a curve through control points `[[x, y], ...]`, both 0 to 1, as ComfyUI's curve widget draws it.

    x is the position in the whole length; y 0 is `low` and y 1 is `high`. The ends are held. Two points at one x are a
    jump.

    Raises:
        InputError: for what are not such points, or more of them than `MAX_FRAMES`.
    """
    check_choice("the interpolation", interpolation, INTERPOLATIONS)
    table = _table(control)
    if interpolation == "linear":
        return drawn(lambda at: np.interp(at, table[:, 0], table[:, 1]), low, high)
    slopes = _monotone_slopes(table)
    return drawn(lambda at: _hermite(at, table, slopes), low, high)


def _table(control: Any) -> Array:
    """Check the points and return them as `[n, 2]` float64, sorted by x."""
    try:
        table = np.array(control, dtype=np.float64)
    except (TypeError, ValueError):
        table = np.empty(0)
    if table.ndim != 2 or table.shape[1] != 2 or not len(table):
        raise InputError("the points are not pairs", "allowed is [[x, y], ...] with one pair or more", "draw it again")
    if len(table) > MAX_FRAMES:
        raise InputError(f"the curve has {len(table)} points", f"allowed are {MAX_FRAMES}, one a frame", "draw fewer")
    if not ((table >= 0.0) & (table <= 1.0)).all():
        raise InputError("a point lies outside the frame", "x and y are 0 to 1", "set low and high instead")
    return table[np.argsort(table[:, 0], kind="stable")]


def _monotone_slopes(table: Array) -> Array:
    """Compute a slope `[n]` per point that keeps the cubic monotone between points.

    Fritsch and Carlson (1980): the mean of the two secants, 0 at a turn; then, where the two slopes of an interval are
    together longer than 3 secants, both are shortened. ComfyUI's widget does this from left to right.
    """
    dx, dy = np.diff(table[:, 0]), np.diff(table[:, 1])
    secants = np.divide(dy, dx, out=np.zeros_like(dy), where=dx > 0)
    if not len(secants):
        return np.zeros(1)
    means = np.where(secants[:-1] * secants[1:] > 0, (secants[:-1] + secants[1:]) / 2.0, 0.0)
    slopes = np.concatenate([secants[:1], means, secants[-1:]])
    for i, secant in enumerate(secants):
        limit = 3.0 * abs(secant)
        length = math.hypot(slopes[i], slopes[i + 1])
        if length > limit:
            slopes[i : i + 2] *= limit / length
    return slopes


def _hermite(at: Array, table: Array, slopes: Array) -> Array:
    """Evaluate the cubic Hermite spline through the points with these slopes, the ends held."""
    x, y = table.T
    right = np.minimum(np.searchsorted(x, at, side="right"), len(x) - 1)
    left = right - 1
    width, rise = x[right] - x[left], y[right] - y[left]
    t = np.divide(at - x[left], width, out=np.zeros_like(at), where=width > 0)
    into, out = slopes[left] * width, slopes[right] * width
    cubic = y[left] + t * (into + t * (3.0 * rise - 2.0 * into - out + t * (into + out - 2.0 * rise)))
    return np.where(at <= x[0], y[0], np.where(at >= x[-1], y[-1], cubic))
