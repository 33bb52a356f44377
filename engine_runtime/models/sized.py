"""ACE-Step 1.5's real sizes with random weights: as fast as trained ones, and nothing to listen to."""

from __future__ import annotations

import math

import torch
from diffusers import AceStepTransformer1DModel, AutoencoderOobleck
from torch import nn

from ..device.memory import guarded
from ..errors import check_choice
from ..spec import ACE_STEP
from .quiet import quiet

# The decoders' configurations as published; what all sizes share are diffusers' defaults.
SIZES = {
    "2b": {
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
    "xl": {
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "encoder_hidden_size": 2048,
    },
}

VAE = {
    "encoder_hidden_size": 128,
    "downsampling_ratios": [2, 4, 4, 6, 10],
    "channel_multiples": [1, 2, 4, 8, 16],
    "decoder_channels": 128,
    "decoder_input_channels": ACE_STEP.channels,
    "audio_channels": 2,
    "sampling_rate": ACE_STEP.sample_rate,
}


def sized_decoder(
    size: str, dtype: torch.dtype, device: torch.device, seed: int = 0, **changes: int
) -> AceStepTransformer1DModel:
    """Make a decoder of a real size, its random weights drawn on its device.

    Args:
        size: one of `SIZES`.
        changes: of its configuration, for example fewer layers.

    Raises:
        InputError: for another size.
        MemoryShortage: when the device has no room.
    """
    check_choice("the size", size, SIZES)
    with quiet(), torch.device("meta"):
        model = AceStepTransformer1DModel(**{**SIZES[size], **changes}).to(dtype)
    with guarded(
        f"a decoder of size {size} found no room on {device}", "its weights must fit", "use a smaller precision"
    ):
        return filled(model.to_empty(device=device), seed)


def sized_vae(dtype: torch.dtype, device: torch.device) -> AutoencoderOobleck:
    """Make the VAE in its real size, which all decoders share, with random weights."""
    with quiet(), torch.device(device):
        return filled(AutoencoderOobleck(**VAE)).to(dtype)


def filled(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draw random weights in place, frozen: matrices uniform with variance 1 / fan-in, norms 1, biases and Snake 0."""
    generator: torch.Generator | None = None
    for name, tensor in model.eval().requires_grad_(False).named_parameters():
        generator = generator or torch.Generator(tensor.device).manual_seed(seed)
        leaf = name.rsplit(".", 1)[-1]
        if leaf in ("bias", "alpha", "beta"):
            tensor.zero_()
        elif leaf == "weight_g" or tensor.ndim == 1:
            tensor.fill_(1.0)
        else:
            bound = math.sqrt(3.0 / math.prod(tensor.shape[1:]))
            tensor.uniform_(-bound, bound, generator=generator)
    return model
