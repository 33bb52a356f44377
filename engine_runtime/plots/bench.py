"""A picture of a run: the measured tick over the floor of its matrix products, both in milliseconds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from .plot import BACK, FAINT, INK, LINE, MARK, label

SIZE = (720, 640)
LEFT, TOP, RIGHT, BOTTOM = 92, 88, 692, 572  # of the frame, in pixels
TEXT, SMALL = 18, 14
COLORS = (LINE, MARK, "#9ece6a", "#f7768e", "#bb9af7", "#7a8290")
DOT = 5
ROUND = (1, 2, 5)  # numbers on an axis, times a power of ten


def plot_floor(run: Mapping[str, Any]) -> Image.Image:
    """Draw a dot for every result and reference, on logarithmic axes; on the diagonal a tick is matrix products
    alone."""
    image = Image.new("RGB", SIZE, BACK)
    draw, font, small = ImageDraw.Draw(image), ImageFont.load_default(TEXT), ImageFont.load_default(SMALL)
    dots = _dots(run)
    draw.text((16, 14), "ms per tick (median) over the matrix products alone", fill=INK, font=font)
    draw.text((16, 42), run["gpu"] or "CPU", fill=LINE, font=small)
    values = [v for points in dots.values() for pair in points for v in pair]
    low, high = (min(values) / 1.3, max(values) * 1.3) if values else (1.0, 10.0)
    place = _axes(draw, small, low, high)
    for i, ((name, points), color) in enumerate(zip(dots.items(), itertools.cycle(COLORS))):
        for floor, ms in points:
            x, y = place(floor)[0], place(ms)[1]
            draw.ellipse([x - DOT, y - DOT, x + DOT, y + DOT], outline=color, width=2)
        draw.text((RIGHT - 12, BOTTOM - 12 - 20 * i), name, fill=color, font=small, anchor="rs")
    return image


def _dots(run: Mapping[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """Return (floor, median) by engine; results without a floor are left out."""
    dots: dict[str, list[tuple[float, float]]] = {}
    for one in run["results"]:
        beside = (one.get("references") or {}).items()
        medians = [(f"{one['engine']} {one['precision']}", one["tick_ms"]["median"])]
        medians += [(f"reference: {name}", other["tick_ms"]["median"]) for name, other in beside]
        for name, ms in medians:
            if (floor := one.get("floor_ms")) and ms > 0:
                dots.setdefault(name, []).append((floor, ms))
    return dots


def _axes(
    draw: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, low: float, high: float
) -> Callable[[float], tuple[float, float]]:
    """Draw both axes and the diagonal, and return the function from milliseconds to (x, y)."""
    scale = math.log(high / low)

    def place(ms: float) -> tuple[float, float]:
        share = math.log(ms / low) / scale
        return LEFT + (RIGHT - LEFT) * share, BOTTOM - (BOTTOM - TOP) * share

    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for ms in (n * 10.0**power for power in powers for n in ROUND):
        if low <= ms <= high:
            x, y = place(ms)
            draw.line([(x, TOP), (x, BOTTOM)], fill=FAINT)
            draw.line([(LEFT, y), (RIGHT, y)], fill=FAINT)
            draw.text((x, BOTTOM + 8), label(ms), fill=INK, font=font, anchor="ma")
            draw.text((LEFT - 8, y), label(ms), fill=INK, font=font, anchor="rm")
    draw.line([place(low), place(high)], fill=INK, width=2)
    draw.text((RIGHT, BOTTOM + 34), "floor", fill=INK, font=font, anchor="ra")
    return place
