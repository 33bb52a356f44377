"""Plays a ring that stays full, with every request prepared beforehand."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ..config import Sampling, StreamConfig
from ..controls.knobs import Knobs
from ..engines.contract import Engine
from ..errors import EngineError
from ..profile.drive import Drive, Laps, awake, driven
from ..stream.finished import Finished
from ..stream.request import Condition, Request, Target
from .case import Case

POOL = 4  # conditions and noises that the requests share in turn
# Fewest ticks of a full ring before any is timed; each step of a request comes twice in them, because the second one is
# captured.
WARM = 8


class Work:
    """Makes the requests of a case from seeds alone.

    Their tensors lie on the engine's device, so that a request that takes a slot is copied there only.
    """

    def __init__(self, engine: Engine, case: Case) -> None:
        self.case, self._device, self._spec = case, engine.device, engine.spec
        self._generator = torch.Generator().manual_seed(0)
        null = self._drawn(1, engine.width).to(engine.dtype) if case.row_mode != "off" else None
        self._conditions = [self._condition(engine, null) for _ in range(POOL)]
        self._noises = [self._drawn(case.frames, self._spec.channels) for _ in range(POOL)]
        self.knobs = Knobs(dcw=case.dcw)
        if case.controls:
            self._source = self._drawn(case.frames, self._spec.channels)
            self._mask = (self._drawn(case.frames, self._spec.channels) > 0).float()
            self.knobs = self._turned()

    def config(self, ticks: int, captured: bool) -> StreamConfig:
        """Return the settings of each session, which plays `ticks` ticks after its warm-up."""
        case, queue = self.case, self.later(ticks)
        rows: dict[str, Any] = {"guidance": case.row_mode, "tokens": case.tokens}
        return StreamConfig(depth=case.depth, queue=queue, spread=False, captured=captured, **rows)

    @property
    def warm(self) -> int:
        """Return the number of ticks of a full ring before any is timed."""
        return self.case.whole(max(WARM, 2 * self.case.steps))

    @property
    def hurry(self) -> int:
        """Return the ticks until the host is as far ahead as allowed; up to then it allocates pinned memory."""
        return self.case.whole(self.case.ahead)

    def later(self, ticks: int) -> int:
        """Return how many requests of a session take a slot after the first ones, within those ticks."""
        return self.case.depth * (self.warm + self.hurry + self.case.whole(ticks)) // self.case.steps

    def request(self, i: int) -> Request:
        """Make the i-th request of the stream."""
        condition, noise = self._conditions[i % POOL], self._noises[i % POOL]
        if not self.case.controls:
            return Request(condition, Sampling(self.case.steps, seed=i), self.case.guidance, noise=noise)
        solver = ("sde", "ode")[i % self.case.slots % 2]  # a slot keeps its solver
        sampling = Sampling(self.case.steps, seed=i, solver=solver)
        shape: dict[str, Any] = {"source": self._source, "mask": self._mask, "mask_strength": (1.0, 0.5)}
        return Request(condition, sampling, self.case.guidance, noise=noise, target=Target(self._source), **shape)

    def _condition(self, engine: Engine, null: Tensor | None) -> Condition:
        tokens, context = self._drawn(self.case.tokens, engine.width), self._drawn(self.case.frames, self._spec.context)
        return Condition(tokens.to(engine.dtype), context.to(engine.dtype), null, spec=self._spec)

    def _turned(self) -> Knobs:
        """Set every knob away from its neutral value, as a curve where it takes one."""
        frames = self.case.frames
        line = torch.linspace(0.9, 1.1, frames)
        gain = 0.5 + torch.rand(frames, self._spec.channels, generator=self._generator)
        guided: dict[str, Any] = (
            {} if self.case.cfg == "off" else {"guidance_scale": 5 * line, "momentum": -0.5 * line, "rescale": 0.3}
        )
        pull: dict[str, Any] = {"sde": line - 0.3, "target_strength": 0.2 * line}
        bands: dict[str, Any] = {"dcw": True, "dcw_low": 0.05 * line, "dcw_high": 0.02 * line}
        return Knobs(velocity_scale=line, ode_noise=0.1 * line, channel_gain=gain, **pull, **bands, **guided)

    def _drawn(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator).to(self._device)


class Steady:
    """Sessions that `steady` opened, all on one stage.

    Attributes:
        first_s: seconds from the first request, of sessions just opened, to its latent.
        work: hash of the latents that finished while it warmed up: the same where the work is the same.
    """

    def __init__(self, drive: Drive, work: Work, ticks: int) -> None:
        self.drive, self._left, self._ahead = drive, work.case.whole(ticks), work.case.ahead
        self.first_s, self.work = self._fill(work, ticks)

    def run(self, ticks: int, around: Callable[[], AbstractContextManager] = nullcontext) -> Laps:
        """Play; every step runs in a context of its own. Ends with the device idle.

        Raises:
            ValueError: for more ticks than there are requests for: the ring would not be full.
        """
        self._left -= ticks
        if self._left < 0:
            raise ValueError(f"{-self._left} ticks more than were prepared")
        return self.drive.play(ticks, self._ahead, around=around)

    def _fill(self, work: Work, ticks: int) -> tuple[float, str]:
        """Take the slots one by one, evenly apart; then a while with all of them taken."""
        case, slots, stage = work.case, work.case.slots, self.drive.stage
        self.drive.settle()
        begin, done = time.perf_counter(), list[Finished]()
        for tick in range(case.steps):
            for _ in range(sum(k * case.steps // slots == tick for k in range(slots))):
                self.drive.submit()
            done = stage.step()
        self.drive.settle()
        first_s, digest = time.perf_counter() - begin, hashlib.sha256()
        for _ in range(case.sessions * work.later(ticks)):
            self.drive.submit()
        for _ in range(work.warm):
            for one in done:
                digest.update(_bytes(one.take()))
            done = stage.step()
        self.drive.play(work.hurry, self._ahead)
        return first_s, digest.hexdigest()[:16]


@contextmanager
def steady(engine: Engine, case: Case, ticks: int, captured: bool = True) -> Iterator[Steady]:
    """Open sessions and bring them to their steady state, with requests for so many ticks more.

    Args:
        captured: as in `StreamConfig`.

    Raises:
        InputError: for a case that the engine does not take.
        MemoryShortage: when the ring does not fit.
    """
    with awake(engine):
        work = Work(engine, case)
        shared = (case.sessions, case.frames) if case.sessions > 1 else None
        with driven(engine, work.config(ticks, captured), work.request, work.knobs, shared) as drive:
            yield Steady(drive, work, ticks)


def _bytes(latent: Tensor) -> bytes:
    """Return the bytes of a finished latent. Raises `EngineError` for NaN or infinity, whose speed would mean
    nothing."""
    host = latent.cpu()
    if not bool(host.isfinite().all()):
        raise EngineError("a latent holds NaN or infinite values", "finite ones are expected", "use another precision")
    return host.numpy().tobytes()
