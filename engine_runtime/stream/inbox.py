"""The inbox of a session: all that arrives from any thread, held until the session's next step."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from ..config import StreamConfig
from ..controls.automation import DEPTH, Track
from ..controls.knobs import KNOBS, Knobs
from ..device.lane import Lane
from ..engines.factors import Factors
from ..errors import InputError
from .knob_state import Change
from .prepared import Prepared
from .request import Request

log = logging.getLogger(__name__)
LIVE = ("depth", "queue", "spread", "length_change", "hot_guidance")  # of the configuration, while playing


class Listener(Protocol):
    """A recorder of all that a session takes in; `tick` counts the calls of `step` from 0."""

    def configured(self, tick: int, changes: dict[str, Any]) -> None: ...

    def adapted(self, tick: int, lora: Factors | None) -> None: ...

    def turned(self, tick: int, changes: dict[str, Any]) -> None: ...

    def submitted(self, tick: int, request: Request) -> None: ...

    def cleared(self, tick: int) -> None: ...

    def failed(self, tick: int) -> None: ...


@dataclass(frozen=True, eq=False)
class Arrivals:
    """The arrivals that one step takes in.

    Attributes:
        configured: changes of the configuration, by name.
        adapted: true where `lora` is new.
        lora: the adapters' factors.
        turns: changes of knobs, in order.
        prepared: new requests.
    """

    configured: dict[str, Any]
    adapted: bool
    lora: Factors | None
    turns: list[Change]
    prepared: list[Prepared]

    def tell(self, listener: Listener, tick: int) -> None:
        """Report all of it to a listener."""
        if self.configured:
            listener.configured(tick, self.configured)
        if self.adapted:
            listener.adapted(tick, self.lora)
        for change in self.turns:
            listener.turned(tick, dict(change.values))
        for prepared in self.prepared:
            listener.submitted(tick, prepared.request)


class Inbox:
    """The arrivals of one session. Hold `lock` for every method but `prepare`.

    Args:
        channels: of the engine's latents.
        rows: returns the largest depth that there is room for.

    Attributes:
        knobs: as the next step will have them.
        lora: adapters' factors from the next step on.
        dropped: requests that a full inbox dropped, the oldest first.
    """

    def __init__(
        self,
        channels: int,
        device: torch.device,
        lane: Lane,
        config: StreamConfig,
        knobs: Knobs,
        lock: threading.Lock,
        rows: Callable[[], int],
    ) -> None:
        self.lock, self._rows = lock, rows
        self.knobs, self.dropped = knobs, 0
        self.lora: Factors | None = None
        self.prepared: deque[Prepared] = deque()
        self._channels, self._device, self._lane, self._config = channels, device, lane, config
        self._turns: list[Change] = []
        self._configured: dict[str, Any] = {}
        self._adapted = False  # since the last step
        self._tracks: dict[str, tuple[int, Track]] = {}  # by knob, with the tick they were added at

    @property
    def hot(self) -> bool:
        """Return true where the guidance scale is set by a knob or a track."""
        return self.knobs.guidance_scale is not None or self._config.hot_guidance

    @property
    def depth(self) -> int:
        """Return the depth that the next step will have."""
        return self._config.depth

    def keep_depth(self, depth: int) -> None:
        """Set the depth back to what the ring has, where the one asked for failed."""
        self._config = replace(self._config, depth=depth)

    def check(self, prepared: Prepared) -> None:
        """Raise `InputError` for a request that the knobs do not fit."""
        request = prepared.request
        self.knobs.check_frames(request.frames, request.spec.channels)
        if self.hot and request.guidance.decodes and request.first.null_tokens is None:
            raise InputError(
                "the guidance scale is turned for a condition without a null condition",
                "a turbo model has none, and allows mode self only",
                "use Guidance in mode self or off, or load a base or SFT model",
            )

    def submit(self, prepared: Prepared) -> None:
        """Queue a request; a full queue drops its oldest, counted."""
        if len(self.prepared) >= self._config.queue:
            self.prepared.popleft()
            self.dropped += 1
        self.prepared.append(prepared)

    def prepare(self, changes: dict[str, Any]) -> Change:
        """Check knobs and bring them to the device. Call it without the lock, since it may take long."""
        return Change.prepare(changes, self._channels, self._device, self._lane)

    def turn(self, change: Change) -> None:
        self.knobs = self.knobs.with_checked(change.values, change.neutral)
        self._turns.append(change)

    def adapt(self, lora: Factors | None) -> None:
        self._adapted, self.lora = self._adapted or lora is not self.lora, lora

    def configure(self, changes: dict[str, Any]) -> StreamConfig:
        """Change the configuration from the next step on, and return the new one.

        Raises:
            InputError: for a field that cannot change while playing.
            EngineLimitError: for a depth that there is no room for.
        """
        for name in changes:
            if name not in LIVE:
                raise InputError(
                    f"{name!r} cannot be changed while playing",
                    f"allowed are {', '.join(LIVE)}",
                    "open a session with it",
                )
        config = replace(self._config, **changes)
        config.check_depth(config.depth, self._rows())
        self._config = config
        self._configured.update(changes)
        return config

    def automate(self, tracks: Iterable[Track], tick: int) -> None:
        """Add tracks that count from this tick; a track replaces an older one of its knob."""
        added = list(tracks)
        for track in added:
            if track.knob == DEPTH:
                self._config.check_depth(int(max(track.values)), self._rows())
        for track in added:
            self._tracks[track.knob] = (tick, track)
            if track.knob == "guidance_scale" and not self._config.hot_guidance:
                self.configure({"hot_guidance": True})

    def take(self, tick: int) -> Arrivals:
        """Return the arrivals for this tick, and empty the inbox."""
        self._play_tracks(tick)
        arrivals = Arrivals(self._configured, self._adapted, self.lora, self._turns, list(self.prepared))
        self._configured, self._adapted, self._turns = {}, False, []
        self.prepared.clear()
        return arrivals

    def _within(self, depth: int) -> int:
        """Limit a track's depth to what other sessions leave now; it was checked when the track was added."""
        rows = max(1, self._rows())
        if depth > rows:
            log.warning("a track asks for depth %d, and other sessions leave %d", depth, rows)
        return min(depth, rows)

    def _play_tracks(self, tick: int) -> None:
        """Set the knobs whose track changes value at this tick; while a track holds a value, the knob may be set by
        hand.
        """
        by_hand = {*self._configured, *(name for change in self._turns for name in change.values)}
        for knob, (since, track) in list(self._tracks.items()):
            value = track.at(tick - since)
            if value is not None and value != track.at(tick - since - 1) and knob not in by_hand:
                if knob in KNOBS:
                    self.turn(self.prepare({knob: value}))
                else:
                    self.configure({knob: self._within(int(value))})
            if not track.loop and tick - since >= track.start + len(track.values):
                del self._tracks[knob]
