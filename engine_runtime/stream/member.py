"""A session's part in a stage: its requests that wait, its knobs in the ring, its counters."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import torch

from ..config import StreamConfig
from ..device.lane import Lane
from .inbox import Arrivals, Inbox, Listener
from .knob_state import Change, KnobState
from .prepared import Prepared
from .request import Request


class Member:
    """A session's part in a stage. Only the stage writes to it; the session reads it, and fills the inbox.

    Two locks of the stage guard it. `Stage.step_lock` is held for a whole step, and by whoever clears or closes;
    `Stage.lock` is held for a moment. What other threads read, `config` to `closed`, is written with both held, so that
    a thread may read it with either one, and a number or the configuration with none.

    Attributes:
        inbox: arrivals since the last step. Hold `lock`.
        log: gets all that a step takes in; only for a stage of one member.

        config: the configuration now: depth, queue, spread, length_change, and the structure of a ring of its own.
        base_config: as the caller asked, without what requests needed beyond that.
        waiting: requests that a step has taken in and no slot has yet, the oldest first.
        finished, frames: latents that finished, and their frames.
        ticks: steps taken part in.
        steps: steps of all its requests together.
        closed: true once it has left.

        next_knobs: the knobs for the next ring; written in a step alone, and read as a whole, since it is immutable.
        knobs: those in this ring, which differ by curves of another length than its T. Only in a step, as what follows.
        ticks_since_admission: since a request took a slot.
        new_slots: slots that a larger depth added, which are filled without spreading.
    """

    def __init__(self, name: str, config: StreamConfig, knobs: KnobState, inbox: Inbox, log: Listener | None) -> None:
        self.name, self.inbox, self.log = name, inbox, log
        self.config = self.base_config = config
        self.waiting: deque[Prepared] = deque()
        self.finished = self.frames = self.ticks = self.steps = 0
        self.closed = False
        self.knobs = self.next_knobs = knobs
        self.ticks_since_admission = 1 << 30
        self.new_slots = 0
        self._dropped = 0  # by steps; the inbox counts its own

    # --- read with either lock ---

    @property
    def queued(self) -> list[Request]:
        """List the requests that have no slot yet, the oldest first. Hold `lock`."""
        return [prepared.request for prepared in (*self.waiting, *self.inbox.prepared)]

    @property
    def dropped(self) -> int:
        """Count the requests that were dropped from the queue or the ring. Hold `lock`."""
        return self._dropped + self.inbox.dropped

    def rows_for(self, request: Request) -> str:
        """Return the negative rows that a request needs, one of `ROW_MODES`."""
        base = self.base_config
        hot = base.guidance != "off" or base.hot_guidance or self.next_knobs.knobs.guidance_scale is not None
        return request.guidance.rows(hot)

    # --- written with both locks ---

    def take_in(self) -> Arrivals:
        """Empty the inbox: take over its configuration and its requests, and return all of it."""
        tick = self.ticks
        arrivals = self.inbox.take(tick)
        self.ticks += 1
        if arrivals.config:
            self.base_config = replace(self.base_config, **arrivals.config)
            self.config = replace(self.config, **arrivals.config)
        self.waiting += arrivals.prepared
        while len(self.waiting) > self.config.queue:
            self.drop_oldest()
        if self.log is not None:
            arrivals.report(self.log, tick)
        return arrivals

    def drop_oldest(self) -> None:
        """Drop the request that has waited longest, counted."""
        self.waiting.popleft()
        self.count_dropped(1)

    def count_dropped(self, count: int) -> None:
        self._dropped += count

    def count_finished(self, request: Request) -> None:
        self.finished += 1
        self.frames += request.frames

    def keep_depth(self, depth: int) -> None:
        """Set the depth back to the ring's, where the ring could not be resized."""
        self.config, self.base_config = (replace(c, depth=depth) for c in (self.config, self.base_config))
        self.inbox.keep_depth(depth)
        if self.log is not None:
            self.log.configured(self.ticks - 1, {"depth": depth})

    def close(self) -> None:
        """Drop what has no slot yet, counted."""
        self.closed = True
        self.count_dropped(len(self.queued))
        self.inbox.prepared.clear()
        self.waiting.clear()

    # --- in a step ---

    def must_wait(self, request: Request, in_flight: int) -> bool:
        """Return true where a request waits so that latents finish evenly: one enters every ceil(steps / depth) ticks.

        Args:
            in_flight: slots that the member has occupied.
        """
        if not self.config.spread or in_flight == 0 or self.new_slots:
            return False
        return self.ticks_since_admission < math.ceil(request.steps / self.config.depth)

    def admitted(self) -> None:
        """Note that a request has taken a slot."""
        self.ticks_since_admission, self.new_slots = 0, max(0, self.new_slots - 1)

    def set_knobs(self, changes: Sequence[Change], frames: int | None, device: torch.device, lane: Lane) -> set[str]:
        """Change the knobs; returns the names of those that changed in this ring.

        Args:
            frames: T of this ring, whose knobs a curve of another length does not change. None without a ring.
        """
        names: set[str] = set()
        for change in changes:
            here = change if frames is None else change.fitting(frames)
            same = here is change and self.knobs is self.next_knobs
            self.next_knobs = self.next_knobs.changed(change, device, lane)
            self.knobs = self.next_knobs if same else self.knobs.changed(here, device, lane)
            names.update(here.values)
        return names

    def report_failure(self) -> None:
        """Tell the log that the step failed."""
        if self.log is not None:
            self.log.failed(self.ticks - 1)
