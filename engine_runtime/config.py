"""Every default, written once. Nodes, command line and docs read them from these dataclasses."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from .constants import LATENT_HZ, MAX_DEPTH, MAX_SECONDS
from .errors import InputError, check_range, check_whole


@dataclass(frozen=True)
class Guidance:
    """Adaptive projected guidance of one request (arXiv 2410.02416; over time, as the ACE-Step base model).

    `scale` 1 is no guidance. `start` and `end` bound the part of the schedule, as `1 - t`, in which it acts.
    """

    scale: float = 7.0
    start: float = 0.0
    end: float = 1.0
    momentum: float = -0.75
    eta: float = 0.0
    norm_limit: float = 2.5

    def __post_init__(self) -> None:
        check_range("guidance scale", self.scale, 0.0, 100.0, "1 turns guidance off, base models like 4 to 9")
        check_range("guidance start", self.start, 0.0, 1.0, "0 is the first step")
        check_range("guidance end", self.end, 0.0, 1.0, "1 is the last step")
        check_range("guidance momentum", self.momentum, -1.0, 1.0, "-0.75 is the model's own value")
        check_range("guidance eta", self.eta, 0.0, 1.0, "0 drops the parallel part")
        check_range("guidance norm limit", self.norm_limit, 1e-3, 1e6, "2.5 is the model's own value")
        if self.start > self.end:
            raise InputError(
                f"guidance starts at {self.start:g} and ends at {self.end:g}",
                "the start must not lie after the end",
                "swap or widen them",
            )

    @property
    def active(self) -> bool:
        """Whether any step may need the negative velocity."""
        return self.scale != 1.0

    def scale_at(self, t: float) -> float:
        """The guidance scale at time `t` in [0, 1]; 1 outside the interval.

        `t` is rounded to float32 first, as the model's own schedule is: an edge such as 0.1 falls on the same side.
        """
        return self.scale if self.start <= 1.0 - struct.unpack("f", struct.pack("f", t))[0] <= self.end else 1.0


NO_GUIDANCE = Guidance(scale=1.0)


@dataclass(frozen=True)
class Sampling:
    """How one request walks from noise to a latent."""

    steps: int = 8
    shift: float = 3.0
    denoise: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("steps", self.steps, 1, 1000, "turbo models are made for 8, base models for about 50")
        check_range("shift", self.shift, 0.01, 100.0, "ACE-Step uses 1, 2 or 3")
        check_range("denoise", self.denoise, 0.0, 1.0, "1 makes the music anew, less keeps more of the source")
        check_whole("seed", self.seed, 0, 2**64 - 1, "give a whole number that is not negative")


@dataclass(frozen=True)
class StreamConfig:
    """What a ring is built for; changing any of it rebuilds the ring.

    Attributes:
        depth: slots in the ring.
        guided: whether the ring has negative rows. They change the batch, so they are there from the start or not
            at all: a slot's result then does not depend on its company.
        tokens: length L of the condition buffers, 0 to take it from the requests at hand.
        queue: requests that may wait; a further one drops the oldest, and the drop is counted.
        spread: admit one request every `steps / depth` ticks, so that latents finish evenly; off fills at once.
    """

    depth: int = 4
    guided: bool = False
    tokens: int = 0
    queue: int = 8
    spread: bool = True

    def __post_init__(self) -> None:
        check_whole("depth", self.depth, 1, MAX_DEPTH, "choose how many generations are in flight")
        check_whole("tokens", self.tokens, 0, 1 << 16, "0 takes the length from the requests")
        check_whole("queue", self.queue, 1, 1 << 16, "a queue holds at least one request")


def frames_of(seconds: float) -> int:
    """Latent frames that hold `seconds` of audio: `ceil(25 * seconds)`, blind to float noise (0.28 s is 7 frames)."""
    if not math.isfinite(seconds) or seconds <= 0:
        raise InputError(f"seconds is {seconds:g}", "allowed is more than 0", "give the length of the music")
    if seconds > MAX_SECONDS:
        raise InputError(
            f"seconds is {seconds:g}", f"allowed is at most {MAX_SECONDS}", "make it shorter, or make several"
        )
    return math.ceil(round(seconds * LATENT_HZ, 6))


def frame_at(seconds: float) -> int:
    """The latent frame that holds a moment: `floor(25 * seconds)`, blind to float noise (1.16 s is frame 29)."""
    return math.floor(round(seconds * LATENT_HZ, 6))
