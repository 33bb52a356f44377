"""A stage: a ring with its tick and the sessions that play in it, one or several that share the engine's batch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import torch

from ..config import StreamConfig, more_rows
from ..device.lane import Lane
from ..device.memory import is_shortage
from ..engines.contract import Engine
from ..engines.factors import Factors
from ..errors import InputError, MemoryShortage, SessionError
from .knob_state import KnobState
from .member import Finished, Player
from .prepared import Prepared
from .request import Request
from .ring import Ring, Slot
from .stats import TickClock
from .tick import Tick


class Stage:
    """A ring and its sessions. They join and leave from any thread; the thread in `step` owns the ring for that time.

    Every session has slots of its own, as many as its depth. With `frames` the ring is built once, for that length and
    for `config`, and sessions share it: requests that need more are refused. Without, it belongs to one session and is
    rebuilt for a request that needs another ring.

    Args:
        engine: the decoder.
        lane: the stream that the ticks run on.
        config: the structure of the ring; the depth of a shared one is the sum of its sessions'.
        frames: T of a shared ring.
    """

    def __init__(self, engine: Engine, lane: Lane, config: StreamConfig, frames: int | None = None) -> None:
        self.engine, self.lane, self.config, self.frames = engine, lane, config, frames
        self.lock = threading.Lock()  # what arrives, who is here and the counters, for a moment
        self.playing = threading.RLock()  # ring and tick, for a whole step
        self.ring, self.clock = Ring(), TickClock(lane.stream)
        self.tick: Tick | None = None
        self.lora: Factors | None = None
        self.sessions: tuple[Player, ...] = ()
        self._coming: tuple[Engine, Callable[[bool], None]] | None = None  # to play on from the next step

    def join(self, session: Player) -> None:
        """Give a session slots, from the next step on.

        Raises:
            SessionError: where the ring belongs to another session.
            EngineLimitError: where the slots of all sessions are more than the engine has rows.
        """
        with self.lock:
            if self.sessions and self.frames is None:
                raise SessionError("the ring has its session", "one that is shared has a fixed length", "share a stage")
            session.config.check_depth(session.config.depth, self.room_for(session))
            self.sessions += (session,)

    def leave(self, session: Player) -> int:
        """Drop what a session has in flight, and its slots at the next step; returns the number of requests dropped."""
        with self.playing, self.lock:
            dropped = self._clear(session)
            self.sessions = tuple(other for other in self.sessions if other is not session)
            coming = None
            if not self.sessions:
                self.tick, self.lora = None, None
                coming, self._coming = self._coming, None
        if coming is not None:
            coming[1](False)
        return dropped

    def room_for(self, session: Player) -> int:
        """Return the largest depth that the other sessions leave this one."""
        engine = self._coming[0] if self._coming else self.engine
        return engine.limits.batch - sum(other.asked for other in self.sessions if other is not session)

    def step(self) -> list[Finished]:
        """Take in what arrived, admit requests, advance every slot by one step, return the finished latents.

        An error drops what is in flight, counted, and is passed on; the next step starts with an empty ring.
        """
        # entering it needlessly took 0.08 ms on an H100's host
        plain = torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()
        with self.playing, self.lane.lock, self.lane.use(), plain, torch.no_grad():
            done: list[tuple[Slot, Request]] = []
            self._swap()
            with self._dropping(done):
                for session in self.sessions:
                    session.take_in(self.tick)
            self._resize()
            with self._dropping(done):
                for session in self.sessions:
                    self._admit(session)
                tick = self.tick
                if self.ring.idle or tick is None:
                    return []
                self.clock.start()
                tick.run(self.ring.plan(), self.lora)
                self.clock.stop()
                with self.lock:
                    for slot in self.ring.occupied:
                        slot.owner.steps_done += 1
                    done += self.ring.advance()
                latents = [tick.read(slot.index) for slot, _ in done]
            for slot, request in done:
                tick.buffers.free(slot.index)
                with self.lock:
                    slot.owner.count(request)
            mark = self.lane.done() if done else None
            return [
                Finished(slot.owner.name, request, latent, self.lane, mark)
                for (slot, request), latent in zip(done, latents, strict=True)
            ]

    def swap(self, engine: Engine, over: Callable[[bool], None] = lambda plays: None) -> None:
        """Play on another engine of the same model from the next step on.

        Errors of the change are raised by that step; what is in flight then goes on on the old engine.

        Args:
            over: called with true once the new engine plays, with false where it never will: the other may then be
                freed.

        Raises:
            InputError: for another width or device, adapters that it does not take, or while a take is recorded, which
                names one engine.
            EngineLimitError: for fewer rows than the sessions have slots.
        """
        ours = self.engine
        if engine.spec != ours.spec:
            given, now = f"the new engine plays {engine.spec}", f"what plays is {ours.spec}"
            raise InputError(given, now, "choose an engine of the same model")
        if (engine.width, engine.device) != (ours.width, ours.device):
            raise InputError(
                f"the new engine takes conditions {engine.width} wide on {engine.device}",
                f"those that play are {ours.width} wide on {ours.device}",
                "choose an engine of the same model",
            )
        if any(session.log is not None for session in self.sessions):
            raise InputError("the engine is changed in a take", "a take is of one engine", "end the take first")
        with self.lock:
            self._check_lora(engine)
            self.config.check_depth(sum(session.asked for session in self.sessions), engine.limits.batch)
            before, self._coming = self._coming, (engine, over)
        if before is not None:
            before[1](False)

    def drop(self, session: Player) -> None:
        """Drop what a session has in flight, counted."""
        with self.playing, self.lock:
            session.dropped += self._clear(session)
            if len(self.sessions) == 1:
                self._let_go()

    def receive(self, given: Prepared | KnobState | Factors) -> None:
        """Order the lane after the work that made these tensors."""
        for event in given.ready if isinstance(given.ready, tuple) else (given.ready,):
            self.lane.wait(event)
        for tensor in given.tensors():
            self.lane.keep(tensor)

    @contextmanager
    def _dropping(self, done: list[tuple[Slot, Request]]) -> Iterator[None]:
        """Drop what is in flight, and what `done` lists, where the block fails; pass the error on."""
        try:
            yield
        except BaseException as error:
            with self.lock:
                for slot, _ in done:
                    slot.owner.dropped += 1
                for session in self.sessions:
                    session.dropped += self._clear(session)
                self._let_go()
            for session in self.sessions:
                session.failed()
            if is_shortage(error):
                raise self._shortage(len(self.ring.slots)) from error
            raise

    def _clear(self, session: Player) -> int:
        """Empty a session's slots; returns how many were occupied."""
        if self.tick is not None:
            for slot in self.ring.held(session):
                self.tick.buffers.free(slot.index)
        return self.ring.clear(session)

    def _let_go(self) -> None:
        """Release the tick; the next step builds the ring anew."""
        self.tick = None
        for session in self.sessions:
            session.setting = session.latest

    def _check_lora(self, engine: Engine) -> None:
        """Raise `InputError` where an engine cannot take adapters that play or will."""
        for lora in (self.lora, *(session.adapted for session in self.sessions)):
            if lora is not None:
                lora.check(engine.targets, engine.dtype, engine.device, engine.limits.rank)

    def _swap(self) -> None:
        """Change to the engine given to `swap`, if any."""
        with self.lock:
            coming, self._coming = self._coming, None
        if coming is None:
            return
        engine, over = coming
        try:
            self._check_lora(engine)  # others may have come since it was asked for
            self._move(engine, self.ring.laid(self.ring.parts))
        except BaseException:
            over(False)
            raise
        self.engine = engine
        over(True)

    def _move(self, engine: Engine, ring: Ring) -> None:
        """Move all that is in flight to a new ring on an engine; an error leaves the old ring and tick as they are."""
        old = self.tick
        if old is not None and ring.slots:
            try:
                tick = self._made(engine, old.config, ring, old.frames, old.tokens)
                for to, slot in self.ring.moved(ring):
                    tick.copy_slot(to.index, old, slot.index)
            except BaseException as error:
                if is_shortage(error):
                    raise self._shortage(len(ring.slots)) from error
                raise
            self.tick = tick
        with self.lock:
            self.ring = ring

    def _made(self, engine: Engine, config: StreamConfig, ring: Ring, frames: int, tokens: int) -> Tick:
        """Make a tick for a ring, with every session's knobs in its slots."""
        tick = Tick(engine, config, len(ring.slots), frames, tokens, self.lane)
        for session, _ in ring.parts:
            tick.set_knobs(ring.span(session), (), session.setting)
        return tick

    def _resize(self) -> None:
        """Bring the ring to the depths that were asked for, as soon as the requests in flight fit."""
        ring = self.ring
        parts = [(session, session.config.depth) for session in self.sessions]
        if parts == ring.parts or any(len(ring.held(session)) > depth for session, depth in parts):
            return
        try:
            self._move(self.engine, ring.laid(parts))
        except BaseException:
            with self.lock:  # what plays goes on, without who has just come
                known = {session: count for session, count in ring.parts}
                for session, _ in parts:
                    if session in known:
                        session.keep_depth(known[session])
                    else:
                        session.shut()
                self.sessions = tuple(session for session in self.sessions if session in known)
            raise
        for session, count in ring.parts:
            session.hurried += max(0, session.config.depth - count)

    def _admit(self, session: Player) -> None:
        session.since_admission += 1
        while len(self.ring.held(session)) < session.config.depth and self._admitted(session):
            pass

    def _admitted(self, session: Player) -> bool:
        """Put the session's next request into a slot; returns false where none may enter now."""
        with self.lock:
            prepared = session.waiting[0] if session.waiting else None
        if prepared is None or self._paused(session, prepared.request):
            return False
        if (tick := self._fitting(session, prepared)) is None:
            return False
        with self.lock:
            slot = self.ring.admit(session, prepared.request)
            if slot is None:
                return False
            session.waiting.popleft()
        self.receive(prepared)
        slot.gates = tick.write(slot.index, prepared, session.setting)
        session.since_admission, session.hurried = 0, max(0, session.hurried - 1)
        return True

    def _paused(self, session: Player, request: Request) -> bool:
        """Return true where a request must wait, so that latents finish evenly."""
        spread = session.config.spread and bool(self.ring.held(session)) and not session.hurried
        return spread and session.since_admission < -(-request.steps // session.config.depth)

    def _fitting(self, session: Player, prepared: Prepared) -> Tick | None:
        """Return the tick if it can take the request, else None.

        An empty ring of a single session is rebuilt so that it can.
        """
        request, tick = prepared.request, self.tick
        parts, rows = len(request.parts), self.rows_of(session, request)
        if tick and self._fits(request, tick.frames, tick.tokens, tick.conditions, tick.guidance, rows):
            return tick
        if self.frames is not None:  # what a turned knob asks for beyond the shared rows is not heard
            return tick or self._built(session, self.config, self.frames, self.config.tokens)
        if tick and tick.frames != request.frames and session.config.length_change == "drop":
            with self.lock:
                session.dropped += self._clear(session)
        if not self.ring.idle:
            return None
        opened = session.opened
        config = replace(
            opened,
            guidance=more_rows(rows, opened.guidance),
            conditions=max(parts, opened.conditions),
            tokens=max(request.tokens, opened.tokens),
        )
        tick = self.tick = None  # the old buffers go before the new ones come
        session.setting = session.latest
        with self.lock:
            self.ring = self.ring.laid([(session, config.depth)])
        tick = self._built(session, config, request.frames, config.tokens)
        session.config = config
        return tick

    def _built(self, session: Player, config: StreamConfig, frames: int, tokens: int) -> Tick:
        """Make a new tick; where that fails, drop the request that needed it and pass the error on."""
        try:
            session.setting.knobs.check_frames(frames, self.engine.spec.channels)
            made = self._made(self.engine, config, self.ring, frames, tokens)
        except BaseException:
            with self.lock:
                session.waiting.popleft()
                session.dropped += 1
            raise
        self.tick = made
        return made

    def rows_of(self, session: Player, request: Request) -> str:
        """Return the negative rows that a request of a session needs, one of `ROW_MODES`."""
        opened, turned = session.opened, session.latest.knobs.guidance_scale is not None
        return request.guidance.rows(opened.guidance != "off" or opened.hot_guidance or turned)

    def check(self, session: Player, request: Request) -> None:
        """Raise `InputError` for a request that a shared ring can never take."""
        c, rows = self.config, self.rows_of(session, request)
        if self.frames is None or self._fits(request, self.frames, c.tokens, c.conditions, c.guidance, rows):
            return
        raise InputError(
            f"the request has {request.frames} frames, {request.tokens} tokens, {len(request.parts)} conditions and "
            f"guidance rows {rows}",
            f"the ring that sessions share has {self.frames}, {c.tokens}, {c.conditions} and {c.guidance}",
            "share a larger ring, or open a session of its own",
        )

    @staticmethod
    def _fits(request: Request, frames: int, tokens: int, conditions: int, guidance: str, rows: str) -> bool:
        inside = request.tokens <= tokens and len(request.parts) <= conditions
        return inside and more_rows(rows, guidance) == guidance and frames == request.frames

    def _shortage(self, depth: int) -> MemoryShortage:
        return MemoryShortage(
            f"a ring of depth {depth} found no room on {self.engine.device}",
            "its buffers and the decoder's workspace must fit beside the model",
            "lower the depth or the seconds, or unload other models",
        )
