"""The workload to measure, and grids of workloads. Torch-free."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from ..config import MODES, NO_GUIDANCE, Guidance, Sampling, StreamConfig
from ..constants import MAX_ROWS
from ..errors import check_choice, check_whole
from ..profile.layers import Workload
from ..spec import ACE_STEP

TICKS = 100  # timed in each round, unless told otherwise
SPAN = 0.1  # seconds that each product of the floor is run for, so that the clock settles as it does in a stream
BLOCK = 1000  # ticks that a soak compares at both ends
SOAK_TICKS, SOAK_SECONDS = 20 * BLOCK, 10.0
WINDOW_SECONDS = 3.0  # of the VAE
GIB = 1 << 30  # what the label of a card calls a GB
OUTSIDE = 1.0  # GiB of a card for the driver, CUDA's libraries, graphs, and a desktop: not for tensors
AHEAD = 2  # ticks that the host may be ahead of the device, as in live play


@dataclass(frozen=True)
class Case:
    """One workload; the same numbers are the same work, bit for bit on one machine.

    Attributes:
        depth: slots in the ring, all taken, evenly apart in their steps.
        steps: of each request.
        seconds: of music in each.
        tokens: of each condition, L.
        cfg: guidance of the requests, one of `config.MODES`.
        dcw: the wavelet correction is on.
        controls: every control of the stream is on at once, `dcw` too.
        sessions: that share the ring, each with `depth` slots.
        ahead: ticks that the host may be ahead of the device. With more of them the host waits less and is quicker at
            its own work: after a wait its caches are cold, and on a virtual machine it may have to be woken.
        every: steps from one decoded negative to the next, as `Guidance.every`.
    """

    depth: int = Workload.depth
    steps: int = Workload.steps
    seconds: float = Workload.seconds
    tokens: int = Workload.tokens
    cfg: str = Workload.guidance
    dcw: bool = False
    controls: bool = False
    sessions: int = 1
    ahead: int = AHEAD
    every: int = 1

    def __post_init__(self) -> None:
        check_choice("the guidance", self.cfg, MODES)
        StreamConfig(depth=self.depth)
        Sampling(steps=self.steps)
        _ = self.guidance
        check_whole("tokens", self.tokens, 1, 1 << 16, "a condition has some")
        check_whole("sessions", self.sessions, 1, MAX_ROWS, "each has a slot or more")
        check_whole("ticks ahead", self.ahead, 1, 1 << 10, "the host enqueues one while another plays")
        _ = self.frames

    @property
    def frames(self) -> int:
        return ACE_STEP.frames_of(self.seconds)

    @property
    def slots(self) -> int:
        """Count the slots of all sessions."""
        return self.depth * self.sessions

    @cached_property
    def guidance(self) -> Guidance:
        """Return the guidance of each request."""
        return NO_GUIDANCE if self.cfg == "off" else Guidance(mode=self.cfg, every=self.every)

    @property
    def row_mode(self) -> str:
        """Return the ring's negative rows, one of `ROW_MODES`."""
        return self.guidance.rows()

    def whole(self, ticks: int) -> int:
        """Round up to a number of ticks after which all slots have finished equally often."""
        return -(-ticks // self.steps) * self.steps

    def command(self) -> str:
        """Its options on the command line."""
        given = f"--depth {self.depth} --steps {self.steps} --seconds {self.seconds:g} --tokens {self.tokens}"
        shared = f" --sessions {self.sessions}" if self.sessions > 1 else ""
        ahead = f" --ahead {self.ahead}" if self.ahead != AHEAD else ""
        every = f" --every {self.every}" if self.every > 1 else ""
        return f"{given} --cfg {self.cfg}{every}{' --dcw' * self.dcw}{' --controls' * self.controls}{shared}{ahead}"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def grid(depths: Sequence[int], seconds: Sequence[float], modes: Sequence[str], **rest: Any) -> tuple[Case, ...]:
    """Make a case for every combination, the depth changing fastest."""
    return tuple(Case(depth=d, seconds=s, cfg=mode, **rest) for mode, s, d in itertools.product(modes, seconds, depths))
