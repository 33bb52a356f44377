"""Small pictures of figures."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from .stats import Stats

SIZE = (640, 240)
BACK, INK, FAINT, LINE, MARK = "#16181d", "#e6e6e6", "#4a4f5a", "#5cc8ff", "#ffb454"
LEFT, TOP, RIGHT, BOTTOM = 56, 44, 624, 204  # the plot's frame, in pixels


def plot_ticks(stats: Stats) -> torch.Tensor:
    """Milliseconds of each tick over the ticks, with the median: `[1, 240, 640, 3]` float32 in [0, 1]."""
    image = Image.new("RGB", SIZE, BACK)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default()
    speed = f"{stats.latents_per_s:.2f} latents/s   {stats.realtime:.1f}x real time"
    draw.text((LEFT, 16), f"{stats.ms_per_tick:.1f} ms per tick   {speed}", fill=INK, font=font)
    values = stats.tick_ms or (0.0,)
    top = max(max(values) * 1.1, 1e-3)

    def height(ms: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * ms / top

    for share in (0.0, 0.5, 1.0):
        draw.line([(LEFT, height(share * top)), (RIGHT, height(share * top))], fill=FAINT)
        draw.text((8, height(share * top) - 6), f"{share * top:.3g} ms", fill=INK, font=font)
    step = (RIGHT - LEFT) / max(len(values) - 1, 1)
    draw.line([(LEFT + i * step, height(ms)) for i, ms in enumerate(values)], fill=LINE, width=2)
    if len(values) == 1:
        draw.ellipse([LEFT - 2, height(values[0]) - 2, LEFT + 2, height(values[0]) + 2], fill=LINE)
    median = height(stats.ms_per_tick)
    draw.line([(LEFT, median), (RIGHT, median)], fill=MARK)
    draw.text((RIGHT - 40, median - 14), "median", fill=MARK, font=font)
    first = stats.ticks - len(values) + 1 if stats.ticks else 0
    draw.text((LEFT, BOTTOM + 8), f"tick {first}", fill=INK, font=font)
    draw.text((RIGHT - 56, BOTTOM + 8), f"tick {stats.ticks}", fill=INK, font=font)
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255.0)[None]
