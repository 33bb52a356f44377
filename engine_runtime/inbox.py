"""What reaches a session from any thread, held until its next step takes it in."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from .automation import DEPTH, Track
from .config import StreamConfig
from .engines import Engine
from .errors import InputError
from .knobs import KNOBS, Knobs
from .lane import Lane
from .request import Request
from .seat import Seat
from .setting import Setting, as_knobs

LIVE = ("depth", "queue", "spread", "length_change")  # of the configuration, while playing


class Listener(Protocol):
    """What is told of all that a session takes in; `tick` counts the calls of `step` from 0."""

    def configured(self, tick: int, changes: dict[str, Any]) -> None: ...

    def turned(self, tick: int, changes: dict[str, Any]) -> None: ...

    def submitted(self, tick: int, request: Request) -> None: ...


@dataclass(frozen=True, eq=False)
class Arrivals:
    """What one step takes in: changes of the configuration and the knobs, the knobs as they now are, new requests."""

    configured: dict[str, Any]
    turned: dict[str, Any]
    setting: Setting
    seats: list[Seat]

    def tell(self, log: Listener, tick: int) -> None:
        if self.configured:
            log.configured(tick, self.configured)
        if self.turned:
            log.turned(tick, self.turned)
        for seat in self.seats:
            log.submitted(tick, seat.request)


class Inbox:
    """Each method holds `lock` where it says so; a session uses the same lock for what it counts.

    Attributes:
        setting: the knobs as the next step will have them.
        dropped: requests that a full inbox let go of, the oldest first.
    """

    def __init__(self, engine: Engine, lane: Lane, config: StreamConfig, knobs: Knobs) -> None:
        self.lock = threading.Lock()
        self.setting = Setting.prepare(knobs, engine.device, lane)
        self.dropped = 0
        self.seats: deque[Seat] = deque()
        self._engine, self._lane, self._config = engine, lane, config
        self._turned: dict[str, Any] = {}
        self._configured: dict[str, Any] = {}
        self._tracks: list[tuple[int, Track]] = []  # with the tick they were added at

    def submit(self, seat: Seat) -> None:
        """With the lock held."""
        self.setting.knobs.check_frames(seat.request.frames)
        if len(self.seats) == self._config.queue:
            self.seats.popleft()
            self.dropped += 1
        self.seats.append(seat)

    def turn(self, changes: dict[str, Any], lengths: Iterable[int]) -> None:
        """Change knobs, whose curves must have each of these lengths in frames. With the lock held."""
        changes = as_knobs(changes)
        knobs = self.setting.knobs.turned(**changes)
        for frames in lengths:
            knobs.check_frames(frames)
        self.setting = Setting.prepare(knobs, self._engine.device, self._lane, self.setting)
        self._turned.update(changes)

    def configure(self, changes: dict[str, Any]) -> StreamConfig:
        """Change the configuration; returns what it will be. With the lock held."""
        for name in changes:
            if name not in LIVE:
                raise InputError(
                    f"{name!r} cannot be changed while playing",
                    f"allowed are {', '.join(LIVE)}",
                    "open a session with it",
                )
        self._config.check_depth(changes.get("depth", 1), self._engine.limits.batch)
        self._config = replace(self._config, **changes)
        self._configured.update(changes)
        return self._config

    def automate(self, tracks: Iterable[Track], tick: int) -> None:
        """Add tracks that count from this tick. With the lock held."""
        added = list(tracks)
        for track in added:
            if track.knob == DEPTH:
                self._config.check_depth(max(track.values), self._engine.limits.batch)  # type: ignore[arg-type]
            if track.knob == "guidance_scale" and self._config.guidance == "off":
                raise InputError(
                    "a track turns guidance_scale in a session without negative rows",
                    "a ring has them from the start or not at all",
                    "open the session with guidance full or initialize",
                )
        self._tracks += [(tick, track) for track in added]

    def take(self, tick: int) -> Arrivals:
        """Empty it. With the lock held."""
        self._play_tracks(tick)
        arrivals = Arrivals(self._configured, self._turned, self.setting, list(self.seats))
        self._configured, self._turned = {}, {}
        self.seats.clear()
        return arrivals

    def _play_tracks(self, tick: int) -> None:
        """Turn what a track moves at this tick; while it holds a value, hands may turn the knob."""
        for since, track in self._tracks:
            value = track.at(tick - since)
            if value is None or value == track.at(tick - since - 1):
                continue
            if track.knob not in KNOBS:
                if track.knob not in self._configured:
                    self.configure({track.knob: value})
            elif track.knob not in self._turned:
                self.turn({track.knob: value}, ())
