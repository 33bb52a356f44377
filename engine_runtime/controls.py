"""What the slots of a ring keep on the device beside their rows, and how knobs get there.

D slots, T frames, C = 64 channels, K conditions. A buffer is made when the first slot needs it and stays; its rows are
written when a request takes a slot or a knob is turned, never by a tick.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .config import ROW_MODES
from .constants import LATENT_DIM
from .correction import filters
from .knobs import KNOBS
from .ring import Gates
from .seat import GUIDANCE, Seat
from .setting import Setting
from .values import Value

NEUTRAL = {name: knob.neutral or 0.0 for name, knob in KNOBS.items()}
CURVES = ("velocity_scale", "ode_noise", "sde", "target_strength", "channel_gain")  # of every request alike


class Controls:
    """Buffers by name, slot first.

    `[D, T, 64]`: `average` (momentum of the guidance), `negative` (a kept or virtual negative velocity), `noise`,
    `source`, `mask`, `target`, `eps`, `channel_gain`. `[D, T, 1]`: the other knobs. `[D, K, T, 1]`: `weights`.
    `[D, W, 1]`: `dcw_low`, `dcw_high` in wavelet coefficients; `dcw_pix` is `[D, T, 1]`.
    """

    def __init__(self, depth: int, frames: int, conditions: int, guidance: str, device: torch.device) -> None:
        self.depth, self.frames, self.conditions = depth, frames, conditions
        self.guidance, self.device = guidance, device
        self.buffers: dict[str, Tensor] = {}
        self.seats: list[Seat | None] = [None] * depth
        self.wavelet = "haar"

    def __getitem__(self, name: str) -> Tensor:
        return self.buffers[name]

    def buffer(self, name: str, *shape: int) -> Tensor:
        """A buffer `[D, *shape]`, made on its first use."""
        if name not in self.buffers:
            self.buffers[name] = torch.full((self.depth, *shape), NEUTRAL.get(name, 0.0), device=self.device)
        return self.buffers[name]

    def latents(self, name: str) -> Tensor:
        return self.buffer(name, self.frames, LATENT_DIM)

    def seat(self, slot: int, seat: Seat, setting: Setting) -> Gates:
        """Write all of a slot; returns its gates."""
        self.seats[slot] = seat
        request = seat.request
        uses_source = request.masked or request.sampling.solver == "sde"
        for name, tensor, used in (
            ("noise", seat.noise, request.masked),
            ("source", seat.source, uses_source),
            ("mask", seat.mask, request.masked),
            ("target", seat.target, True),
        ):
            if tensor is not None and used:
                self.latents(name)[slot].copy_(tensor)
        if request.guidance.mode != "off":
            self.latents("average")[slot].zero_()
        if request.guidance.mode == "self":
            self.latents("negative")[slot].copy_(seat.noise)
        return self.turn(slot, setting)

    def turn(self, slot: int, setting: Setting) -> Gates:
        """Write the knobs of an occupied slot; returns its gates."""
        seat = self.seats[slot]
        assert seat is not None
        knobs, neutral = setting.knobs, setting.knobs.neutral
        for name in CURVES:
            self._put(name, slot, setting.value(name), name in neutral)
        if self.conditions > 1:
            self._weigh(slot, seat, setting)
        request = seat.request
        return Gates(
            negative=self._rows_of(seat),
            **self._guide(slot, seat, setting),
            scaled="velocity_scale" not in neutral,
            gained="channel_gain" not in neutral,
            noisy="ode_noise" not in neutral,
            targeted="target_strength" not in neutral and request.target is not None,
            sourced="sde" not in neutral and request.source is not None,
            corrected=knobs.dcw and self._correct(slot, setting),
        )

    def free(self, slot: int) -> None:
        """Let go of what a finished request brought."""
        self.seats[slot] = None

    def take(self, slot: int, other: Controls, theirs: int) -> None:
        """Take over a slot of another ring of the same length and number of conditions."""
        self.seats[slot], self.wavelet = other.seats[theirs], other.wavelet
        for name, tensor in other.buffers.items():
            self.buffer(name, *tensor.shape[1:])[slot].copy_(tensor[theirs])

    def _rows_of(self, seat: Seat) -> str:
        """What a slot decodes for its negative, as far as the ring has the rows."""
        mode = seat.request.guidance.mode
        if mode in ("off", "self") or seat.request.first.null_tokens is None:
            return "off"
        return mode if ROW_MODES.index(mode) <= ROW_MODES.index(self.guidance) else "off"

    def _guide(self, slot: int, seat: Seat, setting: Setting) -> dict[str, bool]:
        """Knobs of guidance go before the request's own values."""
        if seat.request.guidance.mode != "self" and self._rows_of(seat) == "off":
            return {"guided": False, "rescaled": False}
        acts = {}
        for name in GUIDANCE:
            turned = setting.value(name)
            still = name in (seat.still if turned is None else setting.knobs.neutral)
            self._put(name, slot, seat.guidance[name] if turned is None else turned, still)
            acts[name] = not still
        return {"guided": acts["guidance_scale"], "rescaled": acts["rescale"]}

    def _weigh(self, slot: int, seat: Seat, setting: Setting) -> None:
        """Weights of the conditions, each times `max(0, 1 - |b - j|)` with a blend `b`; a single one weighs 1."""
        weights = self.buffer("weights", self.conditions, self.frames, 1)[slot].zero_()
        if len(seat.weights) == 1:
            weights[0].fill_(1.0)
            return
        blend = setting.value("blend")
        for j, weight in enumerate(seat.weights):
            _assign(weights[j], weight)
            if isinstance(blend, Tensor):
                weights[j].mul_((1.0 - (blend - j).abs()).clamp_min(0.0))
            elif blend is not None:
                weights[j].mul_(max(0.0, 1.0 - abs(blend - j)))

    def _correct(self, slot: int, setting: Setting) -> bool:
        """Factors of DCW; returns whether any of them acts."""
        knobs = setting.knobs
        if self.wavelet != knobs.dcw_wavelet:  # other coefficients; every slot is written anew
            self.buffers = {n: b for n, b in self.buffers.items() if n not in ("dcw_low", "dcw_high")}
            self.wavelet = knobs.dcw_wavelet
        if knobs.dcw_mode == "pix":
            self._put("dcw_pix", slot, setting.value("dcw_low"), "dcw_low" in knobs.neutral)
            return "dcw_low" not in knobs.neutral
        used = [f"dcw_{band}" for band in ("low", "high") if knobs.dcw_mode in (band, "double")]
        count = filters(knobs.dcw_wavelet).coefficients(self.frames)
        for name in ("dcw_low", "dcw_high"):
            factor = setting.bands.get(name, getattr(knobs, name)) if name in used else 0.0
            _assign(self.buffer(name, count, 1)[slot], factor)
        return any(name not in knobs.neutral for name in used)

    def _put(self, name: str, slot: int, value: Value | None, neutral: bool) -> None:
        """Write a knob's row; a buffer that nobody needs is not made."""
        if value is None or (neutral and name not in self.buffers):
            return
        _assign(self.buffer(name, self.frames, LATENT_DIM if name == "channel_gain" else 1)[slot], value)


def _assign(row: Tensor, value: Value) -> None:
    if isinstance(value, Tensor):
        row.copy_(value)
    else:
        row.fill_(value)
