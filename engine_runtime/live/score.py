"""A score: all that a live session plays, and what it costs to change it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from ..audio.decode import Vae
from ..config import NO_GUIDANCE, Guidance, Sampling, StreamConfig
from ..constants import LIVE_MODES, MAX_DEPTH
from ..controls.automation import Track
from ..controls.knobs import KNOBS, Knobs
from ..engines.contract import Engine
from ..errors import InputError, check_choice, check_range, check_whole
from ..lora.stack import Mix
from ..spec import ModelSpec
from ..stream.request import Condition, Part, Request, check_tensor
from .level import SAMPLE_RATE

LEAST = 25  # frames of a loop, so that its seam is no buzz
BUCKET = 256  # tokens by which a ring's buffers grow, so that a longer prompt seldom needs another ring


class Cost(IntEnum):
    """The way a change takes until it can be heard, from the shortest to the longest.

    Attributes:
        NOTHING: nothing that plays changed.
        TICK: the next tick of every generation in flight.
        SLOT: the next generation.
        RING: a ring of its own; the old music goes on until the first of the new is made.
    """

    NOTHING = 0
    TICK = 1
    SLOT = 2
    RING = 3


@dataclass(frozen=True, eq=False)
class Score:
    """All that a live session plays; immutable.

    Attributes:
        engine, vae: the decoder of the ticks, and that of the sound.
        condition: what the model attends to; its frames are the length T of the loop, or of one stretch.
        sampling: of the first generation; each further one adds `seed_step` to its seed.
        guidance, shape: of every request; `shape` holds further fields of `Request`.
        source, mask: `[T, C]` of every request; in mode endless the music just heard stands there instead.
        knobs, tracks, adapters: hot, from the next tick on.
        depth: generations in flight.
        mode: `loop` goes round T seconds, and each finished latent takes the place of what is about to be heard;
            `endless` continues what was heard.
        moving: for each knob that moves with the time of play, its values `[T, ...]` from a moment on.
        kept: share of T that a stretch in mode endless takes over from the music before it, at most.
        beat: frames from beat to beat, on one of which a stretch begins; 0 where the tempo is open.

    Raises:
        InputError: for a value out of range, or a mask and a source in mode endless.
    """

    engine: Engine
    vae: Vae
    condition: Condition | tuple[Part, ...]
    sampling: Sampling = field(default_factory=Sampling)
    seed_step: int = 0
    guidance: Guidance = NO_GUIDANCE
    shape: Mapping[str, Any] = field(default_factory=dict)
    source: Tensor | None = None
    mask: Tensor | None = None
    knobs: Knobs = field(default_factory=Knobs)
    tracks: tuple[Track, ...] = ()
    adapters: Mix = ()
    depth: int = StreamConfig.depth
    mode: str = LIVE_MODES[0]
    kept: float = 0.5
    moving: Mapping[str, Callable[[int], Tensor]] = field(default_factory=dict)
    beat: float = 0.0

    def __post_init__(self) -> None:
        check_choice("the mode", self.mode, LIVE_MODES)
        check_whole("depth", self.depth, 1, MAX_DEPTH, "choose how many generations are in flight")
        check_range("the kept share", self.kept, 0.1, 0.9, "a stretch needs music before it and room after it")
        check_whole("the seed step", self.seed_step, 0, 2**32, "0 plays every generation from the same noise")
        if (self.spec.sample_rate, self.spec.audio_channels) != (SAMPLE_RATE, 2):
            raise InputError(
                f"the model makes {self.spec.audio_channels} channels at {self.spec.sample_rate} Hz",
                f"a live session plays 2 at {SAMPLE_RATE}",
                "play it with Stream Denoise",
            )
        if self.frames < LEAST:
            raise InputError(
                f"the music has {self.frames} frames", f"at least {LEAST} are played live", "give it more seconds"
            )
        if self.mode == "endless" and (self.mask is not None or "mask" in self.shape or self.source is not None):
            raise InputError(
                "mode endless is given a source or a mask of its own",
                "there the source is the music just heard, and its mask keeps that",
                "disconnect them, or play a loop",
            )
        self.knobs.check_frames(self.frames, self.spec.channels)

    @property
    def spec(self) -> ModelSpec:
        return self.engine.spec

    @property
    def frames(self) -> int:
        return self.parts[0].condition.frames

    @property
    def parts(self) -> tuple[Part, ...]:
        return self.condition if isinstance(self.condition, tuple) else (Part(self.condition),)

    @property
    def steps(self) -> int:
        schedule = self.shape.get("schedule")
        return self.sampling.steps if schedule is None else len(schedule) - 1

    @property
    def tail(self) -> int:
        """Return the frames that a stretch takes over from the music before it."""
        return min(self.frames - 1, max(1, round(self.frames * self.kept)))

    def request(self, number: int, tail: Tensor | None = None) -> Request:
        """Make the request of generation `number`, counted from 0.

        Args:
            tail: `[K, C]`, the music that comes before, in mode endless; none for its first stretch.

        Raises:
            InputError: as `Request`.
        """
        step = self.seed_step or (1 if self.mode == "endless" else 0)
        sampling = replace(self.sampling, seed=(self.sampling.seed + number * step) % 2**64)
        if tail is None:
            return Request(self.condition, sampling, self.guidance, source=self.source, mask=self.mask, **self.shape)
        check_tensor("the music before a stretch", tail, None, self.spec.channels)
        kept = tail.shape[0]
        source, mask = torch.zeros(self.frames, self.spec.channels), torch.ones(self.frames, self.spec.channels)
        source[:kept], mask[:kept] = tail.to("cpu", torch.float32), 0.0
        parts = tuple(replace(part, condition=_continued(part.condition, tail)) for part in self.parts)
        condition = parts if isinstance(self.condition, tuple) else parts[0].condition
        return Request(condition, sampling, self.guidance, source=source, mask=mask, **self.shape)

    def knobs_at(self, moment: int) -> dict[str, Tensor]:
        """Return the moving knobs of a generation that sounds from a moment on, `[T, ...]` each: a loop from the place
        where it is then.
        """
        turn = moment % self.frames if self.mode == "loop" else 0
        return {name: torch.roll(values(moment), turn, 0) for name, values in self.moving.items()}

    def config(self) -> StreamConfig:
        """Return the ring's configuration. A request enters its slot in the step that it is submitted for, so that any
        part of a take can be replayed by itself.
        """
        first = self.request(0)
        hot = self.knobs.guidance_scale is not None or any(t.knob == "guidance_scale" for t in self.tracks)
        return StreamConfig(
            depth=self.depth,
            guidance=first.guidance.rows(hot),
            conditions=len(first.parts),
            tokens=-(-first.tokens // BUCKET) * BUCKET,
            queue=MAX_DEPTH,
            spread=False,
            hot_guidance=hot,
        )


def cost(before: Score, after: Score) -> Cost:
    """Compare two scores. Tensors count as changed where they are other objects: no device is asked."""
    if before.engine is not after.engine or before.vae is not after.vae:
        return Cost.RING
    if (before.frames, before.mode) != (after.frames, after.mode) or _needs(before) != _needs(after):
        return Cost.RING
    names = "condition", "sampling", "seed_step", "guidance", "source", "mask", "kept", "beat"
    if any(not _same(getattr(before, name), getattr(after, name)) for name in names):
        return Cost.SLOT
    if before.shape.keys() != after.shape.keys():
        return Cost.SLOT
    if any(not _same(value, after.shape[name]) for name, value in before.shape.items()):
        return Cost.SLOT
    hot = moved(before.knobs, after.knobs) or before.depth != after.depth or before.tracks != after.tracks
    return Cost.TICK if hot or not _same(before.adapters, after.adapters) else Cost.NOTHING


def moved(before: Knobs, after: Knobs) -> dict[str, Any]:
    """List the knobs whose value differs, with their new values."""
    return {n: getattr(after, n) for n in KNOBS if not _same(getattr(before, n), getattr(after, n))}


def _needs(score: Score) -> tuple[Any, ...]:
    """Return what the rows of the ring are made for: negatives, conditions and tokens."""
    config = score.config()
    return config.guidance, config.conditions, config.tokens, config.hot_guidance


def _same(a: Any, b: Any) -> bool:
    """Compare values of which some hold tensors; those are the same only where they are one object."""
    if a is b:
        return True
    if isinstance(a, Tensor) or isinstance(b, Tensor) or type(a) is not type(b):
        return False
    if isinstance(a, tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, Sampling | Guidance | Part | Condition):
        return all(_same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    return bool(a == b)


def _continued(condition: Condition, tail: Tensor) -> Condition:
    """Give a condition the context of a repaint, as `models.conditioning` lays it out: the first frames are the music
    before, and the chunk mask is 0 there.
    """
    context, (kept, channels) = condition.context.clone(), tail.shape
    context[:kept, :channels] = tail.to(context)
    context[:kept, channels:] = 0.0
    return replace(condition, context=context)
