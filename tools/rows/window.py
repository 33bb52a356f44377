"""Measures a windowed stream: what denoising only a stretch of the music saves, and how far it is from the whole.

python -m ostinato.tools.rows.window OUT.json [--pieces 12] [--seconds 10 16]

The built-in turbo model makes every piece whole, and then W seconds of it again together with C seconds on each side,
from the same noise. Three ways are tried, by what the C seconds are at each step:

- `free`: denoised along, and thrown away;
- `kept`: the finished whole's, as in a repaint: `t * noise + (1 - t) * whole`;
- `own`: the very states that the whole had at this step. No stream can have these where a knob has moved since; it says
  what is lost by not seeing the rest.

The W seconds then stand in the whole's place and are compared with it: latents, the sound of the W seconds, and the
sound about both seams. For scale, the same of another seed, of the whole under a hot
knob (velocity scale 1.02), and of the whole in bfloat16. N pieces, T frames, C
channels.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...engine_runtime.audio.decode import decode, hop_of, margin_frames
from ...engine_runtime.bench.case import Case
from ...engine_runtime.bench.floor import products
from ...engine_runtime.config import Sampling
from ...engine_runtime.models.sized import SIZES as DECODERS
from ...engine_runtime.numerics import steps
from ...engine_runtime.numerics.schedule import sigmas
from .command import Figures, options
from .pieces import Pieces, relative, spectral

RATE = 25  # frames a second
NEAR = 6  # frames on each side of a seam that are compared, about a quarter of a second
KINDS = ("free", "kept", "own")
DENOISE = (1.0, 0.5, 0.3)  # below 1 from a source: the same prompt from another seed
SIZES = {  # W and C in seconds, by T
    10: ((1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (2, 3), (4, 1), (4, 2)),
    16: ((2, 2), (2, 4), (2, 6), (4, 1), (4, 2), (4, 4), (8, 2)),
    32: ((2, 4), (2, 8), (4, 4), (4, 8), (8, 4), (8, 8)),
}


@dataclass(frozen=True)
class Whole:
    """Pieces that were denoised whole: every state `[N, T, C]`, from noise to music."""

    noise: Tensor
    states: list[Tensor]

    @property
    def music(self) -> Tensor:
        return self.states[-1]


class Player:
    """Denoises pieces side by side, whole or a stretch of each."""

    def __init__(self, pieces: Pieces) -> None:
        self.pieces = pieces
        self.tokens = max(condition.length for condition in pieces.conditions)

    def whole(self, denoise: float, source: Tensor | None = None, offset: int = 0, gain: float = 1.0) -> Whole:
        drawn, times = self.pieces.noise(offset), sigmas(Sampling(denoise=denoise))
        x = steps.start(drawn, source, times[0])
        return Whole(drawn, self._run(x, times, [0] * len(drawn), gain=gain))

    def stretch(
        self, whole: Whole, denoise: float, first: Sequence[int], frames: int, context: int, kind: str
    ) -> Tensor:
        """Make `frames` of each piece again, from its frame `first` on; returns them, `[N, frames, C]`."""
        begins = [at - context for at in first]
        length = frames + 2 * context
        drawn, *states = (_cut(x, begins, length) for x in (whole.noise, *whole.states))
        mask = torch.zeros(1, length, 1, device=whole.noise.device)
        mask[:, context : context + frames] = 1.0
        kept = {"free": None, "kept": [states[-1]] * len(states), "own": states}[kind]
        times, noise = sigmas(Sampling(denoise=denoise)), drawn if kind == "kept" else None
        x = self._run(states[0], times, begins, mask, kept, noise)
        return x[-1][:, context : context + frames]

    def _run(
        self,
        x: Tensor,
        times: Sequence[float],
        begins: Sequence[int],
        mask: Tensor | None = None,
        kept: Sequence[Tensor] | None = None,
        noise: Tensor | None = None,
        gain: float = 1.0,
    ) -> list[Tensor]:
        """Denoise from `x`; where the mask is 0 the decoder sees what is kept, at the noise of the step."""
        n, frames = x.shape[:2]
        rows, out = self.pieces.engine.rows(n, frames, self.tokens), [x]
        for i, (condition, at) in enumerate(zip(self.pieces.conditions, begins, strict=True)):
            rows.write(i, condition.tokens, condition.context[at : at + frames])
        for step, (t, t_next) in enumerate(zip(times, times[1:], strict=False)):
            seen = x
            if kept is not None and mask is not None:
                held = kept[step] if noise is None else t * noise + (1.0 - t) * kept[step]
                seen = mask * x + (1.0 - mask) * held
            rows.hidden_states[:, :frames].copy_(seen)
            rows.timestep.fill_(t)
            x = x + (t_next - t) * gain * self.pieces.engine(rows)[:, :frames].float()
            out.append(x)
        return out


def _cut(x: Tensor, begins: Sequence[int], length: int) -> Tensor:
    return torch.stack([row[at : at + length] for row, at in zip(x, begins, strict=True)])


def heard(pieces: Pieces, latent: Tensor, first: int, frames: int) -> Tensor:
    """Decode a stretch and `NEAR` frames on each side, `[2, samples]`."""
    vae = pieces.model.pipe.vae
    margin, begin, end = margin_frames(vae), first - NEAR, first + frames + NEAR
    a, b = max(0, begin - margin), min(latent.shape[0], end + margin)
    return decode(vae, latent[None, a:b])[0][:, (begin - a) * hop_of(vae) : (end - a) * hop_of(vae)]


def compare(pieces: Pieces, want: Tensor, got: Tensor, first: Sequence[int], sound: bool) -> dict[str, float]:
    """Compare stretches `[N, frames, C]` with the music `[N, T, C]` in whose place they stand: means over the pieces.

    `jump` is the step of the latents over a seam, in mean steps from frame to frame of the music.
    """
    frames, rows = got.shape[1], []
    for music, part, at in zip(want, got, first, strict=True):
        spliced = music.clone()
        spliced[at : at + frames] = part
        apart = (spliced[1:] - spliced[:-1]).norm(dim=1)
        usual = (music[1:] - music[:-1]).norm(dim=1).mean()
        row = [relative(part, music[at : at + frames]), float(apart[[at - 1, at + frames - 1]].mean() / usual)]
        if sound:
            a, b = (heard(pieces, latent, at, frames) for latent in (spliced, music))
            reach, hop = 2 * NEAR * hop_of(pieces.model.pipe.vae), NEAR * hop_of(pieces.model.pipe.vae)
            row.append(spectral(a[:, hop:-hop], b[:, hop:-hop]))
            row.append((spectral(a[:, :reach], b[:, :reach]) + spectral(a[:, -reach:], b[:, -reach:])) / 2)
        rows.append(row)
    names = ("latents", "jump", "stft_db", "seam_db")
    found = dict(zip(names, np.mean(rows, 0).round(4).tolist(), strict=False))
    return found | {"worst": round(float(np.max(rows, 0)[0]), 4)}


def places(frames: int, stretch: int, context: int, count: int) -> list[int]:
    """Spread the first frames of stretches over all places with their context in the music."""
    room = frames - stretch - 2 * context
    return [context + round(room * (n + 0.5) / count) for n in range(count)]


def cost(seconds: float) -> dict[str, dict[str, float]]:
    """Return the milliseconds of one decoder row of all of T and of each W + 2 C, on the CPU with one thread, and the
    2B decoder's matrix products as a share of those of T.
    """
    config = {**DECODERS["2b"], "in_channels": 192, "audio_acoustic_hidden_dim": 64, "patch_size": 2}
    found: dict[str, dict[str, float]] = {}
    lengths = {w + 2 * c for w, c in SIZES[int(seconds)]}
    flops = {s: sum(p.flops for p in products(config, Case(seconds=s, cfg="off"))) for s in (*lengths, seconds)}
    for length in (seconds, *sorted(lengths)):
        pieces = Pieces("tiny", 1, length)
        rows = pieces.engine.rows(1, pieces.frames, pieces.conditions[0].length)
        rows.write(0, pieces.conditions[0].tokens, pieces.conditions[0].context)
        times = []
        for _ in range(30):
            began = time.perf_counter()
            pieces.engine(rows)
            times.append(time.perf_counter() - began)
        ms, share = 1e3 * statistics.median(times), flops[length] / flops[seconds]
        found[f"T {seconds:g}, {length:g} s"] = {"cpu_ms": round(ms, 2), "products": round(share, 3)}
    return found


def measure(args: argparse.Namespace) -> None:
    figures = Figures(args)
    for seconds in args.seconds:
        if args.cost:
            for name, row in cost(seconds).items():
                figures.add(name, row, time.perf_counter())
            continue
        pieces, narrow = (
            Pieces("tiny", args.pieces, seconds, args.device, dtype) for dtype in (torch.float32, torch.bfloat16)
        )
        player = Player(pieces)
        other = player.whole(1.0, offset=50).music
        for denoise in args.denoise:
            began = time.perf_counter()
            source = None if denoise == 1.0 else other
            whole = player.whole(denoise, source)
            first = places(pieces.frames, 2 * RATE, RATE, args.pieces)
            for name, theirs in (
                ("another seed", player.whole(denoise, source, 100)),
                ("velocity scale 1.02", player.whole(denoise, source, gain=1.02)),
                ("bfloat16", Player(narrow).whole(denoise, source)),
            ):
                part = _cut(theirs.music, first, 2 * RATE)
                row = compare(pieces, whole.music, part, first, args.sound)
                figures.add(f"T {seconds:g}, denoise {denoise:g}, {name}", row, began)
            for size, around in SIZES[int(seconds)]:
                frames, context = size * RATE, around * RATE
                first = places(pieces.frames, frames, context, args.pieces)
                for kind in KINDS:
                    began = time.perf_counter()
                    part = player.stretch(whole, denoise, first, frames, context, kind)
                    row = {"share": round((frames + 2 * context) / pieces.frames, 3)}
                    row |= compare(pieces, whole.music, part, first, args.sound)
                    figures.add(f"T {seconds:g}, denoise {denoise:g}, W {size}, C {around}, {kind}", row, began)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--seconds", type=float, nargs="*", default=[float(s) for s in SIZES])
    parser.add_argument("--denoise", type=float, nargs="*", default=list(DENOISE))
    parser.add_argument("--cost", action="store_true", help="of a row, and nothing else")
    with torch.inference_mode():
        measure(parser.parse_args())


if __name__ == "__main__":
    main()
