"""The tick, one advance of every slot: gather, decode, compose, guide, integrate, correct. The hot path.

D slots, T frames, C channels, K conditions a slot; the latent state is float32 whatever the engine's dtype. A
feature that no slot uses runs no kernel; one that some use leaves the others' bits unchanged.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..config import StreamConfig
from ..controls.knobs import KNOBS
from ..device.capture import Capture
from ..device.lane import Lane
from ..device.upload import Upload
from ..engines.contract import Engine, Rows
from ..engines.factors import Factors
from ..numerics import correction, guidance, steps
from .knob_state import KnobState
from .prepared import Prepared
from .ring import Gates, Scalars, SlotPlan
from .slot_buffers import FACTORS, SlotBuffers

TOKEN_BUCKET = 64  # condition buffers grow in these steps, so that near lengths share a shape
NEAR = 4  # lengths of a row's condition for which seating one is kept captured
FLAGS = Scalars._fields.index("guided")  # where a slot's numbers become flags


class Features(NamedTuple):
    """The features of a tick: all that its calls depend on, apart from the ring's own shape.

    Attributes:
        some: of each flag, its highest value over the slots.
        followed: a mask has a strength other than 1.
        gained, scaled, composed: any slot has channel gain, a velocity scale, several conditions.
        mixed: some negatives are this tick's, others are kept.
        passes: (first, end) of the blocks of rows that are decoded together.
        first: slots that decode the negative which they then keep.
        corrections: numbers of the corrections that any slot has.
    """

    some: Scalars
    followed: bool
    gained: bool
    scaled: bool
    composed: bool
    mixed: bool
    passes: tuple[tuple[int, int], ...]
    first: tuple[int, ...]
    corrections: tuple[int, ...]


class Tick:
    """The device state of one ring, and the tick over it.

    Rows come in blocks of D, row `i` of each for slot `i`: a block for each condition, then one for the negatives in a
    ring with guidance. The batch shapes never change, so a slot's result does not depend on the other slots.
    """

    def __init__(self, engine: Engine, config: StreamConfig, depth: int, frames: int, tokens: int, lane: Lane) -> None:
        device = engine.device
        self.engine, self.config, self.depth, self.frames = engine, config, depth, frames
        self.conditions, self.guidance = config.conditions, config.guidance
        self.tokens = min(engine.limits.tokens, tokens + -tokens % TOKEN_BUCKET)
        self.blocks = self.conditions + (self.guidance != "off")
        self.rows = engine.rows(depth * self.blocks, frames, self.tokens)
        self.passes = list(self._passes(engine.limits.batch // depth))
        self.x = torch.zeros(depth, frames, engine.spec.channels, device=device)
        self.velocity = torch.zeros(self.passes[-1][1], *self.x.shape, device=device)  # by block
        self.buffers = SlotBuffers(depth, frames, engine.spec.channels, self.conditions, self.guidance, device)
        self.table = torch.zeros(len(Scalars._fields) + self.conditions, depth, device=device)
        self._plan = Upload(self.table, lane.stream)
        self.generator = torch.Generator(device)
        self.capture = Capture(device, config.captured, pool=lane.pool())
        self.seating = Capture(
            device, config.captured, NEAR * len(self.rows.lengths), self.capture.pool, "written conditions"
        )

    @property
    def fused(self) -> bool | None:
        """Return true where positive and negative rows run in one execute; None where not both are decoded at every
        step.
        """
        return len(self.passes) == 1 if self.guidance == "full" else None

    def write(self, slot: int, prepared: Prepared, setting: KnobState) -> Gates:
        """Write a request into a slot: conditions into the resident rows, the starting latent into the state."""
        self._condition(slot, prepared)
        self.x[slot].copy_(prepared.latent)
        return self.buffers.write(slot, prepared, setting)

    def turn(
        self, span: slice, slots: Sequence[int], setting: KnobState, names: Collection[str] = tuple(KNOBS)
    ) -> dict[int, Gates]:
        """Write knobs into a span of slots; returns the gates of the occupied ones, `slots`."""
        return self.buffers.turn(span, slots, setting, names)

    def take(self, slot: int, other: Tick, theirs: int) -> None:
        """Copy a slot of a tick that differs only in its depth or its engine."""
        if self.engine is other.engine:
            for block in range(self.blocks):
                self.rows.take(block * self.depth + slot, other.rows, block * other.depth + theirs)
        elif (prepared := other.buffers.prepared[theirs]) is not None:
            self._condition(slot, prepared)
        self.x[slot].copy_(other.x[theirs])
        self.buffers.take(slot, other.buffers, theirs)

    def read(self, slot: int) -> Tensor:
        """Copy a slot's latent, `[T, C]` float32."""
        return self.x[slot].clone()

    def run(self, plan: Sequence[SlotPlan], lora: Factors | None = None) -> None:
        """Advance every slot by one step.

        Args:
            plan: one entry a slot.
            lora: adapters' factors, the same for all slots.
        """
        if lora is not self.rows.lora:
            before, self.rows = self.rows.captured_with, self.rows.adapted(lora)
            if self.rows.captured_with is not before:  # else every turn of a strength would keep its factors
                self.capture.clear()
        numbers = self._upload(plan)
        self._draw(plan)
        self._activate(plan)
        features = self._features(plan, numbers)
        self.capture.run((features, self.rows.captured_with), lambda: self._advance(features))

    def _condition(self, slot: int, prepared: Prepared) -> None:
        for block, row in enumerate(prepared.positive):
            self.rows.write(block * self.depth + slot, *row, self.seating.run)
        if self.guidance != "off":
            self.rows.write((self.blocks - 1) * self.depth + slot, *prepared.negative, self.seating.run)

    def _features(self, plan: Sequence[SlotPlan], numbers: Sequence[tuple[float, ...]]) -> Features:
        """Decide the features of the coming tick, on the host.

        Args:
            numbers: one row a scalar, with one number a slot.
        """
        some = Scalars(*(False,) * FLAGS, *map(max, numbers[FLAGS : len(Scalars._fields)]))
        active = self.rows.active.reshape(self.blocks, self.depth)
        return Features(
            some=some,
            followed=any(m.scalars.masked and m.scalars.strength != 1.0 for m in plan),
            gained=any(m.gates.gained for m in plan),
            scaled=any(m.gates.scaled for m in plan),
            composed=any(len(m.holds) > 1 for m in plan),
            mixed=any(_mixes(m) for m in plan),
            passes=tuple(span for span in self.passes if not span[0] or active[slice(*span)].any()),
            first=tuple(i for i, m in enumerate(plan) if m.scalars.decoded) if self.guidance == "initialize" else (),
            corrections=tuple(sorted({m.scalars.corrected for m in plan} - {0})),
        )

    def _advance(self, features: Features) -> None:
        """Enqueue the device's part of a tick. It is captured: it reads only buffers and, of the host, `features`."""
        s, holds = self._numbers()
        c, some, seen = self.buffers, features.some, self.x
        mask = c["mask"] if some.masked else None
        if mask is not None:
            mask = steps.followed(mask, s.strength) if features.followed else mask
            seen = steps.masked_input(self.x, mask, c["source"], c["noise"], s.t, s.masked > 0)
        fed = seen * c["channel_gain"] if features.gained else seen
        velocity = self._guided(self._decode(fed, s.t, holds, features), s, features)
        if features.scaled:
            velocity = velocity * c["velocity_scale"]
        self._integrate(seen, velocity, mask, s, features)

    def _integrate(self, seen: Tensor, velocity: Tensor, mask: Tensor | None, s: Scalars, features: Features) -> None:
        """Step from the velocity to the state at the next sigma."""
        c, x, some = self.buffers, self.x, features.some
        if some.blended or some.renoised or some.corrected:
            x0 = steps.clean(seen, velocity, s.t)
            if mask is not None:
                x0 = steps.masked_clean(x0, mask, c["source"], s.masked > 0)
            if some.targeted:
                x0 = steps.toward(x0, c["target"], c["target_strength"], s.targeted > 0)
            if some.blended:
                velocity = steps.blended_velocity(x, x0, velocity, s.t, s.blended > 0)
        steps.euler(x, velocity, s.t, s.t_next)
        if not (some.renoised or some.injected or some.corrected):
            return
        new = x
        if some.injected:
            new = steps.injected(new, c.latents("eps"), c["ode_noise"], s.t_next, s.injected > 0)
        if some.renoised:
            goal = steps.toward(x0, c["source"], 1.0 - c["sde"], s.sourced > 0) if some.sourced else x0
            new = steps.renoised(new, goal, c.latents("eps"), s.t_next, s.renoised > 0)
        for number in features.corrections:
            new = self._corrected(new, x0, s, number)
        x.copy_(new)

    def _corrected(self, x: Tensor, x0: Tensor, s: Scalars, number: int) -> Tensor:
        """Apply one of the corrections to the slots that have it."""
        c, on, wavelet = self.buffers, s.corrected == number, correction.BY[number]
        if wavelet is None:
            return correction.corrected_whole(x, x0, c["dcw_pix"], on)
        low, high = (c.band(name, wavelet) for name in FACTORS["double"])
        return correction.corrected(x, x0, low, high, s.t, correction.filters(wavelet), on)

    def _guided(self, velocity: Tensor, s: Scalars, features: Features) -> Tensor:
        """Compute the velocity `[D, T, C]` after guidance."""
        c, some = self.buffers, features.some
        if not (some.guided or some.decoded):
            return velocity
        negative = self._negative(s, features)
        if not some.guided:
            return velocity
        on, average = s.guided > 0, c["average"]
        average.copy_(guidance.momentum(velocity - negative, average, c["momentum"], on))
        guided = guidance.apg(velocity, average, c["guidance_scale"], s.eta, s.norm_limit, on)
        return guidance.rescaled(guided, velocity, c["rescale"], s.rescaled > 0) if some.rescaled else guided

    def _negative(self, s: Scalars, features: Features) -> Tensor:
        """Return the negative velocity `[D, T, C]`: this tick's where a slot decodes it, else the one it keeps."""
        if self.guidance != "full":
            return self.buffers.latents("negative")
        if not features.mixed:
            return self.velocity[-1]
        negative = self.buffers.latents("negative")
        return negative.copy_(torch.where(s.decoded > 0, self.velocity[-1], negative))

    def _decode(self, x: Tensor, t: Tensor, holds: Tensor, features: Features) -> Tensor:
        """Decode the rows and return every slot's velocity `[D, T, C]`, composed of its conditions.

        The engine's output is always copied, since its next execute overwrites it.
        """
        for start, stop in features.passes:
            rows = self.rows.part(start * self.depth, stop * self.depth)
            _gather(rows, self.depth, x, t)
            self._execute(rows, self.velocity[start:stop])
        for slot in features.first:
            # one row at a time: no batch depends on who is new
            row = (self.blocks - 1) * self.depth + slot
            rows = self.rows.part(row, row + 1)
            _gather(rows, 1, x[slot : slot + 1], t[slot])
            self._execute(rows, self.buffers.latents("negative")[None, slot : slot + 1])
        if not features.composed:
            return self.velocity[0]
        weights = self.buffers["weights"].transpose(0, 1) * holds
        return steps.composed(self.velocity[: self.conditions], weights)

    def _execute(self, rows: Rows, velocity: Tensor) -> None:
        """Run one pass of the engine, into `[blocks, D, T, C]`."""
        if self.engine.capturable:
            _decoded(self.engine, rows, velocity)
        else:
            self.capture.outside(partial(_decoded, self.engine, rows, velocity))

    def _activate(self, plan: Sequence[SlotPlan]) -> None:
        """Mark on the host the rows that the coming tick uses."""
        active = self.rows.active.reshape(self.blocks, self.depth)
        for slot, part in enumerate(plan):
            for block in range(self.conditions):
                # the first may have to stand in for weights that are all 0
                active[block, slot] = bool(part.holds) if block == 0 else block < len(part.holds) and part.holds[block]
            if self.guidance != "off":
                active[-1, slot] = bool(part.scalars.decoded)

    def _upload(self, plan: Sequence[SlotPlan]) -> list[tuple[float, ...]]:
        """Copy the plan's numbers, and which conditions hold, to the table in one copy; returns the table's rows."""
        spare = (False,) * self.conditions
        columns = [(*part.scalars, *(*part.holds, *spare)[: self.conditions]) for part in plan]
        numbers = list(zip(*columns, strict=True))
        self._plan.put(numbers)
        return numbers

    def _numbers(self) -> tuple[Scalars, Tensor]:
        """Return the plan's numbers as `[D, 1, 1]` each, and which conditions hold, `[K, D, 1, 1]`."""
        count = len(Scalars._fields)
        numbers = self.table[..., None, None]
        return Scalars(*numbers[:count].unbind(0)), numbers[count:]

    def _draw(self, plan: Sequence[SlotPlan]) -> None:
        """Draw fresh noise for the slots that need it, each from its own seed."""
        for slot, part in enumerate(plan):
            if part.noise is not None:
                self.buffers.latents("eps")[slot].normal_(generator=self.generator.manual_seed(part.noise))

    def _passes(self, most: int) -> Iterator[tuple[int, int]]:
        """Yield the blocks that run together, `most` at a time; `initialize` decodes its negatives by themselves."""
        blocks = self.blocks - (self.guidance == "initialize")
        yield from ((start, min(start + most, blocks)) for start in range(0, blocks, most))


def _mixes(plan: SlotPlan) -> bool:
    """Return true where a slot keeps the negative that it decodes now, or is guided by one that it kept."""
    s = plan.scalars
    return bool(plan.gates.negative == "initialize" if s.decoded else s.guided)


def _gather(rows: Rows, depth: int, x: Tensor, t: Tensor) -> None:
    """Write the latents and times of the coming step into blocks of rows."""
    rows.hidden_states.unflatten(0, (-1, depth))[:, :, : x.shape[1]].copy_(x)
    rows.timestep.view(-1, depth).copy_(t.flatten())


def _decoded(engine: Engine, rows: Rows, velocity: Tensor) -> None:
    """Execute, and copy `[blocks * D, T, C]` to `[blocks, D, T, C]` without the padding over time."""
    velocity.copy_(engine(rows)[:, : velocity.shape[2]].unflatten(0, velocity.shape[:2]))
