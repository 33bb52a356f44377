"""Measures guidance for less: rows saved and distance to full guidance, on the built-in base model.

python -m ostinato.tools.rows.guidance OUT.json [--pieces 12] [--scale 3] [--no-sound]

Every way plays the same prompts from the same noise with the runtime's own formulas. Distances are means over the
pieces. N pieces, T frames of C channels.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...engine_runtime.config import Guidance, Sampling
from ...engine_runtime.numerics import guidance, steps
from ...engine_runtime.numerics.schedule import sigmas
from ..tiny.listen import Reference, hear, report
from .command import Figures, options
from .pieces import Pieces, relative, spectral

KEEPS = ("velocity", "difference", "line", "push")


@dataclass(frozen=True)
class Way:
    """A way to guide.

    Attributes:
        start, end: as in `Guidance`.
        decodes: of a guided step, counted from the first guided one: whether the negative is decoded there.
        keeps: what a step without its own negative takes: the `velocity` of the last one, the `difference` that it
            made, the `line` through the last two differences over sigma, or the `push`: the running average of
            differences, as it is. The `noise` is the starting noise in place of any negative (mode self).
        scale: 1 is no guidance; None the tool's.
        noise: added to the seeds.
    """

    start: float = 0.0
    end: float = 1.0
    decodes: Callable[[int], bool] = lambda step: True
    keeps: str = "velocity"
    scale: float | None = None
    noise: int = 0


def every(k: int, first: int = 0) -> Callable[[int], bool]:
    """Decode at the first steps, then at every k-th."""
    return lambda step: step < first or (step - first) % k == 0


def ways() -> dict[str, Way]:
    found = {"full": Way(), "no guidance": Way(scale=1.0), "full, other seeds": Way(noise=50)}
    for start, end in ((0.0, 0.25), (0.0, 0.5), (0.0, 0.75), (0.1, 0.9), (0.25, 0.75), (0.25, 1.0), (0.5, 1.0)):
        found[f"interval {start:g} to {end:g}"] = Way(start, end)
    found["self"] = Way(decodes=lambda step: False, keeps="noise")
    found["initialize"] = Way(decodes=lambda step: step == 0)
    for k in (2, 3, 4, 6):
        for keeps in KEEPS:
            found[f"every {k}, keeps the {keeps}"] = Way(decodes=every(k), keeps=keeps)
    for k, first in ((2, 3), (3, 3), (3, 6), (4, 10)):
        found[f"{first} steps, then every {k}, keeps the push"] = Way(decodes=every(k, first), keeps="push")
    for k, end in ((2, 0.25), (3, 0.25), (2, 0.5), (3, 0.5)):
        found[f"every {k} to {end:g}, keeps the push"] = Way(end=end, decodes=every(k), keeps="push")
    found["16 steps, then keeps the push"] = Way(decodes=lambda step: step < 16, keeps="push")
    return found


class Kept:
    """Keeps what is wanted of the negatives, `[N, T, C]` each, with the sigma at which they were decoded."""

    def __init__(self, what: str, noise: Tensor) -> None:
        self.what = what
        self.found: list[tuple[float, Tensor]] = [(1.0, noise)] if what == "noise" else []

    def difference(self, v: Tensor, negative: Tensor | None, t: float) -> Tensor:
        """Return positive minus negative, or what stands for it where there is no negative."""
        if negative is not None:
            self.found.append((t, negative if self.what == "velocity" else v - negative))
            return v - negative
        at, last = self.found[-1]
        if self.what in ("velocity", "noise"):
            return v - last
        if self.what == "line" and len(self.found) > 1:
            before, older = self.found[-2]
            return last + (last - older) * ((t - at) / (at - before))
        return last


class Player:
    """Plays pieces side by side.

    Args:
        pieces: with a base model.
        count: steps.
        given: scale and the constants of guidance.
    """

    def __init__(self, pieces: Pieces, count: int, given: Guidance) -> None:
        self.pieces, self.given, n = pieces, given, len(pieces.pieces)
        self.times = sigmas(Sampling(steps=count))
        tokens = max(condition.length for condition in pieces.conditions)
        self.rows = pieces.engine.rows(2 * n, pieces.frames, tokens)
        for i, condition in enumerate(pieces.conditions):
            assert condition.null_tokens is not None, "a turbo model has no negative"
            null = condition.context if condition.null_context is None else condition.null_context
            self.rows.write(i, condition.tokens, condition.context)
            self.rows.write(n + i, condition.null_tokens, null)

    def velocities(self, x: Tensor, t: float, negative: bool) -> tuple[Tensor, Tensor | None]:
        """Decode the positive rows and, where asked, the negative ones."""
        n, frames = x.shape[:2]
        self.rows.active[n:] = negative
        self.rows.hidden_states.unflatten(0, (2, n))[:, :, :frames].copy_(x)
        self.rows.timestep.fill_(t)
        v = self.pieces.engine(self.rows)[:, :frames].unflatten(0, (2, n)).float().clone()
        return v[0], v[1] if negative else None

    def play(self, way: Way) -> tuple[Tensor, int]:
        """Make the latents `[N, T, C]`; returns them and the negative rows of a piece."""
        x = self.pieces.noise(way.noise)
        one = torch.ones(x.shape[0], 1, 1, device=x.device)
        g = self.given
        scale = float(g.scale) if way.scale is None else way.scale
        interval = Guidance(scale=scale, start=way.start, end=way.end)
        average, kept, decoded, guided = torch.zeros_like(x), Kept(way.keeps, x.clone()), 0, 0
        for t, t_next in zip(self.times, self.times[1:], strict=False):
            acts = interval.active and interval.acts_at(t)
            fresh = acts and way.decodes(guided)
            v, negative = self.velocities(x, t, fresh)
            if acts:
                difference = kept.difference(v, negative, t)
                moves = one > 0 if fresh or way.keeps != "push" else one < 0
                average = guidance.momentum(difference, average, float(g.momentum) * one, moves)
                v = guidance.apg(v, average, scale * one, g.eta * one, g.norm_limit * one, one > 0)
                guided, decoded = guided + 1, decoded + fresh
            x = steps.euler(x, v, t * one, t_next * one)
        return x, decoded


def judge(pieces: Pieces, clips: Sequence[Tensor]) -> dict[str, Any]:
    """Return tempo and key as the listener hears them: shares of the clips."""
    found = report([hear(clip.cpu().numpy()) for clip in clips], pieces.asked, Reference.load())
    return {name: found[name] for name in ("tempo", "key", "key_or_relative", "style")}


def measure(args: argparse.Namespace) -> None:
    pieces = Pieces("tiny-base", args.pieces, args.seconds, args.device)
    player = Player(pieces, args.steps, Guidance(scale=args.scale, norm_limit=args.norm_limit, momentum=args.momentum))
    figures = Figures(args)
    want: Tensor | None = None
    sounds: list[Tensor] = []
    for name, way in ways().items():
        if args.only and not any(word in name for word in ("full", *args.only)):
            continue
        began = time.perf_counter()
        latents, decoded = player.play(way)
        want = latents if want is None else want
        far = [relative(a, b) for a, b in zip(latents, want, strict=True)]
        row: dict[str, Any] = {"negative_rows": decoded, "rows_saved": round(0.5 - decoded / args.steps / 2, 3)}
        row |= {"latents": round(float(np.mean(far)), 4), "worst": round(max(far), 4)}
        if args.sound:
            clips = [pieces.sound(latent) for latent in latents]
            sounds = sounds or clips
            row["stft_db"] = round(float(np.mean([spectral(a, b) for a, b in zip(clips, sounds, strict=True)])), 3)
            row |= judge(pieces, clips)
        figures.add(name, row, began)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--scale", type=float, default=3.0)
    parser.add_argument("--momentum", type=float, default=Guidance.momentum)
    parser.add_argument("--norm-limit", type=float, default=Guidance.norm_limit)
    parser.add_argument("--only", nargs="*", help="words; ways that hold none of them are left out")
    with torch.inference_mode():
        measure(parser.parse_args())


if __name__ == "__main__":
    main()
