"""Types of the values that ComfyUI's own sockets carry, which its `io` does not tell. For type checkers alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NotRequired, Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Patcher = Any  # MODEL: ComfyUI's ModelPatcher, which has no types
Sampler = Any  # SAMPLER: an object with `sampler_function`
Conditioning = list[tuple[Tensor, dict[str, Any]]]  # CONDITIONING: tokens `[1, l, H]`, and their options


class Latent(TypedDict):
    """LATENT. Entries of other packs may lie beside these.

    Attributes:
        samples: `[B, C, T]`.
        type: `audio`.
        noise_mask: 1 where music is made anew.
        batch_index: the place of each item in the batch that it was taken from.
    """

    samples: Tensor
    type: NotRequired[str]
    noise_mask: NotRequired[Tensor | None]
    batch_index: NotRequired[list[int]]


class Audio(TypedDict):
    """AUDIO: `[B, channels, samples]`, and Hz."""

    waveform: Tensor
    sample_rate: int


class Points(TypedDict):
    """The value of the CURVE widget: `[[x, y], ...]`, both 0 to 1, and how it is drawn between them."""

    points: Sequence[Sequence[float]]
    interpolation: NotRequired[str]


class DrawnCurve(Protocol):
    """CURVE, as ComfyUI's own curve nodes output it."""

    def interp_array(self, xs: NDArray[np.float64]) -> NDArray[np.float64]: ...


class Noise(Protocol):
    """NOISE."""

    def generate_noise(self, input_latent: Latent) -> Tensor: ...


class Guider(Protocol):
    """GUIDER; `original_conds` are the entries of each CONDITIONING, by its role."""

    model_patcher: Patcher
    original_conds: dict[str, list[dict[str, Any]]]
    cfg: float
