"""Every default, written once. Nodes, command line and docs read them from these dataclasses."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property

from .constants import MAX_CONDITIONS, MAX_DEPTH, MAX_STEPS
from .controls.knobs import KNOBS
from .controls.values import Value, check_value, is_constant
from .errors import EngineLimitError, InputError, check_choice, check_flag, check_range, check_whole
from .spec import ACE_STEP

MODES = ("off", "self", "initialize", "full")
SOLVERS = ("ode", "sde")
ROW_MODES = ("off", "initialize", "full")  # from fewer rows to more


@dataclass(frozen=True, eq=False)
class Guidance:
    """Adaptive projected guidance of one request (APG, arXiv 2410.02416; over time, as in the ACE-Step base model).

    `scale`, `momentum` and `rescale` may be curves; a session's knobs of the same names override them.

    Attributes:
        scale: 1 is no guidance.
        start, end: the part of the schedule, as `1 - t`, in which it acts.
        momentum: carried from step to step.
        eta: share kept of the part parallel to the prediction.
        norm_limit: largest norm of a channel's guidance step.
        rescale: 1 gives the guided velocity the norm it had before (arXiv 2305.08891, section 3.4).
        mode: source of the negative velocity: `full` decodes it at every step, `initialize` at the first step and keeps
            it, `self` takes the slot's initial noise and decodes nothing (residual guidance, arXiv 2312.12491, section
            3.2), `off` is no guidance whatever the scale.
        every: in mode `full`, the negative is decoded at the first guided step and every so many after it. Between, the
            guidance goes on as it was last (its running average is held), so less is decoded.

    Raises:
        InputError: for a value out of range.
    """

    scale: Value = 7.0
    start: float = 0.0
    end: float = 1.0
    momentum: Value = -0.75
    eta: float = 0.0
    norm_limit: float = 2.5
    rescale: Value = 0.0
    mode: str = "full"
    every: int = 1

    def __post_init__(self) -> None:
        check_value("guidance scale", self.scale, *KNOBS["guidance_scale"].limits)
        check_range("guidance start", self.start, 0.0, 1.0, "0 is the first step")
        check_range("guidance end", self.end, 0.0, 1.0, "1 is the last step")
        check_value("guidance momentum", self.momentum, *KNOBS["momentum"].limits)
        check_range("guidance eta", self.eta, 0.0, 1.0, "0 drops the parallel part")
        check_range("guidance norm limit", self.norm_limit, 1e-3, 1e6, "2.5 is the model's own value")
        check_value("guidance rescale", self.rescale, *KNOBS["rescale"].limits)
        check_choice("guidance mode", self.mode, MODES)
        check_whole("guidance every", self.every, 1, MAX_STEPS, "1 decodes the negative at every step")
        if self.start > self.end:
            raise InputError(
                f"guidance starts at {self.start:g} and ends at {self.end:g}",
                "the start must not lie after the end",
                "swap or widen them",
            )

    @cached_property
    def active(self) -> bool:
        """Return true where it has an effect at its own scale."""
        return self.mode != "off" and not is_constant(self.scale, 1.0)

    @property
    def decodes(self) -> bool:
        """Return true where its mode decodes a negative condition."""
        return self.mode in ("initialize", "full")

    def rows(self, hot: bool = False) -> str:
        """Return the rows it needs of a ring, one of `ROW_MODES`; `hot` where a knob may change the scale while it
        plays.
        """
        if not self.decodes or not (self.active or hot):
            return "off"
        return "initialize" if self.every > 1 else self.mode

    def acts_at(self, t: float) -> bool:
        """Return true where sigma `t` in [0, 1] lies in the interval.

        `t` is rounded to float32 first, as the model's own schedule is: an edge such as 0.1 then falls on the same
        side.
        """
        return self.mode != "off" and self.start <= 1.0 - struct.unpack("f", struct.pack("f", t))[0] <= self.end


NO_GUIDANCE = Guidance(scale=1.0, mode="off")


@dataclass(frozen=True)
class Sampling:
    """The way of one request from noise to a latent: `ode` is Euler's method, `sde` adds fresh noise at each step.

    Raises:
        InputError: for a value out of range.
    """

    steps: int = ACE_STEP.steps
    shift: float = ACE_STEP.shift
    denoise: float = 1.0
    seed: int = 0
    solver: str = "ode"

    def __post_init__(self) -> None:
        check_whole("steps", self.steps, 1, MAX_STEPS, "turbo models are made for 8, base models for about 50")
        check_range("shift", self.shift, 0.01, 100.0, "ACE-Step uses 1, 2 or 3")
        check_range("denoise", self.denoise, 0.0, 1.0, "1 makes the music anew, less keeps more of the source")
        check_whole("seed", self.seed, 0, 2**64 - 1, "give a whole number that is not negative")
        check_choice("solver", self.solver, SOLVERS)


@dataclass(frozen=True)
class StreamConfig:
    """The structure of a ring; changing any of it but the queue and the spread rebuilds the ring.

    Attributes:
        depth: slots in the ring.
        guidance: rows for the negative condition: `off` has none, `initialize` decodes them one by one at the steps
            that need one (the first, or some with `Guidance.every`), `full` at every step. They are part of the batch's
            shape, which is constant: so a slot's result does not depend on the other slots.
        conditions: positive rows a slot, one for each condition that a request may have.
        tokens: length L of the condition buffers, 0 to take it from the first requests.
        queue: requests that may wait; one more drops the oldest, and the drop is counted.
        spread: admit one request every `steps / depth` ticks, so that latents finish evenly; off fills at once.
        hot_guidance: give requests the rows that their mode needs at any scale, because a knob will change it.
        length_change: effect of a request of another length on those in flight: `finish` waits until they are done,
            `drop` drops them, counted.
        captured: replay repeated ticks as CUDA graphs, where the engine allows it; turn it off to profile them. The
            latents are the same.
    """

    depth: int = 4
    guidance: str = "off"
    conditions: int = 1
    tokens: int = 0
    queue: int = 8
    spread: bool = True
    length_change: str = "finish"
    hot_guidance: bool = False
    captured: bool = True

    def __post_init__(self) -> None:
        check_whole("depth", self.depth, 1, MAX_DEPTH, "choose how many generations are in flight")
        check_choice("the ring's guidance", self.guidance, ROW_MODES)
        check_whole("conditions", self.conditions, 1, MAX_CONDITIONS, "combine fewer conditions")
        check_whole("tokens", self.tokens, 0, 1 << 16, "0 takes the length from the requests")
        check_whole("queue", self.queue, 1, 1 << 16, "a queue holds at least one request")
        check_choice("the length change", self.length_change, ("finish", "drop"))
        check_flag("spread", self.spread)
        check_flag("hot guidance", self.hot_guidance)
        check_flag("captured", self.captured)

    @staticmethod
    def check_depth(depth: int, rows: int) -> None:
        """Raise `EngineLimitError` for more slots than an engine has rows."""
        if depth > rows:
            raise EngineLimitError(
                f"depth is {depth}",
                f"the engine takes {rows} rows",
                "use a smaller depth, or raise the engine's max_rows",
            )


def more_rows(a: str, b: str) -> str:
    """Return the one of two row modes that has more rows."""
    return max(a, b, key=ROW_MODES.index)
