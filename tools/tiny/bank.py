"""Encoded pieces on the training device: shards are taken in as they appear, batches are drawn inside CUDA graphs.

Rows 2 n and 2 n + 1 are a piece and its cover.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .factory import COVER, FRAMES, REPAINT, ROLL, TOKENS, WORDINGS


@dataclass
class Batch:
    """The batch of one training step."""

    x0: Tensor  # [B, T, 64] latents
    ids: Tensor  # [B, TOKENS] prompt
    lengths: Tensor  # [B] tokens of it
    zeros: Tensor  # [B] silent lyric and timbre tokens
    context: Tensor  # [B, T, 128]
    roll: Tensor  # [B, T / 2, ROLL] what sounds
    phase: Tensor  # [B, T / 2, 4] place in the beat and in the bar


class Bank:
    """Pieces in the order of their shards; all of memory is taken at the start.

    Args:
        folder: of the shards.
        most: rows that find room.
        silence: a frame `[64]`.
        hints: latents `[n, T, 64]` to what a cover hears of them.
    """

    def __init__(self, folder: Path, most: int, silence: Tensor, hints: Callable[[Tensor], Tensor]) -> None:
        d = silence.device
        self.folder, self.most, self.silence, self.hints = folder, most, silence, hints
        self.have = self.shard = 0
        self.z = torch.zeros(most, FRAMES, 64, dtype=torch.half, device=d)
        self.ids = torch.zeros(most, WORDINGS, TOKENS, dtype=torch.int16, device=d)
        self.lens = torch.ones(most, WORDINGS, dtype=torch.int16, device=d)
        self.beats, self.metres = torch.ones(most, device=d), torch.ones(most, device=d)
        self.rolls = torch.zeros(most, FRAMES, ROLL, dtype=torch.uint8, device=d)
        self.count = torch.ones((), device=d)

    def load(self, shards: int) -> None:
        """Take in at most this many new shards."""
        for _ in range(shards):
            path = self.folder / f"s{self.shard:05d}.npz"
            if not path.exists():
                return
            d = np.load(path)
            n = len(d["z"])
            if self.have + n > self.most:
                return
            s = slice(self.have, self.have + n)
            places = (self.z, self.ids, self.lens, self.beats, self.metres)
            for place, name in zip(places, ("z", "ids", "lens", "beat", "metre"), strict=True):
                place[s].copy_(torch.from_numpy(d[name]))
            self.rolls[s].copy_(torch.from_numpy(np.unpackbits(d["roll"], axis=-1, count=ROLL)))
            self.have, self.shard = self.have + n, self.shard + 1
            self.count.fill_(self.have)

    def notes(self, n: int, frames: int) -> tuple[Tensor, Tensor]:
        """Latents `[n, frames, 64]` of windows anywhere, and what sounds in them `[n, frames, ROLL]`."""
        i = (torch.rand(n, device=self.z.device) * self.count).long()
        at = (torch.rand(n, 1, device=self.z.device) * (FRAMES - frames)).long()
        rows = at + torch.arange(frames, device=self.z.device)
        return self.z[i[:, None], rows].float(), self.rolls[i[:, None], rows].float()

    def batch(self, n: int, frames: int) -> Batch:
        """Windows that start at a bar.

        Where the wording asks for a repaint, most of the piece is in the context. Where it asks for a cover, the
        context has the hints of the same notes on other instruments; no other wording has a cover as its piece.
        """
        d = self.z.device
        rand = lambda *shape: torch.rand(*shape, device=d)  # noqa: E731
        span = torch.arange(frames, device=d)
        c = (rand(n) * WORDINGS).long()
        i = 2 * (rand(n) * self.count / 2).long() + ((c >= COVER) & (rand(n) < 0.5)).long()
        bar = self.beats[i] * self.metres[i]
        most = ((FRAMES - frames) / 25 / bar).floor()
        k = (rand(n) * (most + 1)).floor() * (rand(n) < 0.6)
        rows = (k * bar * 25).round().long().clamp(max=FRAMES - frames)[:, None] + span
        x0 = self.z[i[:, None], rows].float()
        roll = self.rolls[i[:, None], rows].view(n, frames // 2, 2, ROLL).amax(2)
        turn = (rows[:, ::2] / 25 / self.beats[i][:, None]) * 2 * math.pi
        bar_turn = turn / self.metres[i][:, None]
        phase = torch.stack([turn.cos(), turn.sin(), bar_turn.cos(), bar_turn.sin()], -1)
        a = rand(n, 1) * 0.8 * frames
        b = a + (0.15 + 0.6 * rand(n, 1)) * frames
        inside = ((span >= a) & (span < b) | (c != REPAINT)[:, None])[..., None]
        source = torch.where(inside, self.silence.expand_as(x0), x0)
        hints = self.hints(self.z[(i ^ 1)[:, None], rows].float())
        source = torch.where((c >= COVER)[:, None, None], hints, source)
        context = torch.cat([source, inside.float().expand_as(x0)], -1)
        few, many = (rand(n) * 18).long() + 12, (rand(n) * 570).long() + 30
        zeros = torch.where(rand(n) < 0.85, few, many)
        return Batch(x0, self.ids[i, c].long(), self.lens[i, c].long(), zeros, context, roll, phase)
