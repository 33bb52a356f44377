"""A picture of a layer profile: a bar for every kind, and for the slowest layers."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..profile.layers import OPAQUE, LayerProfile
from .plot import BACK, FAINT, INK, LINE, MARK, label

SIZE = (960, 560)
LEFT, RIGHT, TOP, STEP, BAR = 380, 860, 76, 24, 16  # of the bars, in pixels
TEXT, SMALL = 18, 14
NAME = 50  # characters of a layer's name: its end tells more
LAYERS = 12
COLORS = {
    "attention": "#ffb454",
    "matrix product": "#5cc8ff",
    "normalization": "#9ece6a",
    "pointwise": "#bb9af7",
    "reformat": "#f7768e",
    OPAQUE: "#7a8290",
    "other": FAINT,
}


def plot_profile(profile: LayerProfile) -> torch.Tensor:
    """Draw horizontal bars in milliseconds of a tick: `[1, 560, 960, 3]` float32 in [0, 1]."""
    image = Image.new("RGB", SIZE, BACK)
    draw, font, small = ImageDraw.Draw(image), ImageFont.load_default(TEXT), ImageFont.load_default(SMALL)
    slowed = f"{profile.slowdown:.2f} times as long while profiled"
    draw.text((16, 14), f"{label(profile.tick_ms)} per tick, {slowed}", fill=INK, font=font)
    draw.text((16, 42), f"{profile.engine}, {profile.device}: {profile.workload}", fill=LINE, font=small)
    kinds, layers = profile.kinds(), profile.grouped()[:LAYERS]
    total = profile.total_ms or 1.0
    bars = [(kind + " (opaque)" * (kind == OPAQUE), kind, ms) for kind, ms in kinds.items()]
    y = _bars(draw, small, bars, TOP, total)
    draw.line([(16, y + 4), (SIZE[0] - 16, y + 4)], fill=FAINT)
    _bars(draw, small, [(_short(x.name), x.kind, x.ms) for x in layers], y + 14, total)
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255.0)[None]


def _bars(
    draw: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, bars: list, top: int, total: float
) -> int:
    """Draw one bar a line, as wide as its share of the longest; returns where the next line would be."""
    longest = max((ms for _, _, ms in bars), default=0.0) or 1.0
    for i, (name, kind, ms) in enumerate(bars):
        y = top + i * STEP
        end = LEFT + (RIGHT - LEFT) * ms / longest
        draw.text((LEFT - 10, y + BAR / 2), name, fill=INK, font=font, anchor="rm")
        draw.rectangle([(LEFT, y), (max(end, LEFT + 1), y + BAR)], fill=COLORS[kind])
        draw.text((RIGHT + 8, y + BAR / 2), f"{label(ms)} {100 * ms / total:.0f}%", fill=MARK, font=font, anchor="lm")
    return top + len(bars) * STEP


def _short(name: str) -> str:
    return name if len(name) <= NAME else "..." + name[3 - NAME :]
