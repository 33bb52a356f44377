"""Held-out prompts, sampling from the trainer's networks, and what the detectors say of the clips."""

from __future__ import annotations

import json
import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from . import net
from .composer import compose
from .factory import TOKENS
from .graphs import log
from .listen import Reference, hear, report
from .shards import HELD_OUT
from .vae import load_vae
from .words import Wording, caption, prompt_text

SHIFT, LYRICS = 3.0, 20  # of the schedule; silent tokens of a prompt without lyrics
_AT_ONCE = 8  # clips decoded together


def asked_of(prompts: int) -> list[dict]:
    """Held-out prompts as typed, and what is true of the pieces they are worded for; tempo and key are always given."""
    r, out = random.Random(5), []
    for seed in range(HELD_OUT, HELD_OUT + prompts):
        p = compose(seed)
        truth = asdict(p) | {"key": p.key, "tags": caption(p, r).tags}
        for name in ("notes", "programs", "kit", "seconds"):
            del truth[name]
        out.append(truth)
    return out


class Judge:
    """Samples clips for the held-out prompts.

    Args:
        folder: for latents, prompts and `judged.jsonl`.
        vae: file of the newest VAE, read anew for each judgement.
        silence: a frame `[64]` on the device that samples.
    """

    def __init__(
        self, folder: Path, vae: str, tok: Tokenizer, silence: Tensor, prompts: int, frames: int = 250
    ) -> None:
        self.folder, self.vae, self.frames = folder, vae, frames
        self.asked, d = asked_of(prompts), silence.device
        ids, lengths = torch.zeros(prompts, TOKENS, dtype=torch.long), torch.zeros(prompts, dtype=torch.long)
        for i, a in enumerate(self.asked):
            said = Wording(a["tags"], a["bpm"], a["key"], str(a["metre"]))
            found = tok.encode(prompt_text(said, frames // 25)).ids[:TOKENS]
            ids[i, : len(found)], lengths[i] = torch.tensor(found), len(found)
        self.ids, self.lengths = ids.to(d), lengths.to(d)
        self.zeros = torch.full((prompts,), LYRICS, device=d)
        self.no = torch.zeros(prompts, dtype=torch.bool, device=d)
        self.plain = torch.cat([silence.expand(1, frames, 64), torch.ones(1, frames, 64, device=d)], -1)
        self.pool = ProcessPoolExecutor(4)
        (folder / "prompts.json").write_text(json.dumps(self.asked, indent=0), encoding="utf-8")

    @torch.no_grad()
    def sample(self, parts: nn.ModuleDict, steps: int, guide: float) -> Tensor:
        """Latents `[prompts, frames, 64]` by Euler steps; plain guidance where `guide` is not 1."""
        n, d, dit = len(self.asked), self.plain.device, parts["transformer"]
        x = torch.randn(n, self.frames, 64, generator=torch.Generator(d).manual_seed(3), device=d)
        context = self.plain.expand(n, -1, -1)
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
    def judge(self, name: str, latents: Tensor) -> dict:
        """Decode, keep the latents, listen; the report, which `judged.jsonl` gets too."""
        vae, clips = load_vae(self.vae, latents.device.type), []
        with torch.autocast(latents.device.type, torch.bfloat16):
            for part in latents.transpose(1, 2).split(_AT_ONCE):
                clips += list(vae.decode(part).clamp(-1, 1).cpu().numpy())
        np.save(self.folder / f"latents_{name}.npy", latents.half().cpu().numpy())
        found = report(list(self.pool.map(hear, clips)), self.asked, Reference.load()) | {"name": name}
        with (self.folder / "judged.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")
        log.info("judged %s", json.dumps(found))
        return found
