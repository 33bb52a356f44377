"""A caller's ring: requests in, finished latents out."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch

from .config import StreamConfig
from .constants import LATENT_HZ
from .engines import Engine
from .errors import EngineLimitError, MemoryShortage, SessionError
from .lane import Lane
from .memory import is_shortage
from .request import Request
from .ring import Ring, Slot
from .stats import Stats, TickClock
from .tick import Seat, Tick


@dataclass(frozen=True, eq=False)
class Finished:
    """A latent that reached sigma 0, still on the lane's stream until it is taken."""

    request: Request
    latent: torch.Tensor
    lane: Lane
    done: torch.cuda.Event | None

    def take(self) -> torch.Tensor:
        """The latent `[T, 64]` float32, ordered before whatever the caller's current stream does next."""
        return self.lane.take(self.latent, self.done)


class Session:
    """Owns one ring; `submit` from any thread, `step` from the thread that plays.

    The ring is built for the first request that needs it. A request of another length, or one that needs guidance or
    more tokens than the ring has, waits until the ring is empty; the ring is then built anew for it.

    Args:
        name: the session's id.
        engine: the decoder.
        config: what the ring is built for.
        lane: the stream that the ticks run on.
    """

    def __init__(self, name: str, engine: Engine, config: StreamConfig, lane: Lane) -> None:
        if config.depth > engine.limits.batch:
            raise EngineLimitError(
                f"depth is {config.depth}",
                f"the engine takes {engine.limits.batch} rows",
                "use a smaller depth, or raise the engine's max_rows",
            )
        self.name, self.engine, self.config, self.lane = name, engine, config, lane
        self._opened = config
        self._lock = threading.Lock()  # queue and counters, for a moment
        self._playing = threading.RLock()  # ring and tick, for a whole step
        self._queue: deque[Seat] = deque()
        self._ring = Ring(config.depth)
        self._tick: Tick | None = None
        self._clock = TickClock(engine.device.type == "cuda")
        self._since_admission = 1 << 30
        self._finished = self._dropped = self._frames_out = 0
        self.steps_done = 0  # of all requests together
        self.closed = False

    def submit(self, request: Request) -> None:
        """Queue a request. A full queue drops its oldest entry, which is counted."""
        seat = Seat.prepare(request, self.engine, self.lane)
        with self._lock:
            self._alive()
            if len(self._queue) == self.config.queue:
                self._queue.popleft()
                self._dropped += 1
            self._queue.append(seat)

    def step(self) -> list[Finished]:
        """Admit what may enter, advance every slot by one step, hand out what finished.

        Whatever fails drops what is in flight, counted, and is passed on; the next step starts with an empty ring.
        """
        with self._playing, self.lane.lock, self.lane.use(), torch.inference_mode(False), torch.no_grad():
            self._alive()
            done: list[tuple[Slot, Request]] = []
            try:
                self._admit()
                if self._ring.idle or self._tick is None:
                    return []
                self._clock.start()
                self._tick.run(self._ring.plan())
                self._clock.stop()
                self.steps_done += self._ring.active
                done = self._ring.advance()
                latents = [self._tick.read(slot.index) for slot, _ in done]
            except BaseException as error:
                with self._lock:
                    self._dropped += len(done) + self._ring.clear()
                self._tick = None
                if is_shortage(error):
                    raise self._shortage() from error
                raise
            return [self._hand_out(request, latent) for (_, request), latent in zip(done, latents, strict=True)]

    def play(self, requests: Iterable[Request], before: Callable[[], None] = lambda: None) -> Iterator[Finished]:
        """Run requests through the ring, feeding it as it has room, until the last one is out. Drops nothing.

        `before` is called before each step; what it raises ends the playing.
        """
        waiting = iter(requests)
        more = True
        while more or not self.idle:
            while more and self.room:
                request = next(waiting, None)
                more = request is not None
                if request is not None:
                    self.submit(request)
            before()
            yield from self.step()

    @property
    def idle(self) -> bool:
        """Nothing queued and nothing in flight."""
        return not self._queue and self._ring.idle

    @property
    def room(self) -> bool:
        """Whether a request can be queued without dropping another."""
        return len(self._queue) < self.config.queue

    def close(self) -> None:
        """Drop what is queued or in flight, counted, and free the ring. Closing twice is allowed."""
        with self._playing, self._lock:
            if not self.closed:
                self._dropped += len(self._queue) + self._ring.clear()
                self._queue.clear()
                self._tick = None
                self.closed = True

    def settle(self) -> None:
        """Wait until the last tick is over, so that `stats` knows its time. Not for use while playing."""
        self._clock.settle()

    def stats(self) -> Stats:
        tick = self._tick
        with self._lock:
            return Stats(
                self._clock.ticks,
                self._finished,
                self._dropped,
                self._clock.tick_ms(),
                self._clock.seconds,
                self._frames_out / LATENT_HZ,
                self.config.depth,
                tick.frames if tick else 0,
                self.engine.name,
                tick.fused if tick and tick.guided else None,
            )

    def _alive(self) -> None:
        if self.closed:
            raise SessionError(f"session {self.name!r} is closed", "only an open session plays", "open it again")

    def _admit(self) -> None:
        self._since_admission += 1
        while self._ring.free:
            with self._lock:
                seat = self._queue[0] if self._queue else None
            if seat is None or self._paused(seat.request) or (tick := self._fitting(seat)) is None:
                return
            with self._lock:
                if not self._queue or self._queue[0] is not seat:  # dropped by a submit meanwhile
                    continue
                self._queue.popleft()
            self.lane.wait(seat.ready)
            for tensor in seat.tensors():
                self.lane.keep(tensor)
            tick.write(self._ring.admit(seat.request).index, seat)
            self._since_admission = 0

    def _paused(self, request: Request) -> bool:
        """Whether a request must wait its turn, so that latents finish evenly."""
        spread = self.config.spread and not self._ring.idle
        return spread and self._since_admission < -(-request.steps // self.config.depth)

    def _fitting(self, seat: Seat) -> Tick | None:
        """The ring's tick if it can seat the request; an empty ring is rebuilt so that it can."""
        tick, request = self._tick, seat.request
        tokens, guided = request.condition.length, request.guidance.active
        if tick and tick.frames == request.frames and tokens <= tick.tokens and guided <= tick.guided:
            return tick
        if not self._ring.idle:
            return None
        opened = self._opened
        config = replace(opened, guided=opened.guided or guided, tokens=max(tokens, opened.tokens))
        self._tick = None  # the old buffers go before the new ones come
        try:
            self._tick = Tick(self.engine, config, request.frames, config.tokens)
        except BaseException:
            with self._lock:
                if self._queue and self._queue[0] is seat:
                    self._queue.popleft()
                    self._dropped += 1
            raise
        self.config = config
        return self._tick

    def _hand_out(self, request: Request, latent: torch.Tensor) -> Finished:
        with self._lock:
            self._finished += 1
            self._frames_out += request.frames
        return Finished(request, latent, self.lane, self.lane.mark())

    def _shortage(self) -> MemoryShortage:
        return MemoryShortage(
            f"a ring of depth {self.config.depth} found no room on {self.engine.device}",
            "its buffers and the decoder's workspace must fit beside the model",
            "lower the depth or the seconds, or unload other models",
        )
