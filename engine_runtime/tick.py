"""One advance of every slot: gather, decode, guide, integrate. The hot path.

D slots, T frames, C = 64 channels; the latent state is float32 whatever the engine's dtype.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .config import StreamConfig
from .constants import LATENT_DIM
from .engines import Engine, Rows
from .errors import InputError
from .guidance import apg, momentum
from .lane import Lane
from .request import Request
from .ring import Scalars
from .steps import euler, masked_input, masked_velocity, start

TOKEN_BUCKET = 64  # condition buffers grow in these steps, so that near lengths share a shape


def noise(seed: int, frames: int) -> Tensor:
    """Starting noise `[T, 64]` float32: drawn on the CPU as `[1, 64, T]`, ComfyUI's layout, so that seeds agree."""
    generator = torch.Generator().manual_seed(seed % 2**64)
    return torch.randn(1, LATENT_DIM, frames, generator=generator)[0].T.contiguous()


@dataclass(frozen=True, eq=False)
class Seat:
    """A request with its tensors on the device, so that taking a slot costs copies on the device and no more.

    Attributes:
        latent: `[T, 64]` float32, the state at the first sigma.
        positive, negative: condition tokens `[L, H]` of the slot's rows, and their contexts `[T, 128]`.
        inpaint: mask, original and noise, `[3, T, 64]` float32, or None without a mask.
        ready: behind the work that made them.
    """

    request: Request
    latent: Tensor
    positive: tuple[Tensor, Tensor]
    negative: tuple[Tensor, Tensor]
    inpaint: Tensor | None
    ready: torch.cuda.Event | None

    def tensors(self) -> list[Tensor]:
        extra = [] if self.inpaint is None else [self.inpaint]
        return [self.latent, *self.positive, *self.negative, *extra]

    @classmethod
    def prepare(cls, request: Request, engine: Engine, lane: Lane) -> Seat:
        """Draw the noise and move what is not on the device, on the caller's current stream.

        Raises:
            InputError: for a condition of another model.
            EngineLimitError: for more frames or tokens than the engine takes.
        """
        condition, device = request.condition, engine.device
        engine.limits.check(1, request.frames, condition.length)
        if condition.tokens.shape[1] != engine.width:
            raise InputError(
                f"the condition is {condition.tokens.shape[1]} wide",
                f"this engine's model takes {engine.width}",
                "encode the prompt with the model that the engine was made from",
            )
        first = noise(request.sampling.seed, request.frames) if request.noise is None else request.noise
        if device.type == "cuda" and first.device.type == "cpu":
            first = first.pin_memory()  # a copy from pageable memory would wait for the stream
        first = first.to(device, torch.float32, non_blocking=True)
        source = None if request.source is None else request.source.to(device, torch.float32)
        inpaint = None
        if request.mask is not None and source is not None:
            inpaint = torch.stack([request.mask.to(device, torch.float32), source, first])
        positive = condition.tokens.to(device), condition.context.to(device)
        negative = (
            positive[0] if condition.null_tokens is None else condition.null_tokens.to(device),
            positive[1] if condition.null_context is None else condition.null_context.to(device),
        )
        latent = start(first, source, request.sigmas[0])
        return cls(request, latent, positive, negative, inpaint, lane.mark())


class Tick:
    """The device state of one ring, and the tick over it.

    Positive rows come first, row `i` for slot `i`; a guided ring has the negative rows behind them. The batch is the
    same at every tick, so a slot's result does not depend on its company.
    """

    def __init__(self, engine: Engine, config: StreamConfig, frames: int, tokens: int) -> None:
        depth, device = config.depth, engine.device
        self.engine, self.depth, self.frames, self.guided = engine, depth, frames, config.guided
        self.tokens = min(engine.limits.tokens, tokens + -tokens % TOKEN_BUCKET)
        self.rows = engine.rows(depth * (2 if config.guided else 1), frames, self.tokens)
        self.positive = self.rows.part(0, depth)
        self.negative = self.rows.part(depth, 2 * depth) if config.guided else None
        self.fused = config.guided and 2 * depth <= engine.limits.batch
        self.x = torch.zeros(depth, frames, LATENT_DIM, device=device)
        self.average = torch.zeros_like(self.x)  # momentum of the guidance
        self.velocity = torch.zeros(self.rows.timestep.shape[0], frames, LATENT_DIM, device=device)
        self.inpaint = torch.zeros(3, *self.x.shape, device=device)  # mask, original, noise
        self.table = torch.zeros(len(Scalars._fields), depth, 1, 1, device=device)

    def write(self, slot: int, seat: Seat) -> None:
        """Seat a request: its condition goes into the resident rows, its starting latent into the state."""
        self.positive.write(slot, *seat.positive)
        if self.negative is not None:
            self.negative.write(slot, *seat.negative)
        if seat.inpaint is not None:
            self.inpaint[:, slot].copy_(seat.inpaint)
        self.x[slot].copy_(seat.latent)
        self.average[slot].zero_()

    def run(self, plan: list[Scalars]) -> None:
        """Advance every slot by one step; `plan` holds one entry a slot."""
        host = torch.tensor(list(zip(*plan, strict=True)), pin_memory=self.x.is_cuda)  # [scalars, D]
        self.table.copy_(host.view_as(self.table), non_blocking=True)
        t, t_next, *_, masked = self.table.unbind(0)
        self.positive.active[:] = [s.t != s.t_next for s in plan]
        if self.negative is not None:
            self.negative.active[:] = [s.scale != 1.0 for s in plan]
        inpaint = any(s.masked for s in plan)  # known on the host, as is whether any slot is guided
        mask, original, fixed = self.inpaint
        seen = masked_input(self.x, mask, original, fixed, t, masked > 0) if inpaint else self.x
        velocity = self._velocity(seen, plan)
        if inpaint:
            velocity = masked_velocity(self.x, seen, velocity, mask, original, t, masked > 0)
        euler(self.x, velocity, t, t_next)

    def _velocity(self, x: Tensor, plan: list[Scalars]) -> Tensor:
        """The guided velocity of every slot, `[D, T, C]`."""
        t, _, scale, beta, eta, limit, _ = self.table.unbind(0)
        guided = any(s.scale != 1.0 for s in plan)
        velocity = self._decode(x, t, guided)
        if not guided:
            return velocity
        on = scale != 1.0
        self.average.copy_(momentum(velocity - self.velocity[self.depth :], self.average, beta, on))
        return apg(velocity, self.average, scale, eta, limit, on)

    def _decode(self, x: Tensor, t: Tensor, guided: bool) -> Tensor:
        """Fill `velocity`, always by copy: the engine's own output is overwritten by its next execute."""
        frames = self.frames
        if self.fused:
            self._gather(self.rows, x, t)
            self.velocity.copy_(self.engine(self.rows)[:, :frames])
        else:
            self._gather(self.positive, x, t)
            self.velocity[: self.depth].copy_(self.engine(self.positive)[:, :frames])
            if guided and self.negative is not None:
                self._gather(self.negative, x, t)
                self.velocity[self.depth :].copy_(self.engine(self.negative)[:, :frames])
        return self.velocity[: self.depth]

    def _gather(self, rows: Rows, x: Tensor, t: Tensor) -> None:
        """Write the latents and times of the coming step into rows, D or 2D of them."""
        rows.hidden_states.view(-1, *self.positive.hidden_states.shape)[:, :, : self.frames].copy_(x)
        rows.timestep.view(-1, self.depth).copy_(t.flatten())

    def read(self, slot: int) -> Tensor:
        """A copy of a slot's latent, `[T, 64]` float32."""
        return self.x[slot].clone()
