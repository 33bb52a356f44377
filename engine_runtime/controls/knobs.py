"""The table of knobs, the values that change while music plays. Torch-free.

A hot knob changes the very next tick of every slot in flight. A row says all that is known of a knob: text, default,
range, the buffer that a slot keeps of it, its place in the tick and so when it acts. Nodes, command line, automation,
takes, buffers, gates and docs read it from here; `stream/tick.py` calls its formula.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from ..constants import MAX_CONDITIONS
from ..errors import InputError, check_choice, check_flag
from .values import Value, check_frames, check_value, fits_frames, is_constant, is_curve

# Where in a tick a knob acts, in the tick's order, and the steps of a request at which it does.
PLACES = {
    "input": "the decoder's input, at every step",
    "conditions": "the weights of several conditions, at every step",
    "guidance": "the guided velocity, at the steps inside the guidance interval",
    "velocity": "the velocity, at every step",
    "target": "the prediction, at the steps at which the request's target holds",
    "noise": "the state after a step of the ode solver, at all but the last",
    "sde": "the prediction under the sde solver, for a request with a source",
    "correction": "the state after a step, at every step",
}

# What the device keeps of a knob: D slots, T frames, C channels, K conditions, W wavelet coefficients.
BUFFERS = {
    "frame": "[D, T, 1]",
    "channel": "[D, T, C]; a curve may also be one value a channel",
    "weights": "[D, K, T, 1], with the weights of the conditions",
    "band": "[D, W, 1]; in mode pix [D, T, 1]",
    "": "none: a switch or a word, which chooses formulas",
}

# For each mode of DCW the knobs that are its factors.
DCW_FACTORS = {"low": ("dcw_low",), "high": ("dcw_high",), "double": ("dcw_low", "dcw_high"), "pix": ("dcw_low",)}
DCW_MODES = tuple(DCW_FACTORS)
WAVELETS = ("haar", "db2", "db3", "db4", "sym4", "coif1")  # of PyWavelets, orthogonal and short


@dataclass(frozen=True)
class Knob:
    """One row of the table.

    Attributes:
        help: one sentence for people.
        default: a number, a switch, an option, or None for the request's own value.
        place: where in a tick it acts, one of `PLACES`.
        low, high: range of its number.
        neutral: the value at which it has no effect and costs nothing; None where there is none.
        buffer: what a slot keeps of it on the device, one of `BUFFERS`.
        overrides: the field of the request's `Guidance` that holds while the knob is None.
        options: the choices of a knob that takes a word.
    """

    name: str
    help: str
    default: Any
    place: str
    low: float = 0.0
    high: float = 1.0
    neutral: float | None = None
    buffer: str = "frame"
    overrides: str = ""
    options: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Return its name in words, for messages."""
        return self.name.replace("_", " ")

    @property
    def per_channel(self) -> bool:
        """Return true where a curve may also have a number for each latent channel."""
        return self.buffer == "channel"

    @property
    def gated(self) -> bool:
        """Return true where it has a gate of its own: a formula runs only in ticks in which it acts on some slot."""
        return self.neutral is not None and self.buffer != "band"

    @property
    def limits(self) -> tuple[float, float, str]:
        """Return the last arguments of `check_range`: smallest and largest number, and the remedy."""
        return self.low, self.high, self.help[0].lower() + self.help[1:].rstrip(".")

    @property
    def default_text(self) -> str:
        """Describe the default, for lists."""
        if self.default is None:
            return "the request's"
        return ("off", "on")[self.default] if isinstance(self.default, bool) else str(self.default)

    @property
    def range_text(self) -> str:
        if self.takes_curve:
            return f"{self.low:g} to {self.high:g}"
        return ", ".join(self.options) or "on, off"

    @property
    def takes_curve(self) -> bool:
        return not self.options and not isinstance(self.default, bool)

    def parse(self, text: str) -> Any:
        """Convert text to a value of this knob.

        Raises:
            InputError: for a value that it does not take.
        """
        value: Any = {"true": True, "on": True, "false": False, "off": False}.get(text.lower(), text)
        if self.takes_curve:
            with contextlib.suppress(ValueError):
                value = float(text)
        self.check(value)
        return value

    def is_neutral(self, value: Any) -> bool:
        """Return true for a value without effect. Waits for the device of a curve that lies on one."""
        return self.neutral is not None and value is not None and is_constant(value, self.neutral)

    def fits(self, value: Any, frames: int, channels: int) -> bool:
        """Return true for a number, and for a curve that fits music of this many frames and channels."""
        return not is_curve(value) or fits_frames(value, frames, channels * self.per_channel)

    def check_frames(self, value: Any, frames: int, channels: int) -> None:
        """Raise `InputError` for a curve of another length."""
        check_frames(self.label, value, frames, channels * self.per_channel)

    def check(self, value: Any, channels: int | None = None) -> None:
        """Raise `InputError` for a value that this knob does not take.

        Args:
            channels: of the model's latents; None where no model is known yet.
        """
        name = self.label
        if value is None and self.default is None:
            return
        if self.options:
            check_choice(name, value, self.options)
        elif isinstance(self.default, bool):
            check_flag(name, value)
        elif value is None or isinstance(value, str | bool):
            raise InputError(f"{name} is {value!r}", "allowed is a number or a curve", "give one")
        else:
            check_value(name, value, *self.limits, channels=channels if self.per_channel else 0)


def _knob(help: str, default: Any, place: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": help, "place": place, **more})


@dataclass(frozen=True, eq=False)
class Knobs:
    """The hot knobs of a session, one row each. A value is a number, or a curve `[T]` with one number a frame.

    Knobs that are None until they are set leave each request its own value. A new row goes last: saved graphs hold the
    values of a node by their position.
    """

    velocity_scale: Value = _knob(
        "How far each step goes; 1 is the model's own.", 1.0, "velocity", high=4.0, neutral=1.0
    )
    ode_noise: Value = _knob(
        "Fresh noise added after each step of the ode solver, times sigma.", 0.0, "noise", neutral=0.0
    )
    sde: Value = _knob(
        "What the sde solver renoises: 1 its prediction, 0 the source, where there is one.", 1.0, "sde", neutral=1.0
    )
    guidance_scale: Value | None = _knob(
        "How strongly the prompt is followed; 1 is off.", None, "guidance", high=100.0, neutral=1.0, overrides="scale"
    )
    momentum: Value | None = _knob(
        "Momentum of the guidance, from step to step; below 0 it damps repeated pushes.",
        None,
        "guidance",
        low=-1.0,
        overrides="momentum",
    )
    rescale: Value | None = _knob(
        "Brings a guided velocity back to its norm before guidance.", None, "guidance", neutral=0.0, overrides="rescale"
    )
    target_strength: Value = _knob("Pull of each prediction toward the request's target.", 0.0, "target", neutral=0.0)
    channel_gain: Value = _knob(
        "Gain of the latent channels that the decoder sees.", 1.0, "input", high=10.0, neutral=1.0, buffer="channel"
    )
    blend: Value | None = _knob(
        "Cross-fade along a request's conditions: 0 is the first, 1 the second, between is both.",
        None,
        "conditions",
        high=MAX_CONDITIONS - 1.0,
        buffer="weights",
    )
    dcw: bool = _knob("Wavelet correction of each step (DCW).", False, "correction", neutral=False, buffer="")
    dcw_mode: str = _knob(
        "Bands that are corrected; pix corrects all at once.", "double", "correction", buffer="", options=DCW_MODES
    )
    dcw_low: Value = _knob(
        "Push of the low band at noise; of all in mode pix.", 0.05, "correction", low=-1.0, neutral=0.0, buffer="band"
    )
    dcw_high: Value = _knob(
        "Push of the high band near the end.", 0.02, "correction", low=-1.0, neutral=0.0, buffer="band"
    )
    dcw_wavelet: str = _knob(
        "Wavelet over time that splits the bands.", "haar", "correction", buffer="", options=WAVELETS
    )

    def __post_init__(self) -> None:
        for name, knob in KNOBS.items():
            knob.check(getattr(self, name))

    @staticmethod
    def check(changes: Mapping[str, Any], channels: int | None = None) -> frozenset[str]:
        """Check values by name; returns the names whose value has no effect. Waits for the device of curves that lie on
        one.

        Args:
            channels: of the model's latents; None where no model is known yet.

        Raises:
            InputError: for an unknown name or a value out of range.
        """
        check_names(changes)
        for name, value in changes.items():
            KNOBS[name].check(value, channels)
        return frozenset(name for name, value in changes.items() if KNOBS[name].is_neutral(value))

    def with_checked(self, values: Mapping[str, Any], neutral: frozenset[str]) -> Knobs:
        """Return a copy with values that `check` has passed; nothing is checked again, so no device is asked.

        Args:
            neutral: names whose value has no effect, as `check` returned them.
        """
        new = copy.copy(self)
        new.__dict__.update(values, neutral=(self.neutral - values.keys()) | (neutral & values.keys()))
        return new

    def changed(self, **changes: Any) -> Knobs:
        """Return a copy with some knobs changed.

        Raises:
            InputError: for an unknown name or a value out of range.
        """
        return self.with_checked(changes, self.check(changes))

    def check_frames(self, frames: int, channels: int) -> None:
        """Raise `InputError` for a curve of another length."""
        for name, knob in KNOBS.items():
            knob.check_frames(getattr(self, name), frames, channels)

    @cached_property
    def neutral(self) -> frozenset[str]:
        """Return the names of the knobs without effect. Found when knobs are set, so that a tick asks no device."""
        return frozenset(name for name, knob in KNOBS.items() if knob.is_neutral(getattr(self, name)))


KNOBS: dict[str, Knob] = {f.name: Knob(f.name, default=f.default, **f.metadata) for f in fields(Knobs)}


def check_names(names: Any) -> None:
    """Raise `InputError` for a knob that does not exist."""
    unknown = [name for name in names if name not in KNOBS]
    if unknown:
        raise InputError(f"there is no knob {unknown[0]!r}", f"the knobs are {', '.join(KNOBS)}", "use one of them")
