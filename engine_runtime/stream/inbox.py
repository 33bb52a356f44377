"""The inbox of a session: all that arrives from any thread, held until the session's next step."""

from __future__ import annotations

import logging
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
    """Gets all that a session takes in, such as the log of a take; `tick` counts the calls of `step` from 0."""

    def configured(self, tick: int, changes: dict[str, Any]) -> None: ...

    def adapted(self, tick: int, lora: Factors | None) -> None: ...

    def knobs_set(self, tick: int, changes: dict[str, Any]) -> None: ...

    def submitted(self, tick: int, request: Request) -> None: ...

    def cleared(self, tick: int) -> None: ...

    def failed(self, tick: int) -> None: ...


@dataclass(frozen=True, eq=False)
class Arrivals:
    """The arrivals that one step takes in.

    Attributes:
        config: changes of the configuration, by name.
        lora_changed: true where `lora` is new.
        lora: the adapters' factors.
        knobs: changes of knobs, in order.
        prepared: new requests.
    """

    config: dict[str, Any]
    lora_changed: bool
    lora: Factors | None
    knobs: list[Change]
    prepared: list[Prepared]

    def report(self, listener: Listener, tick: int) -> None:
        """Report all of it to a listener, in the order in which a step takes it in."""
        if self.config:
            listener.configured(tick, self.config)
        if self.lora_changed:
            listener.adapted(tick, self.lora)
        for change in self.knobs:
            listener.knobs_set(tick, dict(change.values))
        for prepared in self.prepared:
            listener.submitted(tick, prepared.request)


class Inbox:
    """The arrivals of one session since its last step. Hold `Stage.lock` for every method but `prepare`.

    Args:
        channels: of the engine's latents.
        config: the session's at the start.
        largest_depth: returns the largest depth that the session of this inbox may have; `Stage.largest_depth`.

    Attributes:
        knobs: as the next step will have them.
        lora: adapters' factors from the next step on.
        prepared: requests, the oldest first.
        dropped: requests that a full inbox dropped, the oldest first.
    """

    def __init__(
        self,
        channels: int,
        device: torch.device,
        lane: Lane,
        config: StreamConfig,
        knobs: Knobs,
        largest_depth: Callable[[Inbox], int],
    ) -> None:
        self.knobs, self.dropped = knobs, 0
        self.lora: Factors | None = None
        self.prepared: deque[Prepared] = deque()
        self._channels, self._device, self._lane, self._config = channels, device, lane, config
        self._largest_depth = largest_depth
        self._config_changes: dict[str, Any] = {}
        self._knob_changes: list[Change] = []
        self._lora_changed = False  # since the last step
        self._tracks: dict[str, tuple[int, Track]] = {}  # by knob, with the tick they were added at

    @property
    def hot_guidance(self) -> bool:
        """Return true where a knob or a track sets the guidance scale."""
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
        if self.hot_guidance and request.guidance.decodes and request.first.null_tokens is None:
            raise InputError(
                "the guidance scale is set for a condition without a null condition",
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

    def set(self, change: Change) -> None:
        """Set knobs, from the next step on."""
        self.knobs = self.knobs.with_checked(change.values, change.neutral)
        self._knob_changes.append(change)

    def adapt(self, lora: Factors | None) -> None:
        """Play these adapters from the next step on; None plays none."""
        self._lora_changed, self.lora = self._lora_changed or lora is not self.lora, lora

    def configure(self, changes: dict[str, Any]) -> None:
        """Change the configuration from the next step on.

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
        config.check_depth(config.depth, self._largest_depth(self))
        self._config = config
        self._config_changes.update(changes)

    def automate(self, tracks: Iterable[Track], tick: int) -> None:
        """Add tracks that count from this tick; a track replaces an older one of its knob."""
        added = list(tracks)
        for track in added:
            if track.knob == DEPTH:
                self._config.check_depth(int(max(track.values)), self._largest_depth(self))
        for track in added:
            self._tracks[track.knob] = (tick, track)
            if track.knob == "guidance_scale" and not self._config.hot_guidance:
                self.configure({"hot_guidance": True})

    def take(self, tick: int) -> Arrivals:
        """Return the arrivals for this tick, and empty the inbox."""
        self._play_tracks(tick)
        lora_changed, self._lora_changed = self._lora_changed, False
        arrivals = Arrivals(self._config_changes, lora_changed, self.lora, self._knob_changes, list(self.prepared))
        self._config_changes, self._knob_changes = {}, []
        self.prepared.clear()
        return arrivals

    def _limited(self, depth: int) -> int:
        """Limit a track's depth to what other sessions leave now; it was checked when the track was added."""
        largest = self._largest_depth(self)
        if depth > largest:
            log.warning("a track asks for depth %d, and other sessions leave %d", depth, largest)
        return min(depth, largest)

    def _play_tracks(self, tick: int) -> None:
        """Set the knobs whose track changes value at this tick; while a track holds a value, the knob may be set by
        hand.
        """
        by_hand = {*self._config_changes, *(name for change in self._knob_changes for name in change.values)}
        for knob, (since, track) in self._tracks.items():
            value = track.at(tick - since)
            if value is not None and value != track.at(tick - since - 1) and knob not in by_hand:
                if knob in KNOBS:
                    self.set(self.prepare({knob: value}))
                else:
                    self.configure({knob: self._limited(int(value))})
