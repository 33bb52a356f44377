"""What a stage knows of a session, and what it hands out."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

import torch

from ..config import StreamConfig
from ..device.lane import Lane
from ..engines.factors import Factors
from .inbox import Listener
from .knob_state import Setting
from .prepared import Seat
from .request import Request
from .tick import Tick


class Player(Protocol):
    """A session. All but its name is touched by a step only, or with the stage's lock held."""

    name: str
    log: Listener | None
    config: StreamConfig  # of it here: depth, spread, length_change
    opened: StreamConfig  # what it asked for, without what requests needed beyond that
    latest: Setting
    setting: Setting
    waiting: deque[Seat]
    since_admission: int
    hurried: int  # slots that were added and may be filled at once
    dropped: int
    steps_done: int

    @property
    def asked(self) -> int:
        """The depth it will have."""
        ...

    @property
    def adapted(self) -> Factors | None:
        """The adapters it will have."""
        ...

    def take_in(self, tick: Tick | None) -> None:
        """Take in what arrived; turned knobs go into the tick's buffers."""
        ...

    def count(self, request: Request) -> None:
        """A request is finished."""
        ...

    def failed(self) -> None:
        """The step in which `take_in` was called last failed."""
        ...

    def keep_depth(self, depth: int) -> None:
        """The depth it asked for cannot be had."""
        ...

    def shut(self) -> None:
        """It cannot be let in; what it has waiting is dropped, counted."""
        ...


@dataclass(frozen=True, eq=False)
class Finished:
    """A latent that reached sigma 0, still on the lane's stream until it is taken."""

    session: str
    request: Request
    latent: torch.Tensor
    lane: Lane
    done: torch.cuda.Event | None

    def take(self) -> torch.Tensor:
        """The latent `[T, 64]` float32, ordered before whatever the caller's current stream does next."""
        return self.lane.take(self.latent, self.done)
