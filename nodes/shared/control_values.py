"""The values that control nodes hand to a stream node.

They stay unresolved until the stream node knows how long the music is, because a curve needs a length to be sampled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...engine_runtime.config import Guidance
from ...engine_runtime.controls.knobs import KNOBS, Knobs
from ...engine_runtime.errors import InputError
from ...engine_runtime.spec import ACE_STEP, CORE, ModelSpec
from . import host
from .values import is_curve, to_value

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from ...engine_runtime.controls.automation import Track
    from ...engine_runtime.controls.curves import Curve
    from ...engine_runtime.engines.factors import Targets
    from ...engine_runtime.lora.stack import Mix
    from ...engine_runtime.stream.request import Condition, Part
    from .comfy import io

log = logging.getLogger(__name__)
GAIN = "channel_gain"
Fields = Mapping[str, Any]  # names of knobs or fields; a value is a number, or a curve without a length


def add_knobs(before: Fields | None, changes: Fields) -> dict[str, Any]:
    """Add knob changes to those of earlier nodes.

    Raises:
        InputError: for a number out of the knob's range. Curves are checked when they are sampled.
    """
    for name, value in changes.items():
        if not is_curve(value):
            KNOBS[name].check(value)
    return {**(before or {}), **changes}


def add_channel_gain(before: Fields | None, gain: Curve | float, first: int, last: int) -> dict[str, Any]:
    """Add a channel gain for the latent channels `first` to `last`, both included, counted from 0.

    Raises:
        InputError: where `first` is above `last`, or the gain is out of range.
    """
    if first > last:
        raise InputError(f"channels {first} to {last}", "the first must not lie behind the last", "swap them")
    if not is_curve(gain):
        KNOBS[GAIN].check(gain)
    return {**(before or {}), GAIN: (*(before or {}).get(GAIN, ()), (gain, first, last))}


def sample_knobs(wanted: Fields | None, frames: int, spec: ModelSpec = ACE_STEP, start: int | None = None) -> Knobs:
    """Sample the knobs for `frames` latent frames. Knobs set on the command line override those of the nodes.

    Args:
        start: the frame of play that is the first of them; None for the length alone.
    """
    given = {**(wanted or {}), **host.knobs()}
    gains = given.pop(GAIN, ())
    gains = gains if isinstance(gains, tuple) else ((gains, 0, spec.channels - 1),)
    drawn: dict[str, Any] = {
        name: to_value(value, frames, name, spec.frame_rate, start) if is_curve(value) else value
        for name, value in given.items()
    }
    if gains:
        drawn[GAIN] = _gain(gains, frames, spec, start)
    return Knobs(**drawn)


def moving_knobs(wanted: Fields | None, frames: int, spec: ModelSpec) -> dict[str, Callable[[int], Tensor]]:
    """Return, for each knob that has a curve, a function from the frame of play to its values from there on:
    `[frames]`, of the channel gain `[frames, C]`.
    """

    def at(name: str, value: Any) -> Callable[[int], Tensor]:
        return lambda start: getattr(sample_knobs({name: value}, frames, spec, start), name)

    given = {name: value for name, value in (wanted or {}).items() if name not in host.knobs()}
    curved = {name: value for name, value in given.items() if is_curve(value)}
    if any(is_curve(gain) for gain, _, _ in given.get(GAIN, ())):
        curved[GAIN] = given[GAIN]
    return {name: at(name, value) for name, value in curved.items()}


def check_used(
    knobs: Knobs, guidance: Guidance | None, shape: Fields, parts: int, tracks: Sequence[Track], masked: bool
) -> None:
    """Raise `InputError` for a control that nothing in the request answers to."""
    guided = guidance is not None and guidance.mode != "off"
    moved = {track.knob for track in tracks}
    pulled = "target_strength" in moved or "target_strength" not in knobs.neutral
    for given, allowed, remedy in (
        (pulled and "target" not in shape, "the knob target_strength is set without a target", "connect Target"),
        (not pulled and "target" in shape, "a target pulls as far as target_strength says", "set it in Knobs"),
        ((knobs.blend is not None or "blend" in moved) and parts == 1, "blend needs conditions", "Combine Conditions"),
        (
            (knobs.guidance_scale not in (None, 1.0) or "guidance_scale" in moved) and not guided,
            "guidance_scale needs guidance",
            "connect Guidance",
        ),
        (masked and "mask" in shape, "the source has a noise mask and Mask is connected", "disconnect one of them"),
    ):
        if given:
            raise InputError("a control is set that would not be heard", allowed, remedy)


def check_guidance(fields: Fields) -> dict[str, Any]:
    """Check the numbers of a Guidance node and return its fields, curves unsampled.

    Raises:
        InputError: for a number out of range.
    """
    checked = Guidance(**{name: value for name, value in fields.items() if not is_curve(value)})
    return {"scale": checked.scale, "mode": checked.mode, **fields}


def sample_guidance(wanted: Fields | None, frames: int, spec: ModelSpec = ACE_STEP) -> Guidance | None:
    if wanted is None:
        return None
    fields: dict[str, Any] = {
        name: to_value(value, frames, f"guidance {name}", spec.frame_rate) if is_curve(value) else value
        for name, value in wanted.items()
    }
    return Guidance(**fields)


def needs_negative(wanted: Fields | None, tracks: Sequence[Track] = ()) -> bool:
    """Return whether guidance may decode a negative condition."""
    if wanted is None or wanted["mode"] in ("off", "self"):
        return False
    if any(track.knob == "guidance_scale" for track in tracks):
        return True
    return is_curve(wanted["scale"]) or wanted["scale"] != 1.0


def warn_unguided(
    conditions: Condition | tuple[Part, ...],
    guide: Guidance | None,
    knobs: Knobs,
    tracks: Sequence[Track],
    hidden: io.HiddenHolder,
) -> None:
    """Say under the node that a base model plays without the guidance that it needs."""
    played = [part.condition for part in conditions] if isinstance(conditions, tuple) else [conditions]
    models = [condition.model for condition in played if condition.null_tokens is not None]
    # every condition of ComfyUI's MODEL has a null, also that of a turbo model
    base = next((model for model in models if model is not None and not model.identity.startswith(CORE)), None)
    moved = knobs.guidance_scale is not None or any(track.knob == "guidance_scale" for track in tracks)
    if base is None or moved or (guide is not None and guide.active):
        return
    text = f"{base.name} is a base or SFT model and plays without guidance, which sounds like noise; connect Guidance."
    log.warning(text)
    host.show_trouble(text, hidden.unique_id)


def sample_shape(wanted: Fields | None, frames: int, spec: ModelSpec = ACE_STEP) -> dict[str, Any]:
    """Return the request fields that the shape nodes set, with their curves sampled: `mask` `[T, C]`, `initial_noise`
    `[T]`."""
    given = dict(wanted or {})
    if (kept := given.get("mask")) is not None:
        given["mask"] = _over_channels(to_value(kept, frames, "the mask", spec.frame_rate), frames, spec.channels)
    if (share := given.get("initial_noise")) is not None:
        given["initial_noise"] = to_value(share, frames, "initial noise", spec.frame_rate)
    return given


def read_adapters(adapters: Sequence[tuple[Path, float]], targets: Targets | None) -> Mix:
    """Read the adapter files for an engine whose layers are `targets`.

    Raises:
        InputError: where the engine takes no adapters.
    """
    if not adapters:
        return ()
    from ...engine_runtime.engines.factors import required
    from ...engine_runtime.lora.adapter import Adapter

    layers = required(targets)
    return [(Adapter.read(path, layers), strength) for path, strength in adapters]


def as_parts(
    condition: Condition | tuple[Part, ...], weight: Curve | float, start: float, end: float
) -> tuple[Part, ...]:
    """Wrap a condition as one weighted part. Parts that are combined already keep their spans; their weights are
    multiplied.

    Raises:
        InputError: for a span other than 0 to 1 on parts that are combined already.
    """
    from dataclasses import replace

    from ...engine_runtime.stream.request import Part

    one = condition[0].condition if isinstance(condition, tuple) else condition
    factor = to_value(weight, one.frames, "the weight", one.spec.frame_rate)
    if not isinstance(condition, tuple):
        return (Part(condition, factor, start, end),)
    if (start, end) != (0.0, 1.0):
        raise InputError(
            f"conditions that are combined already are given the span {start:g} to {end:g}",
            "each of them has its own",
            "leave it at 0 to 1, or set it where the single condition is connected",
        )
    return tuple(replace(part, weight=part.weight * factor) for part in condition)


def _gain(gains: tuple[tuple[Curve | float, int, int], ...], frames: int, spec: ModelSpec, start: int | None) -> Tensor:
    """Multiply the gains: float32 `[T, C]`, or `[C]` where none of them is a curve."""
    import torch

    curved = any(is_curve(gain) for gain, _, _ in gains)
    total = torch.ones(frames if curved else 1, spec.channels)
    for gain, first, last in gains:
        value = to_value(gain, frames, "channel gain", spec.frame_rate, start)
        total[:, first : last + 1] *= value if isinstance(value, float) else value[:, None]
    return total if curved else total[0]


def _over_channels(value: float | Tensor, frames: int, channels: int) -> Tensor:
    import torch

    return torch.ones(frames, channels) * (value if isinstance(value, float) else value[:, None])
