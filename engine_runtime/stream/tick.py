"""The tick, one advance of every slot by the formulas of `numerics/`, in their order. The hot path.

D slots, T frames, C channels, K conditions a slot; the latent state is float32 whatever the engine's dtype. A
feature that no slot uses runs no kernel; one that some use leaves the others' bits unchanged.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import partial

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
from .knob_state import BANDS, KnobState
from .prepared import Prepared
from .slot_buffers import SlotBuffers
from .slot_plan import COUNT, PLACE, Features, Gates, Scalars, SlotPlan, numbers_of

TOKEN_BUCKET = 64  # condition buffers grow in these steps, so that near lengths share a shape
NEAR = 4  # lengths of a row's condition for which writing one is kept captured


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
        self.table = torch.zeros(COUNT + self.conditions, depth, device=device)
        numbers = self.table[..., None, None]  # views of the table, `[D, 1, 1]` each
        self.scalars = Scalars(*numbers[: len(Scalars._fields)])
        self.flags = dict(zip(PLACE, numbers[len(Scalars._fields) : COUNT], strict=True))  # of the knobs
        self.holds = numbers[COUNT:]  # [K, D, 1, 1], of the conditions
        self._upload = Upload(self.table, lane.stream)
        self.generator = torch.Generator(device)
        self.capture = Capture(device, config.captured, pool=lane.pool())
        self.writing = Capture(
            device, config.captured, NEAR * len(self.rows.lengths), self.capture.pool, "written conditions"
        )

    @property
    def fused(self) -> bool | None:
        """Return true where positive and negative rows run in one execute; None where not both are decoded at every
        step.
        """
        return len(self.passes) == 1 if self.guidance == "full" else None

    def write(self, slot: int, prepared: Prepared, state: KnobState) -> Gates:
        """Write a request into a slot: conditions into the resident rows, the starting latent into the state."""
        self._write_conditions(slot, prepared)
        self.x[slot].copy_(prepared.latent)
        return self.buffers.write(slot, prepared, state)

    def set_knobs(
        self, span: slice, slots: Sequence[int], state: KnobState, names: Collection[str] = tuple(KNOBS)
    ) -> dict[int, Gates]:
        """Write the knobs of these names for a span of slots; returns the gates of the occupied ones, `slots`."""
        return self.buffers.set_knobs(span, slots, state, names)

    def copy_slot(self, slot: int, other: Tick, source: int) -> None:
        """Copy a slot of a tick that differs only in its depth or its engine."""
        if self.engine is other.engine:
            for block in range(self.blocks):
                self.rows.take(block * self.depth + slot, other.rows, block * other.depth + source)
        elif (prepared := other.buffers.prepared[source]) is not None:
            self._write_conditions(slot, prepared)
        self.x[slot].copy_(other.x[source])
        self.buffers.copy_slot(slot, other.buffers, source)

    def read(self, slot: int) -> Tensor:
        """Copy a slot's latent, `[T, C]` float32."""
        return self.x[slot].clone()

    def run(self, plans: Sequence[SlotPlan], lora: Factors | None = None) -> None:
        """Advance every slot by one step.

        Args:
            plans: one a slot.
            lora: adapters' factors, the same for all slots.
        """
        if lora is not self.rows.lora:
            before, self.rows = self.rows.captured_with, self.rows.adapted(lora)
            if self.rows.captured_with is not before:  # else every change of a strength would keep its factors
                self.capture.clear()
        numbers = numbers_of(plans, self.conditions)
        self._upload.put(numbers)
        self._draw(plans)
        self._activate(plans)
        features = self._features(plans, numbers)
        self.capture.run((features, self.rows.captured_with), lambda: self._advance(features))

    def _write_conditions(self, slot: int, prepared: Prepared) -> None:
        for block, row in enumerate(prepared.positive):
            self.rows.write(block * self.depth + slot, *row, self.writing.run)
        if self.guidance != "off":
            self.rows.write((self.blocks - 1) * self.depth + slot, *prepared.negative, self.writing.run)

    def _features(self, plans: Sequence[SlotPlan], numbers: Sequence[tuple[float, ...]]) -> Features:
        """Decide the features of the coming tick, on the host."""
        active = self.rows.active.reshape(self.blocks, self.depth)
        alone = self.guidance == "initialize"
        return Features.of(
            plans,
            numbers,
            passes=tuple([span for span in self.passes if not span[0] or active[slice(*span)].any()]),
            first=tuple([i for i, plan in enumerate(plans) if plan.scalars.decoded]) if alone else (),
        )

    def _advance(self, features: Features) -> None:
        """Enqueue the device's part of a tick. It is captured: it reads only buffers and, of the host, `features`.

        The formulas are those of `numerics/`, in this order: masked input, channel gain, decoding, guidance, velocity
        scale, clean prediction with mask and target, step, noise, correction. Each runs if any slot needs it.
        """
        x, s, buffers, on = self.x, self.scalars, self.buffers, features.on
        mask = self._mask(features) if "masked" in on else None
        seen = x
        if mask is not None:
            seen = steps.masked_input(x, mask, buffers["source"], buffers["noise"], s.t, s.masked > 0)
        fed = seen * buffers["channel_gain"] if "channel_gain" in on else seen
        velocity = network = self._guided(self._decode(fed, features), features)
        if "velocity_scale" in on:
            velocity = network * buffers["velocity_scale"]
        if features.predicted:
            x0 = self._predicted(seen, velocity, mask, features)
        if features.corrections:
            own = self._pushed_from(seen, network, x0, features)  # before the step, which may be in place
        if "redirected" in on:
            new = steps.euler_to(x, x0, velocity, s.t, s.t_next, s.redirected > 0)
        else:
            new = steps.euler(x, velocity, s.t, s.t_next)
        if "ode_noise" in on:
            fresh = buffers.latents("eps")
            new = steps.injected(new, fresh, buffers["ode_noise"], s.t_next, self._acts("ode_noise"))
        if "renoised" in on:
            new = self._renoised(new, x0, features)
        for number in features.corrections:
            new = self._corrected(new, own, number)
        if new is not x:
            x.copy_(new)

    def _acts(self, knob: str) -> Tensor:
        """Return true where a knob acts on a slot at its step, `[D, 1, 1]`."""
        return self.flags[knob] > 0

    def _mask(self, features: Features) -> Tensor:
        """Return the mask of each slot at its strength, `[D, T, C]`."""
        mask = self.buffers["mask"]
        return steps.mask_at(mask, self.scalars.mask_strength) if features.softened else mask

    def _predicted(self, seen: Tensor, velocity: Tensor, mask: Tensor | None, features: Features) -> Tensor:
        """Predict the clean latent `x0`, `[D, T, C]`, with the mask's source and the target in it."""
        s, buffers = self.scalars, self.buffers
        x0 = steps.clean(seen, velocity, s.t)
        if mask is not None:
            x0 = steps.masked_clean(x0, mask, buffers["source"], s.masked > 0)
        if "target_strength" in features.on:
            x0 = steps.toward(x0, buffers["target"], buffers["target_strength"], self._acts("target_strength"))
        return x0

    def _renoised(self, x: Tensor, x0: Tensor, features: Features) -> Tensor:
        """Take the sde step, from the prediction or what the knob `sde` mixes of it and the source."""
        s, buffers = self.scalars, self.buffers
        goal = x0
        if "sde" in features.on:
            goal = steps.toward(x0, buffers["source"], 1.0 - buffers["sde"], self._acts("sde"))
        return steps.renoised(x, goal, buffers.latents("eps"), s.t_next, s.renoised > 0)

    def _pushed_from(self, seen: Tensor, network: Tensor, x0: Tensor, features: Features) -> Tensor:
        """Return the prediction that corrections push away from: the network's own, before velocity scale, as in
        ACE-Step 0.1.7; in slots with a mask or a target what these made of it, so that kept frames stay.
        """
        if "velocity_scale" not in features.on:
            return x0
        return torch.where(self.scalars.redirected > 0, x0, steps.clean(seen, network, self.scalars.t))

    def _corrected(self, x: Tensor, x0: Tensor, number: int) -> Tensor:
        """Apply one of the corrections to the slots that have it."""
        buffers, on, wavelet = self.buffers, self.flags["dcw"] == number, correction.BY[number]
        if wavelet is None:
            return correction.corrected_whole(x, x0, buffers["dcw_pix"], on)
        low, high = (buffers.band(name, wavelet) for name in BANDS)
        return correction.corrected(x, x0, low, high, self.scalars.t, correction.filters(wavelet), on)

    def _guided(self, velocity: Tensor, features: Features) -> Tensor:
        """Compute the velocity `[D, T, C]` after guidance."""
        s, buffers, on = self.scalars, self.buffers, features.on
        if "guidance_scale" in on or "decoded" in on:
            negative = self._negative(features)  # which may be kept for later steps
        if "guidance_scale" not in on:
            return velocity
        acts, average = self._acts("guidance_scale"), buffers["average"]
        moves = acts & (s.held == 0) if "held" in on else acts
        average.copy_(guidance.momentum(velocity - negative, average, buffers["momentum"], moves))
        guided = guidance.apg(velocity, average, buffers["guidance_scale"], s.eta, s.norm_limit, acts)
        if "rescale" in on:
            guided = guidance.rescaled(guided, velocity, buffers["rescale"], self._acts("rescale"))
        return guided

    def _negative(self, features: Features) -> Tensor:
        """Return the negative velocity `[D, T, C]`: this tick's where a slot decodes it, else the one it keeps."""
        if self.guidance != "full":
            return self.buffers.latents("negative")
        if not features.mixed:
            return self.velocity[-1]
        kept = self.buffers.latents("negative")
        return kept.copy_(torch.where(self.scalars.decoded > 0, self.velocity[-1], kept))

    def _decode(self, x: Tensor, features: Features) -> Tensor:
        """Decode the rows and return every slot's velocity `[D, T, C]`, composed of its conditions.

        The engine's output is always copied, since its next execute overwrites it.
        """
        t = self.scalars.t
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
        weights = self.buffers["weights"].transpose(0, 1) * self.holds
        return steps.composed(self.velocity[: self.conditions], weights)

    def _execute(self, rows: Rows, velocity: Tensor) -> None:
        """Run one pass of the engine, into `[blocks, D, T, C]`; outside the captured graph where it cannot be in it."""
        if self.engine.capturable:
            _decoded(self.engine, rows, velocity)
        else:
            self.capture.outside(partial(_decoded, self.engine, rows, velocity))

    def _activate(self, plans: Sequence[SlotPlan]) -> None:
        """Mark on the host the rows that the coming tick uses."""
        active = self.rows.active.reshape(self.blocks, self.depth)
        for slot, plan in enumerate(plans):
            for block in range(self.conditions):
                # the first may have to stand in for weights that are all 0
                active[block, slot] = bool(plan.holds) if block == 0 else block < len(plan.holds) and plan.holds[block]
            if self.guidance != "off":
                active[-1, slot] = bool(plan.scalars.decoded)

    def _draw(self, plans: Sequence[SlotPlan]) -> None:
        """Draw fresh noise for the slots that need it, each from its own seed."""
        for slot, plan in enumerate(plans):
            if plan.noise is not None:
                self.buffers.latents("eps")[slot].normal_(generator=self.generator.manual_seed(plan.noise))

    def _passes(self, most: int) -> Iterator[tuple[int, int]]:
        """Yield the blocks that run together, `most` at a time; `initialize` decodes its negatives by themselves."""
        blocks = self.blocks - (self.guidance == "initialize")
        yield from ((start, min(start + most, blocks)) for start in range(0, blocks, most))


def _gather(rows: Rows, depth: int, x: Tensor, t: Tensor) -> None:
    """Write the latents and times of the coming step into blocks of rows."""
    rows.hidden_states.unflatten(0, (-1, depth))[:, :, : x.shape[1]].copy_(x)
    rows.timestep.view(-1, depth).copy_(t.flatten())


def _decoded(engine: Engine, rows: Rows, velocity: Tensor) -> None:
    """Execute, and copy `[blocks * D, T, C]` to `[blocks, D, T, C]` without the padding over time."""
    velocity.copy_(engine(rows)[:, : velocity.shape[2]].unflatten(0, velocity.shape[:2]))
