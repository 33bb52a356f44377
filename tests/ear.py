"""A listener of a live session, as a player is one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from ostinato.engine_runtime.live.block import Block
from ostinato.engine_runtime.live.score import Cost
from ostinato.engine_runtime.live.session import LiveSession
from ostinato.engine_runtime.spec import ACE_STEP

SAMPLE_RATE = ACE_STEP.sample_rate
LEAD = 2400  # samples, 50 ms
PATIENCE = 60.0  # seconds: the cores are shared


def until(done: Callable[[], bool]) -> None:
    """Wait until something is so, while nobody listens."""
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end
        time.sleep(0.002)


class Clock:
    """Stands still until a test moves it, so that no machine is too slow."""

    now = 100.0  # seconds

    def __call__(self) -> float:
        return self.now


class Tone:
    """A decoder that costs nothing: each frame is a tone, as loud as its latents."""

    config = SimpleNamespace(decoder_input_channels=ACE_STEP.channels, audio_channels=2, sampling_rate=SAMPLE_RATE)
    upsampling_ratios = [ACE_STEP.hop]  # noqa: RUF012
    device, dtype = torch.device("cpu"), torch.float32

    def decoder(self, latents: torch.Tensor) -> torch.Tensor:
        """`[B, C, T]` to `[B, 2, hop T]`."""
        wave = torch.sin(torch.arange(ACE_STEP.hop) * (8 * torch.pi / ACE_STEP.hop))  # 100 Hz
        loud = latents.square().mean(1).sqrt()
        return 0.1 * (loud[:, :, None] * wave).flatten(1)[:, None].expand(-1, 2, -1)


def turn(session: LiveSession, change: int, **knobs: Any) -> Cost:
    """Turn hot knobs."""
    return session.play(replace(session.score, knobs=session.score.knobs.changed(**knobs)), change)


class Ear:
    """A listener that takes what comes, joins it as a player does, and moves on at once to where there is sound."""

    def __init__(self, session: LiveSession) -> None:
        self.session, self.blocks, self.errors, self.position = session, list[Block](), list[Exception](), 0
        session.attach(self)

    def block(self, block: Block) -> None:
        self.blocks.append(block)

    def changed(self) -> None:
        pass

    def failed(self, error: Exception) -> None:
        self.errors.append(error)

    def until(self, done: Callable[[], bool], moving: bool = True) -> None:
        """Listen until something is so."""
        end = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < end, (self.errors, len(self.blocks), self.session.figures())
            if moving and self.blocks:
                self.position = max(self.position, self.blocks[-1].end - LEAD)
            self.session.report(self.session.epoch, self.position, LEAD, False)
            time.sleep(0.002)

    def heard(self, change: int) -> Callable[[], bool]:
        return lambda: any(block.heard.hot >= change for block in list(self.blocks))

    def played(self, seconds: float) -> Callable[[], bool]:
        return lambda: self.position >= seconds * SAMPLE_RATE

    @property
    def sound(self) -> np.ndarray:
        """What a player makes of it: a block takes the place of what lies there."""
        blocks = list(self.blocks)  # more may come meanwhile
        pcm = np.zeros((max(block.end for block in blocks), 2), np.int16)
        for block in blocks:
            pcm[block.position : block.end] = np.frombuffer(block.pcm, "<i2").reshape(-1, 2)
        return pcm
