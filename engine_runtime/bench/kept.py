"""The figures that are kept beside the code: every benchmark in `results/`, by its folder and name. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from .report import load

RESULTS = Path(__file__).parent / "results"


def read(path: Path) -> dict[str, Any]:
    """Read any file of figures."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


@cache
def runs() -> Mapping[str, dict[str, Any]]:
    """Return what `ostinato bench --json` wrote, by name, such as `h100-80gb/targets`. Other figures are left out."""
    return {f"{p.parent.name}/{p.stem}": load(p) for p in sorted(RESULTS.glob("*/*.json")) if "results" in read(p)}
