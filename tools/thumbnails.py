"""Pictures of the templates, as ComfyUI's browser shows them: python -m tools.thumbnails [NAME...]

Each has its title, the spectrogram of a clip that the workflow itself plays with the built-in model, and its curves.
What only ComfyUI plays shows the clip that it starts from.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile
from ostinato.cli.main import app
from ostinato.nodes import NODES
from ostinato.nodes.shared.run import run_node
from PIL import Image, ImageDraw, ImageFont
from typer.testing import CliRunner

from .help.svg import spectrogram

FOLDER = Path(__file__).parents[1] / "example_workflows"
CLIP = FOLDER / "ostinato_source.flac"
SIZE, HEAD, EDGE = (640, 360), 92, 20  # pixels: the picture, its title, around the spectrogram
BACK, INK = (16, 18, 24), (240, 240, 244)
DARK, MIDDLE, BRIGHT = np.array([16, 18, 24]), np.array([120, 60, 150]), np.array([255, 205, 120])  # of the heat
NATIVE = {  # of what only ComfyUI plays: the clip in a colour of its own
    "native_drop_in": np.array([130, 220, 255]),
    "native_cover": np.array([150, 255, 170]),
    "native_repaint": np.array([255, 150, 190]),
}
LINES = ((110, 220, 255), (140, 255, 160), (255, 140, 170))  # of curves
SHORT = {"count": 1, "depth": 1}  # of Stream Denoise, for one clip is drawn
POINTS = 125  # of a curve: the frames of the clip


def main() -> None:
    wanted = sys.argv[1:]
    for path in sorted(FOLDER.glob("*.json")):
        if not wanted or path.stem in wanted:
            draw(path).save(path.with_suffix(".jpg"), quality=82)


def draw(path: Path) -> Image.Image:
    workflow = json.loads(path.read_text("utf-8"))
    note = next(node["widgets_values"][0] for node in workflow["nodes"] if node["type"] == "MarkdownNote")
    picture = Image.new("RGB", SIZE, BACK)
    width, height = SIZE[0] - 2 * EDGE, SIZE[1] - HEAD - EDGE
    audio, rate = sound(path, workflow)
    loudness = heat(spectrogram(audio, rate, 96, 320)[::-1], NATIVE.get(path.stem.split("_", 1)[1], BRIGHT))
    picture.paste(loudness.resize((width, height), Image.Resampling.BILINEAR), (EDGE, HEAD))
    pen = ImageDraw.Draw(picture)
    for values, colour in zip(curves(workflow), LINES, strict=False):
        low, high = float(values.min()), float(values.max())
        rise = (values - low) / (high - low or 1.0)
        at = [(EDGE + i * width / (len(rise) - 1), HEAD + height - 14 - y * (height - 28)) for i, y in enumerate(rise)]
        pen.line(at, fill=colour, width=5, joint="curve")
    title(pen, note.removeprefix("## ").split("\n")[0], path.stem)
    return picture


def title(pen: ImageDraw.ImageDraw, words: str, stem: str) -> None:
    number, kind = stem.split("_", 1)
    size = next(s for s in range(34, 10, -1) if pen.textlength(words, ImageFont.load_default(s)) < SIZE[0] - 2 * EDGE)
    pen.text((EDGE, 18), words, INK, ImageFont.load_default(size))
    pen.text((EDGE, 60), f"{number}  {kind.replace('_', ' ')}", LINES[0], ImageFont.load_default(18))


def heat(values: np.ndarray, bright: np.ndarray) -> Image.Image:
    """Colour loudness, `[rows, columns]` from 0 to 1."""
    share = np.clip(values, 0, 1)[..., None]
    colours = np.where(share < 0.5, DARK + (MIDDLE - DARK) * 2 * share, MIDDLE + (bright - MIDDLE) * (2 * share - 1))
    return Image.fromarray(colours.astype(np.uint8))


def sound(path: Path, workflow: dict[str, Any]) -> tuple[np.ndarray, int]:
    """Return what a workflow plays, `[channels, samples]`; of one that needs ComfyUI, what it starts from."""
    kinds = {node["type"] for node in workflow["nodes"]}
    if "CheckpointLoaderSimple" in kinds:
        audio, rate = soundfile.read(CLIP, dtype="float32", always_2d=True)
        return audio.T, rate
    with TemporaryDirectory() as out:
        streams = "OstinatoStreamDenoise" in kinds  # what only plays live shows text to music, of another seed
        source, more = (path, {}) if streams else (FOLDER / "02_text_to_music.json", {"seed": 1})
        settings = [f"OstinatoStreamDenoise.{name}={value}" for name, value in (SHORT | more).items()]
        asked = ["run", str(source), "--out", out, "--json", *(part for s in settings for part in ("--set", s))]
        done = CliRunner().invoke(app, asked)
        if done.exit_code:
            raise RuntimeError(f"{path.name}: {done.output}")
        file = next(Path(out).rglob("*.flac"))
        audio, rate = soundfile.read(file, dtype="float32", always_2d=True)
        return audio.T, rate


def curves(workflow: dict[str, Any]) -> list[np.ndarray]:
    """Return the values of a workflow's curves that need nothing but their widgets, or the clip."""
    import torch

    known = {node.GET_SCHEMA().node_id: node for node in NODES}
    audio, rate = soundfile.read(CLIP, dtype="float32", always_2d=True)
    clip = {"waveform": torch.from_numpy(audio.T.copy())[None], "sample_rate": rate}
    found = []
    for node in workflow["nodes"]:
        if not re.fullmatch(r"OstinatoCurve(Ramp|Lfo|Points|Envelope|Beats)", node["type"]):
            continue
        names = [item["name"] for item in node["inputs"] if "widget" in item]
        given = dict(zip(names, node["widgets_values"], strict=False))
        given |= {item["name"]: clip for item in node["inputs"] if item["type"] == "AUDIO"}
        made = run_node(known[node["type"]], given, {})
        found.append(np.asarray(made[0].values(POINTS)))
    return found


if __name__ == "__main__":
    main()
