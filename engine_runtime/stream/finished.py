"""A finished latent, on its way from the stage to whoever plays."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..device.lane import Lane
from .request import Request


@dataclass(frozen=True, eq=False)
class Finished:
    """A latent that reached sigma 0, on the lane's stream until it is taken.

    Attributes:
        session: the id of the session that submitted the request.
        latent: `[T, C]` float32.
        done: event behind the work that made it; None on the CPU.
    """

    session: str
    request: Request
    latent: torch.Tensor
    lane: Lane
    done: torch.cuda.Event | None

    def take(self) -> torch.Tensor:
        """Return the latent `[T, C]` float32, ordered before later work of the caller's current stream."""
        return self.lane.take(self.latent, self.done)
