"""The common parts of the trainings on shards: their arguments, their clock, and the rows of figures they log."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from .bank import Bank
from .graphs import DEVICE, log
from .structure import load_structure
from .vae import load_vae, silence_of


def arguments(about: str | None, *, most: int, every: float, structure: bool = True) -> argparse.ArgumentParser:
    """Make the parser of a training: where things are, how long it runs and how much it holds."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="of weights and logs; the run goes on from what it holds")
    parser.add_argument("shards", help="of tools.tiny.shards")
    parser.add_argument("vae")
    if structure:
        parser.add_argument("structure", help="the tokenizer of covers")
        parser.add_argument("tokenizer", help="of text")
    parser.add_argument("--seconds", type=float, required=True, help="of the whole run")
    parser.add_argument("--every", type=float, default=every, help="seconds between checkpoints")
    parser.add_argument("--most", type=int, default=most, help="rows of shards that find room on the device")
    parser.add_argument("--warm", type=int, default=2000, help="rows before the first step")
    return parser


def judged(parser: argparse.ArgumentParser, *names: str) -> argparse.ArgumentParser:
    """Add what a DiT's training has clips judged by."""
    parser.add_argument("--prompts", type=int, default=96, help="held-out prompts to judge")
    parser.add_argument("--judge", nargs="*", default=list(names), help="STEPSgGUIDANCE of the clips judged")
    return parser


def open_bank(args: argparse.Namespace) -> tuple[Bank, Tensor]:
    """The bank of a training on shards, and the frame of silence `[64]`."""
    silence = silence_of(load_vae(args.vae, DEVICE), DEVICE)
    return Bank(Path(args.shards), args.most, silence, hints_of(args)), silence


def hints_of(args: argparse.Namespace) -> Callable[[Tensor], Tensor]:
    """Return what a cover hears of latents; a training without a tokenizer of covers asks for none."""
    if "structure" not in args:
        return lambda z: z
    structure = load_structure(args.structure, DEVICE)

    @torch.no_grad()
    def hints(z: Tensor) -> Tensor:
        with torch.autocast(DEVICE, torch.bfloat16):
            return structure(z).float()

    return hints


class Clock:
    """A run's time, and its learning rate by it."""

    def __init__(self, seconds: float) -> None:
        self.start = self.began = time.time()
        self.seconds = seconds

    def past(self) -> float:
        """Seconds since the start."""
        return time.time() - self.start

    def over(self) -> bool:
        return self.past() >= self.seconds

    def train(self) -> None:
        """Let the falling of the rate begin now: compiling and waiting for data is done."""
        self.began = time.time()

    def rate(self, step: int, most: float, warm_up: int, fall_from: float) -> float:
        """The learning rate: up over `warm_up` steps, down to nearly 0 from the share `fall_from` of the time on."""
        left = max(1.0, self.seconds - (self.began - self.start))
        done = (time.time() - self.began) / left
        falling = 1.0 if done < fall_from else max(0.0, (1 - done) / (1 - fall_from))
        return most * min(1, (step + 1) / warm_up) * falling + 1e-6


class Rows:
    """A log of figures, kept as JSON and shown as it grows."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, list[dict]()

    def add(self, row: dict) -> None:
        log.info(json.dumps(row))
        self.rows.append(row)
        self.path.write_text(json.dumps(self.rows), encoding="utf-8")
