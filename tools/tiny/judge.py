"""Held-out prompts, sampling from the trainer's networks, and what the detectors say of the clips."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from . import net
from .composer import Piece, compose
from .factory import TOKENS
from .graphs import log
from .listen import Heard, Reference, hear, report
from .shards import HELD_OUT
from .vae import load_vae
from .words import Wording, caption, prompt_text

SHIFT, LYRICS = 3.0, 20  # of the schedule; silent tokens of a prompt without lyrics
_AT_ONCE = 8  # clips decoded together


def asked_of(pieces: Iterable[Piece]) -> list[dict]:
    """Prompts as typed, and what is true of the pieces they are worded for; tempo and key are always given."""
    r, out = random.Random(5), []
    for p in pieces:
        truth = asdict(p) | {"key": p.key, "tags": caption(p, r).tags}
        for name in ("notes", "programs", "kit", "seconds"):
            del truth[name]
        out.append(truth)
    return out


def held_out(count: int) -> list[Piece]:
    """The first pieces that no training has."""
    return [compose(seed) for seed in range(HELD_OUT, HELD_OUT + count)]


class Judge:
    """Samples clips for prompts.

    Args:
        folder: for latents, prompts and `judged.jsonl`.
        vae: file of the newest VAE, read anew for each judgement.
        silence: a frame `[64]` on the device that samples.
        asked: of `asked_of`.
        task: which the prompts name.
    """

    def __init__(
        self,
        folder: Path,
        vae: str,
        tok: Tokenizer,
        silence: Tensor,
        asked: list[dict],
        frames: int = 250,
        task: str = "text2music",
        procs: int = 4,
    ) -> None:
        self.folder, self.vae, self.frames = folder, vae, frames
        self.asked, d, prompts = asked, silence.device, len(asked)
        ids, lengths = torch.zeros(prompts, TOKENS, dtype=torch.long), torch.zeros(prompts, dtype=torch.long)
        for i, a in enumerate(self.asked):
            said = Wording(a["tags"], a["bpm"], a["key"], str(a["metre"]))
            found = tok.encode(prompt_text(said, frames // 25, task)).ids[:TOKENS]
            ids[i, : len(found)], lengths[i] = torch.tensor(found), len(found)
        self.ids, self.lengths = ids.to(d), lengths.to(d)
        self.zeros = torch.full((prompts,), LYRICS, device=d)
        self.no = torch.zeros(prompts, dtype=torch.bool, device=d)
        self.plain = torch.cat([silence.expand(1, frames, 64), torch.ones(1, frames, 64, device=d)], -1)
        self.pool = ProcessPoolExecutor(procs)
        (folder / "prompts.json").write_text(json.dumps(self.asked, indent=0), encoding="utf-8")

    @torch.no_grad()
    def sample(self, parts: nn.ModuleDict, steps: int, guide: float, context: Tensor | None = None) -> Tensor:
        """Latents `[prompts, frames, 64]` by Euler steps; plain guidance where `guide` is not 1.

        Args:
            context: `[prompts, frames, 128]`, else that of a piece made of text alone.
        """
        n, d, dit = len(self.asked), self.plain.device, parts["transformer"]
        x = torch.randn(n, self.frames, 64, generator=torch.Generator(d).manual_seed(3), device=d)
        context = self.plain.expand(n, -1, -1) if context is None else context
        with torch.autocast(d.type, torch.bfloat16):
            keys, bias = net.condition(parts, self.ids, self.lengths, self.zeros, self.no)
            null, null_bias = net.condition(parts, self.ids, self.lengths, self.zeros, ~self.no)
            times = net.schedule(steps, SHIFT, d)
            for a, b in zip(times, times[1:], strict=False):
                t = a.expand(n)
                v = net.velocity(dit, x, t, keys, bias, context).float()
                if guide != 1:
                    u = net.velocity(dit, x, t, null, null_bias, context).float()
                    v = u + guide * (v - u)
                x = x + (b - a) * v
        return x

    @torch.no_grad()
    def listen(self, latents: Tensor) -> list[Heard]:
        """Decode and listen."""
        vae, clips = load_vae(self.vae, latents.device.type), []
        with torch.autocast(latents.device.type, torch.bfloat16):
            for part in latents.transpose(1, 2).split(_AT_ONCE):
                clips += list(vae.decode(part).clamp(-1, 1).cpu().numpy())
        return list(self.pool.map(hear, clips))

    def judge_all(self, name: str, ways: Sequence[str], parts: nn.ModuleDict) -> None:
        """Sample, keep and judge one set of clips for each of STEPSgGUIDANCE; `judged.jsonl` has the reports."""
        for way in ways:
            steps, guide = way.split("g")
            latents = self.sample(parts, int(steps), float(guide))
            np.save(self.folder / f"latents_{name}{way}.npy", latents.half().cpu().numpy())
            found = {"name": f"{name}{way}"} | report(self.listen(latents), self.asked, Reference.load())
            with (self.folder / "judged.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(found) + "\n")
            log.info("judged %s", json.dumps(found))
