"""Plain functions and classes that tests share: `from ..helpers import play`. Fixtures are in `conftest`."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
import torch
from ostinato.engine_runtime.config import StreamConfig
from ostinato.engine_runtime.controls.knobs import Knobs
from ostinato.engine_runtime.device.lane import Lane
from ostinato.engine_runtime.device.workers import in_turn
from ostinato.engine_runtime.engines.contract import Engine, Limits, Rows
from ostinato.engine_runtime.spec import ACE_STEP, ModelId, ModelSpec
from ostinato.engine_runtime.stream.request import Condition, Request
from ostinato.engine_runtime.stream.session import Session
from ostinato.engine_runtime.stream.sessions import runtime
from ostinato.engine_runtime.stream.stage import Stage
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_names = itertools.count()
SPIN = 200_000_000  # cycles, about 0.1 s
WIDTH = 64  # the stand-in's condition width
_OFFSET = 2.0 * (1 - 2 * (np.arange(64) % 2))  # keeps velocities off zero, where a projection has no direction


def spin(cycles: int) -> None:
    """Keep the current CUDA stream at work for so many cycles; 0 needs no device."""
    if cycles:
        torch.cuda._sleep(cycles)


def play(engine: Engine, requests: Sequence[Request], knobs: Knobs | None = None, **stream_config: Any) -> list[Tensor]:
    """Play requests through a session of their own; their latents `[T, 64]`, in the order of the requests."""
    order = {id(request): i for i, request in enumerate(requests)}
    assert len(order) == len(requests), "the same request twice"
    latents: dict[int, Tensor] = {}
    config, knobs = StreamConfig(**stream_config), knobs or Knobs()
    with runtime().playing(f"test-{next(_names)}", engine, config, knobs=knobs) as session:
        for finished in session.play(requests):
            latents[order[id(finished.request)]] = finished.take()
    return [latents[i] for i in range(len(requests))]


def analytic(x: np.ndarray, t: float, tokens: np.ndarray, context: np.ndarray) -> np.ndarray:
    """The stand-in's velocity of one row: every input matters, none of them linearly, and frames meet their past.

    `x` `[T, 64]`, `tokens` `[l, 64]` without padding, `context` `[T, 128]`.
    """
    before = np.concatenate([np.zeros_like(x[:1]), x[:-1]])
    voice = np.tanh(tokens).mean(axis=0)
    left, right = context[:, :64], context[:, 64:]
    bend = np.tanh(0.6 * x + 0.4 * before * voice + np.cos(3.0 * t) * left)
    return bend + np.sin((1.0 + t) * voice + right * x) * 0.5 + _OFFSET


@dataclass
class StandIn:
    """An engine of one formula, float32 on the CPU.

    Attributes:
        reuse: give every result out of one buffer, poisoned with NaN when the next call begins, as an engine with
            its own output buffer may; rows that are not active are NaN, as it may skip them.
        calls: rows of each execute so far.
    """

    limits: Limits = Limits(16, 4096, 1024)
    spec: ModelSpec = ACE_STEP
    reuse: bool = False
    width: int = WIDTH
    dtype: torch.dtype = torch.float32
    device: torch.device = torch.device("cpu")
    krons = False
    targets: None = None  # takes no adapters
    identity: str = "stand-in"
    capturable: bool = False
    modules: None = None
    name: str = "stand-in"
    model: ModelId | None = None
    calls: list[int] = field(default_factory=list)
    _buffer: Tensor | None = None  # [limits.batch, T, 64]

    def ready(self):
        pass

    def rest(self):
        pass

    def own_profiler(self):
        return None

    def rows(self, batch: int, frames: int, tokens: int) -> Rows:
        self.limits.check(min(batch, self.limits.batch), frames, tokens)
        return Rows.allocate(self.spec, batch, frames, tokens, self.width, self.dtype, self.device)

    def __call__(self, rows: Rows) -> Tensor:
        batch = rows.timestep.shape[0]
        assert batch <= self.limits.batch
        self.calls.append(batch)
        if self._buffer is not None:
            self._buffer.fill_(torch.nan)
        x, t = rows.hidden_states, rows.timestep[:, None, None]
        before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
        own = rows.encoder_attention_mask[:, :, None]
        voice = (rows.encoder_hidden_states.tanh() * own).sum(1, keepdim=True) / own.sum(1, keepdim=True)
        left, right = rows.context_latents.chunk(2, dim=-1)
        bend = torch.tanh(0.6 * x + 0.4 * before * voice + torch.cos(3.0 * t) * left)
        offset = torch.as_tensor(_OFFSET, dtype=torch.float32)
        v = bend + torch.sin((1.0 + t) * voice + right * x) * 0.5 + offset
        if not self.reuse:
            return v
        if self._buffer is None or self._buffer.shape[1:] != v.shape[1:]:
            self._buffer = torch.empty(self.limits.batch, *v.shape[1:])
        self._buffer[:batch] = v
        self._buffer[:batch].masked_fill_(~torch.from_numpy(rows.active)[:, None, None], torch.nan)
        return self._buffer[:batch]


@dataclass
class Fragile(StandIn):
    """A stand-in that fails where a test says.

    Attributes:
        most: rows of a ring; for more of them memory runs out.
        error: raised by the next execute, once.
    """

    most: int = 1 << 30
    error: BaseException | None = None

    def rows(self, batch: int, frames: int, tokens: int) -> Rows:
        if batch > self.most:
            raise torch.OutOfMemoryError("no room")
        return super().rows(batch, frames, tokens)

    def __call__(self, rows: Rows) -> Tensor:
        error, self.error = self.error, None
        if error is not None:
            raise error
        return super().__call__(rows)


class Asked:
    """A pipeline that keeps what its `encode_prompt` was asked by name, in order."""

    def __init__(self, pipe: Any) -> None:
        self.pipe, self.asked = pipe, list[dict[str, Any]]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pipe, name)

    def encode_prompt(self, *given: Any, **named: Any) -> Any:
        self.asked.append(named)
        return self.pipe.encode_prompt(*given, **named)


def helping() -> set[threading.Thread]:
    """The threads that rows and windows are computed on, side by side, of all pools of this process."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("ostinato worker")}


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made_up(seed: int, frames: int, tokens: int = 5, guided: bool = True, width: int = WIDTH) -> Condition:
    """A condition of random numbers, with a null condition where `guided`."""
    null = drawn(seed + 2, 1, width) if guided else None
    return Condition(drawn(seed, tokens, width), drawn(seed + 1, frames, 128), null)


READBACKS = ["item", "tolist", "cpu", "numpy", "nonzero", "is_nonzero", "__bool__", "__float__", "__int__", "__index__"]
JOINS = {"_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero"}


class NoJoin(TorchDispatchMode):
    """Refuses what brings a value to the host, also where Python's names for it are not used."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        picked = args[1] if name in ("index", "index_put", "index_put_") else ()
        joins = name in JOINS or any(getattr(i, "dtype", None) in (torch.bool, torch.uint8) for i in picked)
        assert not joins, f"the tick waits for {func}"
        return func(*args, **(kwargs or {}))


def _refuse(name: str) -> Callable[..., None]:
    def read(*_, **__):
        raise AssertionError(f"the tick calls {name}")

    return read


@contextmanager
def no_reads() -> Iterator[None]:
    """Whatever reads a tensor inside fails."""
    refused = {name: _refuse(name) for name in READBACKS}
    with (
        mock.patch.multiple(torch.Tensor, **refused),
        mock.patch.object(torch.cuda, "synchronize", _refuse("synchronize")),
        in_turn(),  # which keeps all of it in this thread
        NoJoin(),
    ):
        yield


def keeps_outputs(tick, x, features):
    """`Tick._decode` by someone who copies the engine's outputs only after the last pass."""
    kept = []
    for start, stop in tick.passes:
        rows = tick.rows.part(start * tick.depth, stop * tick.depth)
        rows.hidden_states[:, : tick.frames].copy_(x)
        rows.timestep.copy_(tick.scalars.t.flatten())
        kept.append(tick.engine(rows)[:, : tick.frames])
    tick.velocity.copy_(torch.stack(kept))
    return tick.velocity[0]


def apart(name: str, engine: Engine, config: StreamConfig, lane: Lane, knobs: Knobs | None = None) -> Session:
    """A session with a stage of its own, beside the runtime."""
    return Session(name, Stage(engine, lane, config), config, knobs)
