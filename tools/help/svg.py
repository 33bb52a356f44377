"""Drawing of the help pages' pictures as SVG: a node among its neighbours, and plots under it."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]

WIDTH, PAD, GAP = 720, 12, 14  # pixels
BACK, BOX, HEAD, INK, FAINT = "#16181d", "#23262e", "#343945", "#e6e6e6", "#9aa3b3"
LINE, WAVE, MARK = "#5cc8ff", "#4f7fb0", "#ffb454"
ROW, TITLE = 18, 24  # height of a socket's row and of a title
COLOURS = ("#5cc8ff", "#ffb454", "#8fd694", "#d99bff", "#ff8f8f", "#7fe0d0", "#e0d070", "#b0b8ff")
COLUMNS = 340  # of pixels in which a waveform or a spectrogram is drawn
STOPS = np.array([(22, 24, 29), (36, 62, 110), (92, 150, 200), (255, 180, 84), (255, 245, 220)])  # of a spectrogram


def colour(kind: str) -> str:
    """Return a socket type's colour; the same type has the same one in each picture."""
    return COLOURS[sum(kind.split(",")[0].encode()) % len(COLOURS)]


def text(x: float, y: float, words: str, size: int = 12, fill: str = INK, anchor: str = "start") -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{fill}" text-anchor="{anchor}">{escape(str(words))}</text>'
    )


def rect(x: float, y: float, width: float, height: float, fill: str, more: str = "") -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="{fill}" {more}/>'


def dot(x: float, y: float, kind: str) -> str:
    return f'<circle cx="{x:g}" cy="{y:g}" r="4" fill="{colour(kind)}"/>'


def wire(x: float, y: float, to_x: float, to_y: float, kind: str) -> str:
    half = (x + to_x) / 2
    path = f"M{x:g} {y:g}C{half:g} {y:g} {half:g} {to_y:g} {to_x:g} {to_y:g}"
    return f'<path d="{path}" fill="none" stroke="{colour(kind)}" stroke-width="2" opacity="0.8"/>'


def document(parts: Sequence[str], height: float) -> str:
    """Return a whole picture of these parts."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" font-family="sans-serif">'
    return "\n".join([head, rect(0, 0, WIDTH, height, BACK, 'rx="8"'), *parts, "</svg>"]) + "\n"


def line(values: Array, x: float, y: float, width: float, height: float, low: float, high: float, fill: str) -> str:
    """Draw values over a width; `low` is at the bottom and `high` at the top."""
    span = (high - low) or 1.0
    if len(values) > COLUMNS:
        values = _extremes(values, COLUMNS)
    across = np.linspace(x, x + width, len(values))
    up = y + height - height * (np.asarray(values) - low) / span
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across, up, strict=True))
    return f'<polyline points="{points}" fill="none" stroke="{fill}" stroke-width="2"/>'


def wave(audio: Array, x: float, y: float, width: float, height: float, peak: float = 0.0) -> str:
    """Draw the extremes of `[channels, samples]` in each column, `peak` as high as the frame; 0 is its own."""
    mono = np.asarray(audio)[0]
    edges = np.linspace(0, len(mono), COLUMNS + 1).astype(int)
    peak = peak or float(np.abs(mono).max()) or 1.0
    columns = [mono[a : max(b, a + 1)] for a, b in zip(edges[:-1], edges[1:], strict=True)]
    tops = [y + height / 2 * (1 - part.max() / peak) for part in columns]
    bottoms = [y + height / 2 * (1 - part.min() / peak) for part in columns]
    across = np.linspace(x, x + width, COLUMNS)
    there = [f"{a:.1f},{b:.1f}" for a, b in zip(across, tops, strict=True)]
    back = [f"{a:.1f},{b:.1f}" for a, b in zip(across[::-1], bottoms[::-1], strict=True)]
    return f'<polygon points="{" ".join(there + back)}" fill="{WAVE}"/>'


def heat(values: Array, x: float, y: float, width: float, height: float) -> str:
    """Draw `[rows, columns]` from 0 to 1 as a picture, the first row at the bottom."""
    shades = np.round(values[::-1].clip(0, 1) * 31).astype(np.uint8)
    at = np.linspace(0, len(STOPS) - 1, 32)
    palette = np.stack([np.interp(at, np.arange(len(STOPS)), STOPS[:, c]) for c in range(3)], axis=1)
    image = Image.fromarray(shades, "P")
    image.putpalette(palette.round().astype(np.uint8).ravel().tolist())
    stored = io.BytesIO()
    image.save(stored, "PNG", optimize=True)
    data = base64.b64encode(stored.getvalue()).decode()
    where = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" preserveAspectRatio="none"'
    return f'<image {where} href="data:image/png;base64,{data}"/>'


def spectrogram(audio: Array, rate: int, rows: int = 64, columns: int = 170) -> Array:
    """Return loudness `[rows, columns]` from 0 to 1 over 60 dB, in bands from 40 Hz to 12 kHz, evenly in pitch."""
    mono, size = np.asarray(audio)[0], 4096
    starts = np.linspace(0, max(0, len(mono) - size), columns).astype(int)
    frames = np.stack([np.pad(mono[s : s + size], (0, size - len(mono[s : s + size]))) for s in starts])
    power = np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)) ** 2
    edges = np.geomspace(40, 12_000, rows + 1) * size / rate
    bands = [
        power[:, int(a) : max(int(b), int(a) + 1)].mean(axis=1) for a, b in zip(edges[:-1], edges[1:], strict=True)
    ]
    loud = 10 * np.log10(np.stack(bands) + 1e-12)
    return 1 + (loud - np.percentile(loud, 99.5)) / 60


def _extremes(values: Array, columns: int) -> Array:
    """Keep the smallest and the largest value of each column, so that no pulse is lost."""
    step = math.ceil(len(values) / columns)
    parts = [values[i : i + step] for i in range(0, len(values), step)]
    return np.array([kept for part in parts for kept in (part.min(), part.max())])
