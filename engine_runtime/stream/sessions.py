"""The process-wide runtime: one lane per device, sessions by id."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from ..config import StreamConfig
from ..controls.knobs import Knobs
from ..device.lane import Lane
from ..engines.contract import Engine
from ..errors import InputError, SessionError
from ..registry import registry
from .inbox import Listener
from .session import Session
from .stage import Stage


class Runtime:
    """The registry of lanes and sessions, safe to use from several threads.

    Use `runtime()`: a second object would mean a second stream. Its lock is none of `registry.LOCKS`, because a tick
    that needs room on the device asks here which engines play.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lanes: dict[torch.device, Lane] = {}
        self._sessions: dict[str, Session] = {}
        self._opening: dict[str, Engine] = {}  # ids that are taken, and what will play

    def lane(self, device: torch.device) -> Lane:
        """Return the device's one lane."""
        with self._lock:
            if device not in self._lanes:
                self._lanes[device] = Lane(device)
            return self._lanes[device]

    def open(
        self,
        name: str,
        engine: Engine,
        config: StreamConfig,
        knobs: Knobs | None = None,
        log: Listener | None = None,
    ) -> Session:
        """Open a session on a ring of its own.

        Raises:
            InputError: without an id.
            SessionError: when the id is already open.
            EngineLimitError: for more slots than the engine has rows.
        """
        stage = Stage(engine, self.lane(engine.device), config)
        return self._open(name, stage, config, knobs, log)

    def share(self, engine: Engine, config: StreamConfig, frames: int) -> Stage:
        """Make a ring that several sessions `join`, all of `frames` T, with the rows, conditions and tokens of
        `config`.
        """
        return Stage(engine, self.lane(engine.device), config, frames)

    def join(self, name: str, stage: Stage, depth: int, knobs: Knobs | None = None, **live: Any) -> Session:
        """Open a session with `depth` slots on a shared stage; `live` are further fields of its `StreamConfig`.

        It records no take: its batch depends on the other sessions and cannot be repeated.

        Raises:
            EngineLimitError: where the other sessions leave it fewer rows.
            InputError, SessionError: as `open`.
        """
        return self._open(name, stage, replace(stage.config, depth=depth, **live), knobs, None)

    def _open(
        self, name: str, stage: Stage, config: StreamConfig, knobs: Knobs | None, log: Listener | None
    ) -> Session:
        with self._lock:
            if not name:
                raise InputError("the session has no id", "an id is required", "name the session")
            if name in self._sessions or name in self._opening:
                raise SessionError(f"session {name!r} is open", "an id names one session", "close it or choose another")
            self._opening[name] = stage.engine
        try:
            session = Session(name, stage, config, knobs, log)  # waits for the tick that runs
            with self._lock:
                self._sessions[name] = session
            return session
        finally:
            with self._lock:
                del self._opening[name]

    @property
    def names(self) -> list[str]:
        """List the ids of the open sessions, sorted."""
        with self._lock:
            return sorted(self._sessions)

    def session(self, name: str) -> Session:
        """Return an open session; raises `SessionError` for an unknown id."""
        with self._lock:
            found = self._sessions.get(name)
        if found is None:
            known = ", ".join(self.names) or "none"
            raise SessionError(f"there is no session {name!r}", f"open are: {known}", "open it first")
        return found

    def plays(self, engine: Engine) -> bool:
        """Return true where an open session, or one being opened, plays on this engine."""
        with self._lock:
            playing = [session.engine for session in self._sessions.values()]
            return any(other is engine for other in (*playing, *self._opening.values()))

    def close(self, name: str) -> None:
        """Close a session; an unknown id is ignored, so that clean-up may run twice."""
        with self._lock:
            session = self._sessions.pop(name, None)
        if session is not None:
            session.close()

    @contextmanager
    def playing(
        self,
        name: str,
        engine: Engine,
        config: StreamConfig,
        knobs: Knobs | None = None,
        log: Listener | None = None,
    ) -> Iterator[Session]:
        """Open a session for the time of a `with` block."""
        session = self.open(name, engine, config, knobs, log)
        try:
            yield session
        finally:
            self.close(name)


def runtime() -> Runtime:
    """Return the one runtime of this process."""
    return registry.one(Runtime)
