"""A picture of a curve over the sound it was made for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..spec import ACE_STEP
from .plot import BACK, BOTTOM, FAINT, INK, LEFT, LINE, RIGHT, SIZE, TEXT, TOP

WAVE = "#303c50"
PAD = 6  # pixels between the frame and the extremes of the curve
VALUES, TIMES = 4, 8  # marks on the axes, at most one more
NEAR = 0.1  # of the height: a round number that close beyond the curve is on the axis
Array = NDArray[Any]


def plot_curve(
    values: Array, audio: Array | None = None, sample_rate: int = 0, rate: float = ACE_STEP.frame_rate
) -> torch.Tensor:
    """Draw a curve `[frames]` over time: `[1, 320, 720, 3]` float32 in [0, 1].

    Args:
        audio: `[channels, samples]`, drawn behind the curve on the same time axis.
        sample_rate: of the audio, in Hz.
        rate: frames a second, Hz.
    """
    image = Image.new("RGB", SIZE, BACK)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(TEXT)
    seconds = len(values) / rate
    low, high = float(values.min()), float(values.max())
    head = f"{_short(low)} to {_short(high)}" if high > low else f"{_short(low)} throughout"
    draw.text((16, 16), head, fill=INK, font=font)
    length = f"{len(values)} frame{'s' * (len(values) > 1)}, {seconds:.6g} s"
    draw.text((RIGHT, 16), length, fill=INK, font=font, anchor="ra")
    if audio is not None and audio.size:
        _wave(draw, audio, sample_rate, seconds)
    height = _axes(draw, font, low, high, seconds)
    width = (RIGHT - LEFT) / len(values)
    line = [(LEFT + width * (i + 0.5), height(float(v))) for i, v in enumerate(values)]
    if len(line) > 2 * (RIGHT - LEFT):
        line = _thinned(line)
    draw.line([(LEFT, line[0][1]), *line, (RIGHT, line[-1][1])], fill=LINE, width=2, joint="curve")
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255.0)[None]


def _axes(draw: ImageDraw.ImageDraw, font: Any, low: float, high: float, seconds: float) -> Any:
    """Draw both axes and return the function from a value to a height in pixels."""
    if high - low <= 1e-6 * max(abs(low), abs(high), 1e-30):  # flat: some room to both sides of it
        room = 0.5 * abs(low) or 1.0
        low, high = low - room, high + room
    step, near = _spacing(low, high, VALUES), NEAR * (high - low)
    below, above = math.floor(low / step) * step, math.ceil(high / step) * step
    low, high = below if low - below < near else low, above if above - high < near else high

    def height(value: float) -> float:
        return BOTTOM - PAD - (BOTTOM - TOP - 2 * PAD) * (value - low) / (high - low)

    for value in ticks(low, high, VALUES):
        draw.line([(LEFT, height(value)), (RIGHT, height(value))], fill=FAINT)
        draw.text((LEFT - 8, height(value)), f"{value:.6g}", fill=INK, font=font, anchor="rm")
    draw.line([(LEFT, TOP), (LEFT, BOTTOM), (RIGHT, BOTTOM)], fill=FAINT)
    marks = ticks(0.0, seconds, TIMES)
    for time in marks:
        x = LEFT + (RIGHT - LEFT) * time / seconds
        draw.line([(x, BOTTOM), (x, BOTTOM + 5)], fill=FAINT)
        text = f"{time:.6g} s" if time == marks[-1] else f"{time:.6g}"
        at = min(x, SIZE[0] - 8 - font.getlength(text) / 2)
        draw.text((at, BOTTOM + 8), text, fill=INK, font=font, anchor="ma")
    return height


def _wave(draw: ImageDraw.ImageDraw, audio: Array, sample_rate: int, seconds: float) -> None:
    """Draw the extremes of the sound in every column of pixels, over all channels, its peak as high as the frame."""
    peak = float(np.abs(audio).max())
    columns = RIGHT - LEFT
    edges = np.round(np.linspace(0.0, seconds * sample_rate, columns + 1)).astype(np.int64)
    middle, half = (TOP + BOTTOM) / 2, (BOTTOM - TOP) / 2
    for x, (first, end) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        part = audio[:, first : max(end, first + 1)]
        if part.size and peak > 0:
            top, bottom = middle - half * float(part.max()) / peak, middle - half * float(part.min()) / peak
            draw.line([(LEFT + x, top), (LEFT + x, bottom)], fill=WAVE)


def _thinned(line: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Keep the lowest and the highest point of every column of pixels, so that no pulse is lost."""
    columns: dict[int, list[tuple[float, float]]] = {}
    for point in line:
        columns.setdefault(int(point[0]), []).append(point)
    kept = []
    for points in columns.values():
        ends = {min(points, key=lambda p: p[1]), max(points, key=lambda p: p[1])}
        kept += sorted(ends)
    return kept


def ticks(low: float, high: float, count: int) -> list[float]:
    """Return at most `count + 1` round numbers from `low` to `high`: 1, 2 or 5 times a power of ten apart."""
    step = _spacing(low, high, count)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12) + 0.0 for k in range(first, last + 1)]


def _spacing(low: float, high: float, count: int) -> float:
    least = (high - low) / count
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * k for k in (1, 2, 5, 10) if power * k >= least * (1 - 1e-9))


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1e3 else f"{value:.6g}"
