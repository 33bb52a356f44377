"""Judges what the installed pack does with held-out pieces: python -m ostinato.tools.tiny.tasks SOUNDFONT OUT.json

Through `tiny`, its engine and its stream, at 8 steps: denoise 0.3 and 1.0 with the words of another piece, a repaint of
two seconds with a mask, and a cover. OUT.json is written anew after every part.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...engine_runtime.audio.decode import decode
from ...engine_runtime.audio.encode import encode_audio
from ...engine_runtime.config import Sampling, StreamConfig
from ...engine_runtime.models.conditioning import encode_prompt
from ...engine_runtime.models.engines import eager_engine
from ...engine_runtime.models.loading import load, pick_device
from ...engine_runtime.models.prompt import Prompt
from ...engine_runtime.stream.request import Request
from ...engine_runtime.stream.sessions import runtime
from . import detect
from .composer import Piece
from .covers import cover
from .evaluate import alike
from .graphs import begin, log
from .judge import asked_of, held_out
from .listen import Reference, hear
from .render import Renderer

SECONDS, WINDOW = 10, (4.0, 6.0)
FIRST, LAST = 3 * detect.RATE, 7 * detect.RATE  # samples: a second about the window, which the decoder blurs
DENOISE = (0.3, 1.0)


class Tasks:
    def __init__(self, soundfont: str, out: Path, clips: int) -> None:
        self.out, self.figures = out, dict[str, dict]()
        self.model = load("tiny", pick_device("cpu"), torch.float32)
        self.engine, renderer = eager_engine(self.model), Renderer(soundfont)
        self.pieces = [p for p in held_out(2 * clips) if not p.only][:clips]
        self.audio = [renderer.render(p)[:, : SECONDS * detect.RATE] for p in self.pieces]
        self.renderer = renderer
        self.sources = [encode_audio(self.model, torch.from_numpy(y), detect.RATE) for y in self.audio]

    def words(self, p: Piece, task: str = "text2music", **given: float) -> Prompt:
        asked = asked_of([p])[0]
        return Prompt(
            asked["tags"], bpm=p.bpm, key=p.key, time_signature=str(p.metre), seconds=SECONDS, task=task, **given
        )

    def play(self, make: Callable[[int], Request]) -> list[Tensor]:
        """Latents of the request of each piece, in order."""
        requests = [make(n) for n in range(len(self.pieces))]
        found: dict[int, Tensor] = {}
        with runtime().playing("tasks", self.engine, StreamConfig(depth=4, queue=len(requests))) as session:
            for done in session.play(requests):
                found[id(done.request)] = done.take()
        return [found[id(request)] for request in requests]

    def request(self, n: int, prompt: Prompt, denoise: float = 1.0, **given: Tensor) -> Request:
        source = self.sources[n]
        condition = encode_prompt(self.model, prompt, source)
        return Request(condition, Sampling(seed=100 + n, denoise=denoise), source=source, **given)

    def sound(self, latent: Tensor) -> np.ndarray:
        return decode(self.model.pipe.vae, latent[None])[0].numpy()

    def tell(self, part: str, found: dict) -> None:
        self.figures[part] = {"clips": len(self.pieces)} | found
        log.info("%s %s", part, json.dumps(self.figures[part]))
        self.out.write_text(json.dumps(self.figures, indent=1), encoding="utf-8")

    def denoise(self) -> None:
        """Compare the onsets of the source with those of what is made of it."""
        before = [detect.onsets(y) for y in self.audio]
        words = [self.words(p) for p in (*self.pieces[1:], self.pieces[0])]
        for denoise in DENOISE:
            latents = self.play(lambda n, d=denoise: self.request(n, words[n], d))
            onsets = [detect.onsets(self.sound(latent)) for latent in latents]
            found = [float(np.corrcoef(a, b)[0, 1]) for a, b in zip(before, onsets, strict=True)]
            self.tell(f"denoise {denoise}", {"onsets": spread(found)})

    def repaint(self) -> None:
        """The largest change of samples a second outside the window, and the mean change inside."""
        a, b = (int(t * 25) for t in WINDOW)
        mask = torch.zeros_like(self.sources[0])
        mask[a:b] = 1
        given = {"repaint_start": WINDOW[0], "repaint_end": WINDOW[1]}
        latents = self.play(lambda n: self.request(n, self.words(self.pieces[n], "repaint", **given), mask=mask))
        outside, inside, far = [], [], []
        for source, latent in zip(self.sources, latents, strict=True):
            y, x = self.sound(latent), self.sound(source)
            far.append(float(((latent - source).abs() * (1 - mask)).max()))
            outside.append(float(np.abs(y - x)[:, np.r_[0:FIRST, LAST : y.shape[1]]].max()))
            inside.append(float(np.sqrt(np.square(y - x)[:, FIRST:LAST].mean() / np.square(x)[:, FIRST:LAST].mean())))
        self.tell("repaint", {"latents_outside": spread(far), "outside": spread(outside), "inside": spread(inside)})

    def cover(self) -> None:
        """As tools.tiny.evaluate judges covers; the pack samples the VAE's posterior."""
        others = [cover(p) for p in self.pieces]
        latents = self.play(lambda n: self.request(n, self.words(others[n], "cover")))
        before, same, found = (
            [hear(y) for y in some]
            for some in (self.audio, map(self.renderer.render, others), map(self.sound, latents))
        )
        self.tell("cover", alike(Reference.load(), before, same, found, asked_of(others)))


def spread(values: list[float]) -> dict[str, float]:
    """Mean, lowest and highest."""
    return {k: round(float(f(values)), 4) for k, f in (("mean", np.mean), ("lowest", min), ("highest", max))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("soundfont")
    parser.add_argument("out", type=Path)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--parts", nargs="*", default=["denoise", "cover", "repaint"])
    args = parser.parse_args()
    tasks = Tasks(args.soundfont, args.out, args.clips)
    for part in args.parts:
        getattr(tasks, part)()


if __name__ == "__main__":
    begin(0)
    main()
