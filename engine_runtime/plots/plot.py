"""Small pictures of figures."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..stream.stats import Stats

SIZE = (720, 320)
BACK, INK, FAINT, LINE, MARK = "#16181d", "#e6e6e6", "#4a4f5a", "#5cc8ff", "#ffb454"
LEFT, TOP, RIGHT, BOTTOM = 92, 64, 700, 276  # the plot's frame, in pixels
TEXT = 18


def plot_ticks(stats: Stats) -> torch.Tensor:
    """Draw the milliseconds of each tick, with the median: `[1, 320, 720, 3]` float32 in [0, 1]."""
    image = Image.new("RGB", SIZE, BACK)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(TEXT)
    speed = f"{stats.latents_per_s:.2f} latents/s   {stats.realtime:.1f}x real time"
    draw.text((16, 16), f"{stats.ms_per_tick:.1f} ms per tick   {speed}", fill=INK, font=font)
    values = stats.tick_ms or (0.0,)
    top = max(max(values) * 1.1, 1e-3)

    def height(ms: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * ms / top

    for share in (0.0, 0.5, 1.0):
        draw.line([(LEFT, height(share * top)), (RIGHT, height(share * top))], fill=FAINT)
        draw.text((LEFT - 8, height(share * top)), label(share * top), fill=INK, font=font, anchor="rm")
    step = (RIGHT - LEFT) / max(len(values) - 1, 1)
    draw.line([(LEFT + i * step, height(ms)) for i, ms in enumerate(values)], fill=LINE, width=2)
    if len(values) == 1:
        draw.ellipse([LEFT - 2, height(values[0]) - 2, LEFT + 2, height(values[0]) + 2], fill=LINE)
    median = height(stats.ms_per_tick)
    draw.line([(LEFT, median), (RIGHT, median)], fill=MARK)
    draw.text((RIGHT, median - 4), "median", fill=MARK, font=font, anchor="rs")
    first = stats.ticks - len(values) + 1 if stats.ticks else 0
    draw.text((LEFT, BOTTOM + 8), f"tick {first}", fill=INK, font=font)
    draw.text((RIGHT, BOTTOM + 8), f"tick {stats.ticks}", fill=INK, font=font, anchor="ra")
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255.0)[None]


def label(ms: float) -> str:
    """Format milliseconds in three digits, seconds from 1000 ms on."""
    return f"{ms / 1e3:.3g} s" if ms >= 1e3 else f"{ms:.3g} ms"
