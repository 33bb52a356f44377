"""The command line that the measurements of this folder share, and the figures that they write."""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


def options(description: str | None) -> argparse.ArgumentParser:
    """Make a parser with the options that every measurement has."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pieces", type=int, default=12)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-sound", dest="sound", action="store_false", help="latents only")
    return parser


class Figures:
    """Figures by name, in the file that was asked for as soon as there are new ones: a long run may end early."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._out: Path = args.out
        self._found: dict[str, Any] = {"given": {k: v for k, v in vars(args).items() if k != "out"}}

    def add(self, name: str, row: dict[str, Any], began: float) -> None:
        """Keep a row of figures and log it; `began` is a time of `perf_counter`."""
        self._found[name] = row
        log.info("%s: %s (%.0f s)", name, json.dumps(row), time.perf_counter() - began)
        self._out.write_text(json.dumps(self._found, indent=1) + "\n", encoding="utf-8")
