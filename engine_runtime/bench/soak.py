"""Plays random requests under random knobs for long, to see that memory does not grow and ticks do not slow down.

Ticks are played in blocks of a thousand, each from a seed of its own: one to warm up, the first ones, then others, and
at the end the first ones again, with the same requests and knobs. Both ends do the same work, and are compared.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..config import MODES, SOLVERS, Guidance, Sampling, StreamConfig
from ..controls.knobs import KNOBS, Knob, Knobs
from ..engines.contract import Engine
from ..errors import check_whole
from ..machine import resident
from ..profile.drive import Drive, awake, driven
from ..stream.finished import Finished
from ..stream.request import Condition, Request, Target
from .case import BLOCK, SOAK_SECONDS, SOAK_TICKS

DEPTHS = (1, 2, 4)
STEPS = (1, 4, 8)
TURNS, RESIZES = 0.2, 0.01  # share of the ticks before which a knob is turned, and the depth changed
GROWTH = 16 << 20  # bytes that tensors and the process may grow by in 20,000 ticks: less than 1 kB a tick
USED = 64 << 20  # bytes that the device's memory in use may grow by: PyTorch reserves 20 MB at a time, graphs come late
ENDS = 4  # most blocks that are compared: on a virtual machine one alone may be slow by chance
DRIFT = 0.1  # share by which ticks may have become slower


@dataclass(frozen=True)
class Soak:
    """The figures of a soak.

    Attributes:
        ticks, finished, dropped: counters of the session.
        first_ms, last_ms: median milliseconds of a step in each block at the start, and in the same blocks at the end;
            on the CPU of the process's own time.
        between_ms: the same for each other block.
        device_bytes: of tensors after the blocks at the start and after those at the end; None on the CPU.
        device_used: of all memory in use on the device, likewise.
        host_bytes: resident in the process, likewise; None where the system does not say.
    """

    engine: str
    ticks: int
    finished: int
    dropped: int
    first_ms: tuple[float, ...]
    between_ms: tuple[float, ...]
    last_ms: tuple[float, ...]
    device_bytes: tuple[int, int] | None
    device_used: tuple[int, int] | None
    host_bytes: tuple[int, int] | None

    @property
    def wrong(self) -> list[str]:
        """Describe what grew or slowed down; empty where nothing did."""
        found = [
            f"{name} grew by {(pair[1] - pair[0]) / 2**20:.1f} MiB"
            for name, pair, most in self.memory()
            if pair[1] - pair[0] > most
        ]
        if self.drift > DRIFT:
            found.append(f"a step of the same blocks took {100 * self.drift:.0f} % more at the end than at the start")
        return found

    @property
    def drift(self) -> float:
        """Return by which share steps of the same block took longer at the end than at the start; median of the
        blocks."""
        pairs = zip(self.first_ms, self.last_ms, strict=True)
        return statistics.median(last / first if first else 1.0 for first, last in pairs) - 1.0

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "drift": self.drift, "wrong": self.wrong}

    def text(self) -> str:
        def said(times: tuple[float, ...]) -> str:
            return ", ".join(f"{ms:.2f}" for ms in times)

        lines = [
            f"{self.engine}: {self.ticks} ticks, {self.finished} latents finished, {self.dropped} dropped",
            f"a step took (medians of blocks) {said(self.first_ms)} ms at the start, {said(self.between_ms) or 'none'} "
            f"between, and {said(self.last_ms)} ms in the first blocks again: {self.drift:+.1%}",
        ]
        lines += [f"{name}: {pair[0] / 2**20:.1f} and {pair[1] / 2**20:.1f} MiB" for name, pair, _ in self.memory()]
        return "\n".join([*lines, *(f"NOT FLAT: {what}" for what in self.wrong)])

    def memory(self) -> list[tuple[str, tuple[int, int], int]]:
        """List the known figures: name, bytes at both ends, and allowed growth."""
        of = "memory of the "
        all_of_it = [
            (f"{of}tensors on the device", self.device_bytes, GROWTH),
            (f"{of}device in use", self.device_used, USED),
            (f"{of}process", self.host_bytes, GROWTH),
        ]
        return [(name, pair, most) for name, pair, most in all_of_it if pair is not None]


def soak(
    engine: Engine,
    ticks: int = SOAK_TICKS,
    seconds: float = SOAK_SECONDS,
    seed: int = 0,
    on_tick: Callable[[int, int], None] = lambda done, total: None,
    block: int = BLOCK,
) -> Soak:
    """Play random requests and measure memory and times, as the module says.

    Args:
        engine: any that takes guidance at the largest of `DEPTHS`.
        ticks: in all, three blocks or more.
        block: ticks of a block.
    """
    check_whole(
        "ticks", ticks, 3 * block, 10_000_000, f"{block} warm up, and as many at the start and at the end compare"
    )
    count = ticks // block - 1
    ends = min(ENDS, count // 2)
    config = StreamConfig(guidance="full", tokens=Player.TOKENS, queue=4, spread=False)
    player = Player(engine, engine.spec.frames_of(seconds), on_tick, ticks)
    # a CPU is shared with whatever else runs: there the process's own time counts
    clock = time.process_time if engine.device.type == "cpu" else time.perf_counter
    with awake(engine), driven(engine, config, player.request, clock=clock) as drive:
        player.block(drive, seed, block)
        first = [player.block(drive, seed + i, block) for i in range(ends)]
        between = [player.block(drive, seed + i, block) for i in range(ends, count - ends)]
        if ticks % block:
            between.append(player.block(drive, seed + count, ticks % block))
        last = [player.block(drive, seed + i, block) for i in range(ends)]
        stats = drive.sessions[0].stats()
    memory = (_pair(getattr(first[-1], name), getattr(last[-1], name)) for name in ("device", "used", "host"))
    first_ms, between_ms, last_ms = (tuple(block.ms for block in blocks) for blocks in (first, between, last))
    return Soak(engine.name, player.ticks, stats.finished, stats.dropped, first_ms, between_ms, last_ms, *memory)


def _pair(first: int | None, last: int | None) -> tuple[int, int] | None:
    return None if first is None or last is None else (first, last)


class _Block(NamedTuple):
    """Median milliseconds of a step, and bytes afterwards: of tensors on the device, in use there, of the process."""

    ms: float
    device: int | None
    used: int | None
    host: int | None


class Player:
    """Plays blocks of ticks, each from its seed alone."""

    TOKENS = 32

    def __init__(self, engine: Engine, frames: int, on_tick: Callable[[int, int], None], total: int) -> None:
        self.engine, self.frames = engine, frames
        self._on_tick, self._total, self.ticks = on_tick, total, 0
        self._random = random.Random(0)

    def block(self, drive: Drive, seed: int, ticks: int) -> _Block:
        """Play a block of ticks from its seed, an empty ring and neutral knobs."""
        self._random.seed(seed)
        (session,) = drive.sessions
        while not session.idle:
            session.step()
        session.set(**{name: getattr(Knobs(), name) for name in KNOBS})
        session.configure(depth=max(DEPTHS))
        session.step()
        laps = drive.play(ticks, before=lambda: self.act(drive), after=_taken, after_tick=self._tell)
        return _Block(statistics.median(laps.ms), *self._device_bytes(), resident())

    def _tell(self) -> None:
        self.ticks += 1
        self._on_tick(self.ticks, self._total)

    def act(self, drive: Drive) -> None:
        r, (session,) = self._random, drive.sessions
        drive.fill()
        if r.random() < TURNS:
            knob = r.choice(list(KNOBS.values()))
            session.set(**{knob.name: self.value(knob)})
        if r.random() < RESIZES:
            session.configure(depth=r.choice(DEPTHS))

    def request(self, i: int) -> Request:
        """Draw the next request; `i` is not needed."""
        r = self._random
        condition = Condition(
            self._drawn(r.randint(1, self.TOKENS), self.engine.width),
            self._drawn(self.frames, self.engine.spec.context),
            self._drawn(1, self.engine.width),
        )
        sampling = Sampling(r.choice(STEPS), seed=r.randrange(2**32), solver=r.choice(SOLVERS))
        guidance = Guidance(r.uniform(1.0, 8.0), mode=r.choice(MODES))
        shape: dict[str, Any] = {}
        if r.random() < 0.5:
            shape["source"] = self._drawn(self.frames, self.engine.spec.channels)
            if r.random() < 0.5:
                mask = (self._drawn(self.frames, self.engine.spec.channels) > 0).float()
                shape |= {"mask": mask, "mask_strength": (1.0, 0.5)}
        if r.random() < 0.5:
            shape["target"] = Target(self._drawn(self.frames, self.engine.spec.channels))
        return Request(condition, sampling, guidance, **shape)

    def value(self, knob: Knob) -> Any:
        """Draw a value that the knob takes; small ones for a wide range, so that latents stay finite."""
        r = self._random
        if knob.default is None and r.random() < 0.5:
            return None
        if knob.options:
            return r.choice(knob.options)
        if isinstance(knob.default, bool):
            return r.random() < 0.5
        low, high = max(knob.low, -0.2), min(knob.high, 1.5)
        if r.random() < 0.5:
            return r.uniform(low, high)
        return low + (high - low) * torch.rand(self.frames, generator=self.generator())

    def _drawn(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator())

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self._random.randrange(2**32))

    def _device_bytes(self) -> tuple[int | None, int | None]:
        device = self.engine.device
        if device.type != "cuda":
            return None, None
        free, total = torch.cuda.mem_get_info(device)
        return torch.cuda.memory_allocated(device), total - free


def _taken(done: Iterable[Finished]) -> None:
    for one in done:
        one.take()
