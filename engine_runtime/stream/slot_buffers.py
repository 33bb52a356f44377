"""Per-slot buffers on the device beside the rows, and how knobs are written into them.

D slots, T frames, C channels, K conditions. A buffer is made when the first slot needs it and stays; its rows are
written when a request takes a slot or a knob changes, never by a tick.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from ..config import more_rows
from ..controls.knobs import KNOBS
from ..controls.values import Value
from ..numerics.correction import filters, number_of
from .knob_state import KnobState
from .prepared import GUIDANCE, Prepared
from .ring import Gates

NEUTRAL = {name: knob.neutral or 0.0 for name, knob in KNOBS.items()}
FACTORS = {"low": ("dcw_low",), "high": ("dcw_high",), "double": ("dcw_low", "dcw_high"), "pix": ("dcw_low",)}
CURVES = ("velocity_scale", "ode_noise", "sde", "target_strength", "channel_gain")  # of every request alike


class SlotBuffers:
    """Buffers by name, slot first.

    `[D, T, C]`: `average` (momentum of the guidance), `negative` (a kept or virtual negative velocity), `noise`,
    `source`, `mask`, `target`, `eps`, `channel_gain`. `[D, T, 1]`: the other knobs. `[D, K, T, 1]`: `weights`. `[D, W,
    1]`: `dcw_low W`, `dcw_high W` in W wavelet coefficients; `dcw_pix` is `[D, T, 1]`.
    """

    def __init__(
        self, depth: int, frames: int, channels: int, conditions: int, guidance: str, device: torch.device
    ) -> None:
        self.depth, self.frames, self.channels, self.conditions = depth, frames, channels, conditions
        self.guidance, self.device = guidance, device
        self.tensors: dict[str, Tensor] = {}
        self.prepared: list[Prepared | None] = [None] * depth

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def buffer(self, name: str, *shape: int) -> Tensor:
        """Return a buffer `[D, *shape]`, made on its first use."""
        if name not in self.tensors:
            self.tensors[name] = torch.full((self.depth, *shape), NEUTRAL.get(name, 0.0), device=self.device)
        return self.tensors[name]

    def band(self, name: str, wavelet: str) -> Tensor:
        """Return `dcw_low` or `dcw_high` for a wavelet.

        There is one for each number of coefficients, so that a captured tick keeps its addresses.
        """
        count = filters(wavelet).coefficients(self.frames)
        return self.buffer(f"{name} {count}", count, 1)

    def latents(self, name: str) -> Tensor:
        return self.buffer(name, self.frames, self.channels)

    def write(self, slot: int, prepared: Prepared, setting: KnobState) -> Gates:
        """Write all buffers of a slot for a request; returns its gates."""
        self.prepared[slot] = prepared
        request = prepared.request
        uses_source = request.masked or request.sampling.solver == "sde"
        for name, tensor, used in (
            ("noise", prepared.noise, request.masked),
            ("source", prepared.source, uses_source),
            ("mask", prepared.mask, request.masked),
            ("target", prepared.target, True),
        ):
            if tensor is not None and used:
                self.latents(name)[slot].copy_(tensor)
        if request.guidance.mode != "off":
            self.latents("average")[slot].zero_()
        if request.guidance.mode == "self":
            self.latents("negative")[slot].copy_(prepared.noise)
        if self.conditions > 1:
            self._weigh(slot, prepared, setting)
        self._own_guidance([slot], setting, GUIDANCE)
        return self._gates(prepared, setting)

    def turn(self, span: slice, slots: Sequence[int], setting: KnobState, names: Collection[str]) -> dict[int, Gates]:
        """Write the knobs of these names for a span of slots at once; returns the gates of the occupied ones, `slots`.
        """
        for name in CURVES:
            if name in names:
                self._put(span, name, setting.value(name), name in setting.knobs.neutral)
        for name in GUIDANCE:
            if name in names and (turned := setting.value(name)) is not None:
                self._put(span, name, turned, False)
        self._own_guidance(slots, setting, [name for name in GUIDANCE if name in names])
        if self.conditions > 1 and "blend" in names:
            for slot in slots:
                self._weigh(slot, self._held(slot), setting)
        if any(name.startswith("dcw") for name in names):
            self._correct(span, setting)
        return {slot: self._gates(self._held(slot), setting) for slot in slots}

    def _gates(self, prepared: Prepared, setting: KnobState) -> Gates:
        knobs, neutral, request = setting.knobs, setting.knobs.neutral, prepared.request
        rows = self._rows_of(prepared)
        own = prepared.still
        still = {n: n in (own if getattr(knobs, n) is None else neutral) for n in ("guidance_scale", "rescale")}
        answers = request.guidance.mode == "self" or rows != "off"
        return Gates(
            negative=rows,
            guided=answers and not still["guidance_scale"],
            rescaled=answers and not still["rescale"],
            scaled="velocity_scale" not in neutral,
            gained="channel_gain" not in neutral,
            noisy="ode_noise" not in neutral,
            targeted="target_strength" not in neutral and request.target is not None,
            sourced="sde" not in neutral and request.source is not None,
            corrected=number_of(knobs.dcw_mode, knobs.dcw_wavelet)
            if knobs.dcw and any(name not in neutral for name in FACTORS[knobs.dcw_mode])
            else 0,
        )

    def _held(self, slot: int) -> Prepared:
        prepared = self.prepared[slot]
        assert prepared is not None
        return prepared

    def free(self, slot: int) -> None:
        """Release the tensors of a finished request."""
        self.prepared[slot] = None

    def take(self, slot: int, other: SlotBuffers, theirs: int) -> None:
        """Copy a slot of another ring of the same length and number of conditions."""
        self.prepared[slot] = other.prepared[theirs]
        for name, tensor in other.tensors.items():
            self.buffer(name, *tensor.shape[1:])[slot].copy_(tensor[theirs])

    def _rows_of(self, prepared: Prepared) -> str:
        """Return the mode in which a slot decodes its negative; `off` where the ring has no rows for it."""
        guidance = prepared.request.guidance
        answers = guidance.decodes and prepared.request.first.null_tokens is not None
        return guidance.mode if answers and more_rows(guidance.mode, self.guidance) == self.guidance else "off"

    def _own_guidance(self, slots: Sequence[int], setting: KnobState, names: Collection[str]) -> None:
        """Write the requests' own scale, momentum and rescale, except where a knob overrides them."""
        for slot in slots:
            prepared = self._held(slot)
            for name in names:
                if prepared.request.guidance.mode != "off" and getattr(setting.knobs, name) is None:
                    assign(self._wide(name)[slot], prepared.guidance[name])

    def _weigh(self, slot: int, prepared: Prepared, setting: KnobState) -> None:
        """Write the weights of the conditions, each times `max(0, 1 - |b - j|)` with a blend `b`; a single one weighs
        1.

        A blend beyond the last condition counts as the last.
        """
        weights = self.buffer("weights", self.conditions, self.frames, 1)[slot].zero_()
        if len(prepared.weights) == 1:
            weights[0].fill_(1.0)
            return
        blend, last = setting.value("blend"), len(prepared.weights) - 1
        for j, weight in enumerate(prepared.weights):
            assign(weights[j], weight)
            if isinstance(blend, Tensor):
                weights[j].mul_((1.0 - (blend.clamp_max(last) - j).abs()).clamp_min(0.0))
            elif blend is not None:
                weights[j].mul_(max(0.0, 1.0 - abs(min(blend, last) - j)))

    def _correct(self, span: slice, setting: KnobState) -> None:
        """Write the factors of DCW: a number for each wavelet coefficient; in mode pix one for each frame."""
        knobs = setting.knobs
        if not knobs.dcw:
            return
        if knobs.dcw_mode == "pix":
            self._put(span, "dcw_pix", setting.value("dcw_low"), "dcw_low" in knobs.neutral)
            return
        for name in FACTORS["double"]:
            used = name in FACTORS[knobs.dcw_mode]
            value = setting.bands.get(name, getattr(knobs, name)) if used else 0.0
            assign(self.band(name, knobs.dcw_wavelet)[span], value)

    def _wide(self, name: str) -> Tensor:
        return self.buffer(name, self.frames, self.channels if name == "channel_gain" else 1)

    def _put(self, span: slice, name: str, value: Value | None, neutral: bool) -> None:
        """Write a knob for a span of slots; a neutral knob makes no buffer."""
        if value is not None and not (neutral and name not in self.tensors):
            assign(self._wide(name)[span], value)


def assign(rows: Tensor, value: Value) -> None:
    """Write a number, or a curve that broadcasts, into rows of a buffer."""
    if isinstance(value, Tensor):
        rows.copy_(value)
    else:
        rows.fill_(value)
