"""Per-slot buffers on the device beside the rows, and how knobs are written into them.

D slots, T frames, C channels, K conditions. A buffer is made when the first slot needs it and stays; its rows are
written when a request takes a slot or a knob changes, never by a tick.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from ..config import more_rows
from ..controls.knobs import DCW_FACTORS, KNOBS
from ..controls.values import Value
from ..numerics.correction import filters, number_of
from .knob_state import BANDS, KnobState
from .prepared import OWN, Prepared
from .slot_plan import PLACE, Gates

PLAIN = tuple(name for name, knob in KNOBS.items() if knob.buffer in ("frame", "channel"))


class SlotBuffers:
    """Buffers by name, slot first.

    `[D, T, C]`: `average` (momentum of the guidance), `negative` (a kept or virtual negative velocity), `noise`,
    `source`, `mask`, `target`, `eps`. `[D, K, T, 1]`: `weights`. Those of knobs have their names, in the shape that
    `Knob.buffer` says; those of DCW are `dcw_low W` and `dcw_high W`, for W wavelet coefficients, and `dcw_pix`.
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
            neutral = KNOBS[name].neutral if name in KNOBS else None
            self.tensors[name] = torch.full((self.depth, *shape), neutral or 0.0, device=self.device)
        return self.tensors[name]

    def band(self, name: str, wavelet: str) -> Tensor:
        """Return `dcw_low` or `dcw_high` for a wavelet.

        There is one for each number of coefficients, so that a captured tick keeps its addresses.
        """
        count = filters(wavelet).coefficients(self.frames)
        return self.buffer(f"{name} {count}", count, 1)

    def latents(self, name: str) -> Tensor:
        return self.buffer(name, self.frames, self.channels)

    def write(self, slot: int, prepared: Prepared, state: KnobState) -> Gates:
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
            self._write_weights(slot, state)
        self._write_own(slot, state, OWN)
        return self._gates(slot, state)

    def set_knobs(
        self, span: slice, slots: Sequence[int], state: KnobState, names: Collection[str]
    ) -> dict[int, Gates]:
        """Write the knobs of these names for a span of slots; returns the gates of the occupied ones, `slots`."""
        for name in PLAIN:
            if name in names and (value := state.value(name)) is not None:
                self._put(span, name, value, name in state.knobs.neutral)
        for slot in slots:
            self._write_own(slot, state, [name for name in OWN if name in names])
            if self.conditions > 1 and "blend" in names:
                self._write_weights(slot, state)
        if any(KNOBS[name].place == "correction" for name in names):
            self._put_bands(span, state)
        return {slot: self._gates(slot, state) for slot in slots}

    def _gates(self, slot: int, state: KnobState) -> Gates:
        """Decide which formulas a slot needs: those whose knob has an effect, or the value that holds in its place."""
        knobs, prepared = state.knobs, self._prepared(slot)
        negative = self._negative_mode(prepared)
        guided = negative != "off" or prepared.request.guidance.mode == "self"
        gates = {}
        for name, place in PLACE.items():
            own = KNOBS[name].overrides and getattr(knobs, name) is None
            if name not in (prepared.neutral if own else knobs.neutral) and (guided or place != "guidance"):
                gates[name] = 1
        if knobs.neutral.issuperset(DCW_FACTORS[knobs.dcw_mode]):
            gates.pop("dcw", None)
        elif "dcw" in gates:
            gates["dcw"] = number_of(knobs.dcw_mode, knobs.dcw_wavelet)
        return Gates(negative, gates)

    def _prepared(self, slot: int) -> Prepared:
        prepared = self.prepared[slot]
        assert prepared is not None
        return prepared

    def free(self, slot: int) -> None:
        """Release the tensors of a finished request."""
        self.prepared[slot] = None

    def copy_slot(self, slot: int, other: SlotBuffers, source: int) -> None:
        """Copy a slot of another ring of the same length and number of conditions."""
        self.prepared[slot] = other.prepared[source]
        for name, tensor in other.tensors.items():
            self.buffer(name, *tensor.shape[1:])[slot].copy_(tensor[source])

    def _negative_mode(self, prepared: Prepared) -> str:
        """Return the mode in which a slot decodes its negative; `off` where the ring has no rows for it."""
        guidance = prepared.request.guidance
        decodes = guidance.decodes and prepared.request.first.null_tokens is not None
        has_rows = more_rows(guidance.rows(hot=True), self.guidance) == self.guidance
        return guidance.mode if decodes and has_rows else "off"

    def _write_own(self, slot: int, state: KnobState, names: Collection[str]) -> None:
        """Write the request's own values of the knobs of these names that are None."""
        prepared = self._prepared(slot)
        if prepared.request.guidance.mode != "off":
            for name in names:
                if getattr(state.knobs, name) is None:
                    assign(self._knob(name)[slot], prepared.guidance[name])

    def _write_weights(self, slot: int, state: KnobState) -> None:
        """Write the weights of the conditions, each times `max(0, 1 - |b - j|)` with a blend `b`. A single one needs
        none: where all are 0 the first condition counts alone.

        A blend beyond the last condition counts as the last.
        """
        given = self._prepared(slot).weights
        weights = self.buffer("weights", self.conditions, self.frames, 1)[slot].zero_()
        if len(given) == 1:
            return
        blend, last = state.value("blend"), len(given) - 1
        for j, weight in enumerate(given):
            assign(weights[j], weight)
            if isinstance(blend, Tensor):
                weights[j].mul_((1.0 - (blend.clamp_max(last) - j).abs()).clamp_min(0.0))
            elif blend is not None:
                weights[j].mul_(max(0.0, 1.0 - abs(min(blend, last) - j)))

    def _put_bands(self, span: slice, state: KnobState) -> None:
        """Write the factors of DCW: a number for each wavelet coefficient; in mode pix one for each frame."""
        knobs = state.knobs
        if not knobs.dcw:
            return
        if knobs.dcw_mode == "pix":
            self._put(span, "dcw_pix", state.value("dcw_low"), "dcw_low" in knobs.neutral)
            return
        for name in BANDS:
            used = name in DCW_FACTORS[knobs.dcw_mode]
            value = state.bands.get(name, getattr(knobs, name)) if used else 0.0
            assign(self.band(name, knobs.dcw_wavelet)[span], value)

    def _knob(self, name: str) -> Tensor:
        """Return the buffer of a knob with one number a frame, or one a frame and channel."""
        wide = name in KNOBS and KNOBS[name].buffer == "channel"
        return self.buffer(name, self.frames, self.channels if wide else 1)

    def _put(self, span: slice, name: str, value: Value | None, neutral: bool) -> None:
        """Write a value for a span of slots; a neutral one makes no buffer, for a new buffer is neutral."""
        if value is not None and not (neutral and name not in self.tensors):
            assign(self._knob(name)[span], value)


def assign(rows: Tensor, value: Value) -> None:
    """Write a number, or a curve that broadcasts, into rows of a buffer."""
    if isinstance(value, Tensor):
        rows.copy_(value)
    else:
        rows.fill_(value)
