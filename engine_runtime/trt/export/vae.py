"""Both halves of the VAE as they are exported: B clips, T latent frames, 1920 samples a frame."""

from __future__ import annotations

import math

from diffusers import AutoencoderOobleck
from torch import Tensor, nn

from ...errors import EngineBuildError
from ...models.weight_norm import folded_copy, normed
from ...spec import ACE_STEP


class VaeGraph(nn.Module):
    """One half of the VAE: latents `[B, 64, T]` to audio `[B, 2, 1920 T]`, or audio to the mean of its latents.

    It has weights of its own, with the weight norms folded in.

    Args:
        vae: the reference model, on the CPU.
        part: `decoder` or `encoder`.
    """

    prefix = ""

    def __init__(self, vae: AutoencoderOobleck, part: str) -> None:
        super().__init__()
        self.part = part
        half = getattr(vae, part)
        places = [f"{part}.{name}.weight" for name in normed(half)]
        self.made: dict[str, tuple[str, ...]] = {place: (f"{place}_g", f"{place}_v") for place in places}
        self.add_module(part, folded_copy(half))

    def forward(self, signal: Tensor) -> Tensor:
        out = getattr(self, self.part)(signal)
        return out if self.part == "decoder" else out.narrow(1, 0, ACE_STEP.channels)


def check_vae(model: AutoencoderOobleck) -> None:
    """Raise `EngineBuildError` for a VAE of another rate, or with odd strides."""
    strides = model.config.downsampling_ratios
    if math.prod(strides) != ACE_STEP.hop or any(stride % 2 for stride in strides):
        raise EngineBuildError(
            f"the VAE's strides are {list(strides)}", f"allowed are even ones whose product is {ACE_STEP.hop}",
            "choose an ACE-Step 1.5 model",
        )  # fmt: skip
