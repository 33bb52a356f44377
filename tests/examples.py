"""The example workflows by name, without the number that orders them."""

from __future__ import annotations

from pathlib import Path

import soundfile
from ostinato.scripts.graphs import CLIP

FOLDER = Path(__file__).parents[1] / "example_workflows"
ALL = sorted(FOLDER.glob("*.json"))


def name_of(path: Path) -> str:
    return path.stem.split("_", 1)[1]


def example(name: str) -> Path:
    """Return the file of an example workflow."""
    return next(path for path in ALL if name_of(path) == name)


def put_short_clip(folder: Path, seconds: float = 2.5) -> None:
    """Write the beginning of the examples' clip into a folder, under its name: all of it takes long to encode."""
    samples, rate = soundfile.read(FOLDER / CLIP)
    soundfile.write(folder / CLIP, samples[: int(seconds * rate)], rate)
