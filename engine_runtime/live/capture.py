"""The last seconds of a live session, as they were heard."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError, check_range
from ..spec import ModelSpec
from ..takes.take import Log
from .beat import Tempo
from .block import Moment, decoded_pcm
from .lease import KEPT_SECONDS


@dataclass(frozen=True, eq=False)
class Capture:
    """The last seconds of a session.

    Attributes:
        audio: `[2, hop * T]` float32 at 48 kHz, as it was heard.
        latent: `[T, C]` float32 on the CPU: the frames that were decoded for it.
        take: replays the latents that these frames were taken from, bit by bit.
    """

    audio: NDArray[np.float32]
    latent: Tensor
    take: Log


def span_of(seconds: float, bars: int, tempo: Tempo, spec: ModelSpec) -> float:
    """Return the seconds of a capture that is asked for in seconds or in bars.

    Raises:
        InputError: for neither or both, bars without a tempo, or more than `KEPT_SECONDS`.
    """
    if bool(seconds) == bool(bars) or bars and not tempo.bpm:
        raise InputError(
            f"the capture is of {seconds:g} s and {bars} bars at {tempo.bpm:g} bpm",
            "allowed are seconds, or bars with a tempo",
            "give one of them",
        )
    span = seconds or bars * tempo.beats * 60.0 / tempo.bpm
    check_range("the capture's length in seconds", span, 1.0 / spec.frame_rate, KEPT_SECONDS, "less is kept")
    return span


def captured(moments: list[Moment], take: Log | None, span: float, spec: ModelSpec) -> Capture:
    """Make a capture of the last `span` seconds of what was heard.

    Raises:
        InputError: where nothing was played yet.
    """
    if not moments or take is None:
        raise InputError("nothing was played yet", "a capture is of what was heard", "start the session first")
    frames = round(span * spec.frame_rate)
    latent = torch.cat([m.latents for m in moments])[-frames:]
    audio = decoded_pcm(b"".join(m.block.pcm for m in moments))[:, -frames * spec.hop :]
    return Capture(audio, latent, take)
