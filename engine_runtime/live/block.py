"""Pieces of a live session's sound, and the latents they were decoded from.

A position is a sample counted from the start of the session at 48 kHz.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .line import Heard

WIDE = 32_767.0  # the largest sample of int16


@dataclass(frozen=True)
class Block:
    """A piece of sound.

    Attributes:
        epoch: counts the times that the sound began anew; blocks of another epoch do not join.
        position: of its first sample.
        heard: the changes in its music; `at` is the first position that has them.
        pcm: int16, left and right in turn, little-endian.
    """

    epoch: int
    position: int
    heard: Heard
    at: int
    pcm: bytes

    @property
    def samples(self) -> int:
        return len(self.pcm) // 4

    @property
    def end(self) -> int:
        return self.position + self.samples


def decoded_pcm(pcm: bytes) -> NDArray[np.float32]:
    """Return the samples of a block's bytes: `[2, samples]` in [-1, 1]."""
    return np.frombuffer(pcm, "<i2").reshape(-1, 2).T.astype(np.float32) / np.float32(WIDE)


@dataclass(frozen=True)
class Moment:
    """One decoded window: its first frame, its latents `[W, C]` on the CPU, and its block."""

    frame: int
    latents: Tensor
    block: Block

    def until(self, frame: int) -> Moment:
        """Return the part of it before a frame."""
        count = frame - self.frame
        if count >= self.latents.shape[0]:
            return self
        size = len(self.block.pcm) // self.latents.shape[0]
        block = replace(self.block, pcm=self.block.pcm[: count * size])
        return Moment(self.frame, self.latents[:count], block)
