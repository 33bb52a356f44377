"""The interface between a stage and its sessions, and the finished latents a stage returns."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

import torch

from ..config import StreamConfig
from ..device.lane import Lane
from ..engines.factors import Factors
from .inbox import Listener
from .knob_state import KnobState
from .prepared import Prepared
from .request import Request
from .tick import Tick


class Player(Protocol):
    """A session, as its stage sees it.

    All but its name is used only in a step, or with the stage's lock held.
    """

    name: str
    log: Listener | None
    config: StreamConfig  # of it here: depth, spread, length_change
    opened: StreamConfig  # what it asked for, without what requests needed beyond that
    latest: KnobState
    setting: KnobState
    waiting: deque[Prepared]
    since_admission: int
    hurried: int  # slots that were added and may be filled at once
    dropped: int
    steps_done: int

    @property
    def asked(self) -> int:
        """Return the depth it will have at the next step."""
        ...

    @property
    def adapted(self) -> Factors | None:
        """Return the adapters it will have at the next step."""
        ...

    def take_in(self, tick: Tick | None) -> None:
        """Take in what arrived, and write changed knobs into the tick's buffers."""
        ...

    def count(self, request: Request) -> None:
        """Count a finished request."""
        ...

    def failed(self) -> None:
        """Report that the step of the last `take_in` failed."""
        ...

    def keep_depth(self, depth: int) -> None:
        """Set the depth back to this one, since the depth it asked for failed."""
        ...

    def shut(self) -> None:
        """Close it because it could not be let in; drop what it has waiting, counted."""
        ...


@dataclass(frozen=True, eq=False)
class Finished:
    """A latent that reached sigma 0, on the lane's stream until it is taken."""

    session: str
    request: Request
    latent: torch.Tensor
    lane: Lane
    done: torch.cuda.Event | None

    def take(self) -> torch.Tensor:
        """Return the latent `[T, C]` float32, ordered before later work of the caller's current stream."""
        return self.lane.take(self.latent, self.done)
