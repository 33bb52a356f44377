"""One advance of every slot: gather, decode, compose, guide, integrate, correct. The hot path.

D slots, T frames, C = 64 channels, K conditions a slot; the latent state is float32 whatever the engine's dtype. What
no slot uses runs no kernel; what some use leaves the others their bits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from . import correction, guidance, steps
from .config import StreamConfig
from .constants import LATENT_DIM
from .controls import Controls
from .engines import Engine, Rows
from .knobs import KNOBS
from .lora.factors import Factors
from .ring import Gates, Move, Scalars
from .seat import Seat
from .setting import Setting

TOKEN_BUCKET = 64  # condition buffers grow in these steps, so that near lengths share a shape


class Tick:
    """The device state of one ring, and the tick over it.

    Rows come in blocks of D, row `i` of each for slot `i`: a block for each condition, then one for the negatives in a
    ring with guidance. The batches never change, so a slot's result does not depend on its company.
    """

    def __init__(self, engine: Engine, config: StreamConfig, frames: int, tokens: int) -> None:
        depth, device = config.depth, engine.device
        self.engine, self.config, self.depth, self.frames = engine, config, depth, frames
        self.conditions, self.guidance = config.conditions, config.guidance
        self.tokens = min(engine.limits.tokens, tokens + -tokens % TOKEN_BUCKET)
        self.blocks = self.conditions + (self.guidance != "off")
        self.rows = engine.rows(depth * self.blocks, frames, self.tokens)
        self.passes = list(self._passes(engine.limits.batch // depth))
        self.x = torch.zeros(depth, frames, LATENT_DIM, device=device)
        self.velocity = torch.zeros(self.passes[-1][1], *self.x.shape, device=device)  # by block
        self.controls = Controls(depth, frames, self.conditions, self.guidance, device)
        self.table = torch.zeros(len(Scalars._fields) + self.conditions, depth, 1, 1, device=device)
        self.generator = torch.Generator(device)

    @property
    def fused(self) -> bool | None:
        """Positive and negative rows in one execute; None where the negatives are not decoded at every step."""
        return len(self.passes) == 1 if self.guidance == "full" else None

    def write(self, slot: int, seat: Seat, setting: Setting) -> Gates:
        """Seat a request: its conditions go into the resident rows, its starting latent into the state."""
        for block, row in enumerate(seat.positive):
            self.rows.write(block * self.depth + slot, *row)
        if self.guidance != "off":
            self.rows.write((self.blocks - 1) * self.depth + slot, *seat.negative)
        self.x[slot].copy_(seat.latent)
        return self.controls.seat(slot, seat, setting)

    def turn(self, slots: Sequence[int], setting: Setting, names: Collection[str] = tuple(KNOBS)) -> dict[int, Gates]:
        """Write turned knobs; returns the gates of these, the occupied slots."""
        return self.controls.turn(slots, setting, names)

    def take(self, slot: int, other: Tick, theirs: int) -> None:
        """Take over a slot of a tick that differs in its depth only."""
        for block in range(self.blocks):
            self.rows.take(block * self.depth + slot, other.rows, block * other.depth + theirs)
        self.x[slot].copy_(other.x[theirs])
        self.controls.take(slot, other.controls, theirs)

    def read(self, slot: int) -> Tensor:
        """A copy of a slot's latent, `[T, 64]` float32."""
        return self.x[slot].clone()

    def run(self, plan: Sequence[Move], setting: Setting, lora: Factors | None = None) -> None:
        """Advance every slot by one step; `plan` holds one entry a slot, `lora` is what adapters add in all of them."""
        if lora is not self.rows.lora:
            self.rows = self.rows.adapted(lora)
        s, holds = self._upload(plan)
        some = Scalars(*(any(column) for column in zip(*(move.scalars for move in plan), strict=True)))
        c, seen = self.controls, self.x
        mask = c["mask"] if some.masked else None
        if mask is not None:
            mask = steps.followed(mask, s.strength) if any(m.scalars.strength != 1.0 for m in plan) else mask
            seen = steps.masked_input(self.x, mask, c["source"], c["noise"], s.t, s.masked > 0)
        fed = seen * c["channel_gain"] if any(m.gates.gained for m in plan) else seen
        velocity = self._guided(self._decode(fed, plan, s.t, holds), plan, s, some)
        if any(m.gates.scaled for m in plan):
            velocity = velocity * c["velocity_scale"]
        self._integrate(seen, velocity, mask, s, some, plan, setting)

    def _integrate(
        self,
        seen: Tensor,
        velocity: Tensor,
        mask: Tensor | None,
        s: Scalars,
        some: Scalars,
        plan: Sequence[Move],
        setting: Setting,
    ) -> None:
        """From the velocity to the state at the next sigma."""
        c, x = self.controls, self.x
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
        if some.renoised or some.injected:
            eps = self._fresh(plan)
        if some.injected:
            new = steps.injected(new, eps, c["ode_noise"], s.t_next, s.injected > 0)
        if some.renoised:
            goal = steps.toward(x0, c["source"], 1.0 - c["sde"], s.sourced > 0) if some.sourced else x0
            new = steps.renoised(new, goal, eps, s.t_next, s.renoised > 0)
        if some.corrected:
            new = self._corrected(new, x0, s, setting)
        x.copy_(new)

    def _corrected(self, x: Tensor, x0: Tensor, s: Scalars, setting: Setting) -> Tensor:
        c, knobs = self.controls, setting.knobs
        if knobs.dcw_mode == "pix":
            return correction.corrected_whole(x, x0, c["dcw_pix"], s.corrected > 0)
        wavelet = correction.filters(knobs.dcw_wavelet)
        return correction.corrected(x, x0, c["dcw_low"], c["dcw_high"], s.t, wavelet, s.corrected > 0)

    def _guided(self, velocity: Tensor, plan: Sequence[Move], s: Scalars, some: Scalars) -> Tensor:
        """The velocity `[D, T, C]` after guidance."""
        if not (some.guided or some.decoded):
            return velocity
        negative = self._negative(plan, s)
        if not some.guided:
            return velocity
        c = self.controls
        on, average = s.guided > 0, c["average"]
        average.copy_(guidance.momentum(velocity - negative, average, c["momentum"], on))
        guided = guidance.apg(velocity, average, c["guidance_scale"], s.eta, s.norm_limit, on)
        return guidance.rescaled(guided, velocity, c["rescale"], s.rescaled > 0) if some.rescaled else guided

    def _negative(self, plan: Sequence[Move], s: Scalars) -> Tensor:
        """The negative velocity `[D, T, C]`: this tick's where a slot decodes it, else the one it keeps."""
        if self.guidance != "full":
            return self.controls.latents("negative")
        kept = any(m.scalars.decoded and m.gates.negative == "initialize" for m in plan)
        if not kept and all(m.scalars.decoded or not m.scalars.guided for m in plan):
            return self.velocity[-1]
        negative = self.controls.latents("negative")
        return negative.copy_(torch.where(s.decoded > 0, self.velocity[-1], negative))

    def _decode(self, x: Tensor, plan: Sequence[Move], t: Tensor, holds: Tensor) -> Tensor:
        """Fill `velocity`, always by copy: the engine's own output is overwritten by its next execute.

        Returns the velocity of every slot, composed of its conditions, `[D, T, C]`.
        """
        self._activate(plan)
        for start, stop in self.passes:
            if not self.rows.active[start * self.depth : stop * self.depth].any() and start:
                continue  # a pass of its own that nobody needs
            rows = self.rows.part(start * self.depth, stop * self.depth)
            self._gather(rows, x, t)
            self.velocity[start:stop].copy_(self.engine(rows)[:, : self.frames].unflatten(0, (-1, self.depth)))
        if self.guidance == "initialize":
            self._decode_negatives(x, plan, t)
        if not any(len(move.holds) > 1 for move in plan):
            return self.velocity[0]
        weights = self.controls["weights"].transpose(0, 1) * holds
        return steps.composed(self.velocity[: self.conditions], weights)

    def _decode_negatives(self, x: Tensor, plan: Sequence[Move], t: Tensor) -> None:
        """The negatives that slots keep from their first step, one row at a time: no batch depends on who is new."""
        for slot, move in enumerate(plan):
            if move.scalars.decoded:
                row = (self.blocks - 1) * self.depth + slot
                rows = self.rows.part(row, row + 1)
                rows.hidden_states[0, : self.frames].copy_(x[slot])
                rows.timestep.copy_(t[slot].flatten())
                self.controls.latents("negative")[slot].copy_(self.engine(rows)[0, : self.frames])

    def _gather(self, rows: Rows, x: Tensor, t: Tensor) -> None:
        """Write the latents and times of the coming step into blocks of rows."""
        rows.hidden_states.unflatten(0, (-1, self.depth))[:, :, : self.frames].copy_(x)
        rows.timestep.view(-1, self.depth).copy_(t.flatten())

    def _activate(self, plan: Sequence[Move]) -> None:
        """Say on the host which rows the coming tick uses."""
        active = self.rows.active.reshape(self.blocks, self.depth)
        for slot, move in enumerate(plan):
            for block in range(self.conditions):
                # the first may have to stand in for weights that are all 0
                active[block, slot] = bool(move.holds) if block == 0 else block < len(move.holds) and move.holds[block]
            if self.guidance != "off":
                active[-1, slot] = bool(move.scalars.decoded)

    def _upload(self, plan: Sequence[Move]) -> tuple[Scalars, Tensor]:
        """The plan's numbers as `[D, 1, 1]` each, and which conditions hold, `[K, D, 1, 1]`: one copy."""
        spare = (False,) * self.conditions
        columns = [(*move.scalars, *(*move.holds, *spare)[: self.conditions]) for move in plan]
        host = torch.tensor(list(zip(*columns, strict=True)), dtype=torch.float32, pin_memory=self.x.is_cuda)
        self.table.copy_(host.view_as(self.table), non_blocking=True)
        numbers = self.table.unbind(0)
        return Scalars(*numbers[: len(Scalars._fields)]), self.table[len(Scalars._fields) :]

    def _fresh(self, plan: Sequence[Move]) -> Tensor:
        """Fresh noise `[D, T, C]` of the slots that want it, each from its own seed."""
        eps = self.controls.latents("eps")
        for slot, move in enumerate(plan):
            if move.noise is not None:
                eps[slot].normal_(generator=self.generator.manual_seed(move.noise))
        return eps

    def _passes(self, most: int) -> Iterator[tuple[int, int]]:
        """Blocks that run together, `most` at a time; `initialize` decodes its negatives by themselves."""
        blocks = self.blocks - (self.guidance == "initialize")
        yield from ((start, min(start + most, blocks)) for start in range(0, blocks, most))
