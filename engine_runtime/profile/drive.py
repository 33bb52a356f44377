"""Plays a stream to measure it: its sessions, the requests that keep them full, and a clock around every tick."""

from __future__ import annotations

import itertools
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass

import torch

from ..config import StreamConfig
from ..controls.knobs import Knobs
from ..engines.contract import Engine
from ..stream.finished import Finished
from ..stream.request import Request
from ..stream.session import Session
from ..stream.sessions import runtime

Mark = torch.cuda.Event | float


@dataclass(frozen=True)
class Laps:
    """The times of ticks in a row.

    Attributes:
        ms: of each tick, as `Drive.play` says.
        host_ms: spent inside `step`.
        quiet: no request took a slot in it.
        finished: latents handed out, by session.
    """

    ms: list[float]
    host_ms: list[float]
    quiet: list[bool]
    finished: list[int]


class Drive:
    """Sessions on one stage, ticked against a clock.

    Args:
        sessions: all of them.
        request: makes the i-th request.
        clock: seconds on the host.
    """

    def __init__(
        self,
        sessions: Sequence[Session],
        request: Callable[[int], Request],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.sessions, self.stage = sessions, sessions[0].stage
        self._request, self._clock, self._count = request, clock, itertools.count()
        self.cuda = self.stage.engine.device.type == "cuda"

    def submit(self) -> None:
        """Submit the next request, to each session in turn."""
        i = next(self._count)
        self.sessions[i % len(self.sessions)].submit(self._request(i))

    def fill(self) -> None:
        """Submit the next requests until no session has room."""
        for session in self.sessions:
            while session.room:
                session.submit(self._request(next(self._count)))

    def settle(self) -> None:
        """Wait until the device is idle."""
        if self.cuda:
            with self.stage.lane.lock:  # such a wait would end a capture of another session's tick
                torch.cuda.synchronize(self.stage.engine.device)

    def play(
        self,
        ticks: int,
        ahead: int = 0,
        before: Callable[[], object] = lambda: None,
        around: Callable[[], AbstractContextManager] = nullcontext,
        after: Callable[[list[Finished]], object] = lambda done: None,
        after_tick: Callable[[], object] = lambda: None,
    ) -> Laps:
        """Tick. Ends with the device idle.

        Args:
            ahead: ticks that the host may be ahead of the device. A tick is then timed from the end of the one before
                to its own, by the device's events. With 0 each is played alone, and timed by the host's clock from one
                idle device to the next.
            before: called before each tick; only without `ahead` is its time left out.
            around: makes the context of each step.
            after: given the latents of each tick, whose time includes it.
            after_tick: called after each tick.
        """
        marks, alone, host = [self._mark()] if ahead else [], list[float](), list[float]()
        quiet, finished = list[bool](), Counter[str]()
        for i in range(ticks):
            before()
            if not ahead:
                self.settle()
            begin = self._clock()
            with around():
                done = self.stage.step()
            host.append(1e3 * (self._clock() - begin))
            after(done)
            if ahead:
                marks.append(self._mark())
                if i >= ahead and not isinstance(behind := marks[i + 1 - ahead], float):
                    behind.synchronize()
            else:
                self.settle()
                alone.append(1e3 * (self._clock() - begin))
            quiet.append(all(slot.step != 1 for slot in self.stage.ring.slots))
            finished.update(one.session for one in done)
            after_tick()
        self.settle()
        each = [finished[session.name] for session in self.sessions]
        return Laps(alone or [_between(*pair) for pair in itertools.pairwise(marks)], host, quiet, each)

    def _mark(self) -> Mark:
        if not self.cuda:
            return self._clock()
        event = torch.cuda.Event(enable_timing=True)
        event.record(self.stage.lane.stream)
        return event


def _between(before: Mark, after: Mark) -> float:
    """Return the milliseconds between two marks of one kind."""
    if isinstance(before, float) or isinstance(after, float):
        return 1e3 * (after - before)  # type: ignore[operator]  # both are of one kind
    return before.elapsed_time(after)


@contextmanager
def awake(engine: Engine) -> Iterator[None]:
    """Have the engine's weights on its device inside the block."""
    engine.ready()
    try:
        yield
    finally:
        engine.rest()


@contextmanager
def driven(
    engine: Engine,
    config: StreamConfig,
    request: Callable[[int], Request],
    knobs: Knobs | None = None,
    shared: tuple[int, int] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Drive]:
    """Open sessions for the length of a block, on an engine that is awake.

    Args:
        request, clock: as in `Drive`.
        shared: how many sessions share one ring, and the frames T of all their requests; None is one session with a
            ring of its own.

    Raises:
        InputError: for settings that the engine does not take.
        MemoryShortage: when the ring does not fit.
    """
    with ExitStack() as stack:
        sessions = list[Session]()
        if shared is None:
            sessions.append(stack.enter_context(runtime().playing(_name(), engine, config, knobs)))
        else:
            count, frames = shared
            stage = runtime().share(engine, config, frames)
            for name in [_name() for _ in range(count)]:
                sessions.append(runtime().join(name, stage, config.depth, knobs))
                stack.callback(runtime().close, name)
        yield Drive(sessions, request, clock)


def _name() -> str:
    """Return an id that no other session has."""
    return f"measured {uuid.uuid4().hex}"
