"""A listener of a live session, as a player is one."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from ostinato.engine_runtime.live.block import Block
from ostinato.engine_runtime.live.session import LiveSession
from ostinato.engine_runtime.spec import ACE_STEP

SAMPLE_RATE = ACE_STEP.sample_rate
LEAD = 2400  # samples, 50 ms
PATIENCE = 60.0  # seconds: the cores are shared


class Ear:
    """A listener that takes what comes, joins it as a player does, and moves on when told.

    Args:
        real: it takes its time; else it hears all that there is at once.
    """

    def __init__(self, session: LiveSession, real: bool = False) -> None:
        self.real, self._last = real, time.monotonic()
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
            now = time.monotonic()
            passed, self._last = int((now - self._last) * SAMPLE_RATE), now
            if moving and self.blocks:
                ready = self.blocks[-1].end - LEAD
                self.position = max(self.position, min(ready, self.position + passed) if self.real else ready)
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
