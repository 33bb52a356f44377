"""The sizes of a model, which an engine, a condition and a take state, and those of ACE-Step 1.5. Torch-free."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from .errors import InputError, check_whole

MOST = 1 << 20  # of any size: a spec may be read from a file
CORE = "core:"
SIZES = (
    *("channels", "context", "frame_rate", "hop", "patch", "audio_channels"),
    *("max_seconds", "max_tokens", "width", "steps"),
)


@dataclass(frozen=True)
class ModelSpec:
    """The sizes that all weights of one model family share; two families are the same where all of these are equal.

    Attributes:
        name: of the family, for people.
        channels: C of a latent frame.
        context: channels of the context beside each frame; 0 for a model without one.
        frame_rate: latent frames a second, Hz.
        hop: samples a frame.
        patch: frames a decoder token; the frames of a ring's rows are padded to a multiple of it.
        audio_channels: of the decoded audio.
        max_seconds: of music in one generation or clip.
        max_tokens: of one condition.
        width: H of a condition token; 0 where it differs between weights of the family: `Engine.width` has it then.
        steps, shift: of the schedule that it is made for, with t from 1 (noise) to 0.

    Raises:
        InputError: for a size that is no whole number from 1 (`context` and `width` from 0), or a shift that is not
            above 0.
    """

    name: str
    channels: int
    context: int
    frame_rate: int
    hop: int
    patch: int = 1
    audio_channels: int = 2
    max_seconds: int = 600
    max_tokens: int = 4096
    width: int = 0
    steps: int = 8
    shift: float = 1.0

    def __post_init__(self) -> None:
        for name in SIZES:
            least = 0 if name in ("context", "width") else 1
            spoken = f"the model's {name.replace('_', ' ')}"
            check_whole(spoken, getattr(self, name), least, MOST, "give the model's own size")
        if not 0.0 < self.shift < math.inf:
            given = f"the model's shift is {self.shift}"
            raise InputError(given, "allowed is more than 0", "1 leaves sigmas as they are")

    @property
    def sample_rate(self) -> int:
        """Return the samples a second of its audio, Hz."""
        return self.frame_rate * self.hop

    @property
    def max_frames(self) -> int:
        return self.frame_rate * self.max_seconds

    def __str__(self) -> str:
        beside = f" and {self.context} of context" if self.context else ""
        return f"{self.name} ({self.channels} channels{beside}, {self.frame_rate} frames a second)"

    def seconds(self, frames: int) -> float:
        return frames / self.frame_rate

    def padded(self, frames: int) -> int:
        """Round frames up to a multiple of the patch."""
        return frames + -frames % self.patch

    def frames_of(self, seconds: float) -> int:
        """Count the latent frames that hold `seconds` of audio: `ceil(rate * seconds)`, up to float error.

        At 25 Hz, 0.28 s is 7 frames.

        Raises:
            InputError: unless `seconds` is more than 0 and at most `max_seconds`.
        """
        if not math.isfinite(seconds) or seconds <= 0:
            raise InputError(f"seconds is {seconds:g}", "allowed is more than 0", "give the length of the music")
        if seconds > self.max_seconds:
            allowed = f"allowed is at most {self.max_seconds}"
            raise InputError(f"seconds is {seconds:g}", allowed, "make it shorter, or make several")
        return math.ceil(round(seconds * self.frame_rate, 6))

    def frame_at(self, seconds: float) -> int:
        """Return the latent frame that holds a moment: `floor(rate * seconds)`, up to float error.

        At 25 Hz, 1.16 s is frame 29.
        """
        return math.floor(round(seconds * self.frame_rate, 6))


class ModelId(NamedTuple):
    """Names the weights that a condition was made with, or that an engine plays.

    Attributes:
        identity: differs between models. What begins with `CORE` names a MODEL of ComfyUI, and cannot be compared with
            what names files.
        name: for people.
    """

    identity: str
    name: str

    def is_other(self, model: ModelId) -> bool:
        """Return whether the other is known to be another model."""
        comparable = self.identity.startswith(CORE) == model.identity.startswith(CORE)
        return comparable and self.identity != model.identity


# Every size of ACE-Step 1.5 by which the runtime goes; also the default where no engine or model is at hand: the
# widgets of nodes, curves that are not connected. Its context is source or silence channels, then chunk-mask channels.
ACE_STEP = ModelSpec(
    "ACE-Step 1.5", channels=64, context=128, frame_rate=25, hop=1920, patch=2, audio_channels=2, steps=8, shift=3.0
)
