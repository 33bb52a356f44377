"""ACE-Step 1.5's real sizes with random weights: as fast as trained ones, and nothing to listen to."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import AceStepConditionEncoder, AceStepTransformer1DModel, AutoencoderOobleck
from torch import nn
from transformers import Qwen3Config, Qwen3Model

from ..device.memory import guarded
from ..errors import check_choice
from ..spec import ACE_STEP
from .loading import ROOM, Model
from .parts import assemble
from .presets import tokenizer_of_words
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

PLANTED = {f"{size}-outliers": size for size in SIZES}
OUTLIERS, LARGER, HEAVIER = 4, 360.0, 1.0

VAE = {
    "encoder_hidden_size": 128,
    "downsampling_ratios": [2, 4, 4, 6, 10],
    "channel_multiples": [1, 2, 4, 8, 16],
    "decoder_channels": 128,
    "decoder_input_channels": ACE_STEP.channels,
    "audio_channels": 2,
    "sampling_rate": ACE_STEP.sample_rate,
}

TEXT = {  # Qwen3-Embedding-0.6B; the condition encoder's sizes are diffusers' defaults
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151_669,
    "max_position_embeddings": 32_768,
}


def sized_decoder(
    size: str, dtype: torch.dtype, device: torch.device, seed: int = 0, **changes: int
) -> AceStepTransformer1DModel:
    """Make a decoder of a real size, its random weights drawn on its device.

    Args:
        size: one of `SIZES`, or of `PLANTED` for outliers among the activations.
        changes: of its configuration, for example fewer layers.

    Raises:
        InputError: for another size.
        MemoryShortage: when the device has no room.
    """
    check_choice("the size", size, (*SIZES, *PLANTED))
    config = {**SIZES[PLANTED.get(size, size)], **changes}
    with quiet(), torch.device("meta"):
        model = AceStepTransformer1DModel(**config).to(dtype)
    with guarded(
        f"a decoder of size {size} found no room on {device}", "its weights must fit", "use a smaller precision"
    ):
        made = filled(model.to_empty(device=device), seed)
    return plant(made) if size in PLANTED else made


def plant(model: AceStepTransformer1DModel, seed: int = 0) -> AceStepTransformer1DModel:
    """Plant massive activations in front of `mlp.down_proj`, as released models of this family have them.

    The recipe: in layers from a quarter to five sixths of the depth (6 to 20 of 24), `OUTLIERS` channels of the inner
    width, drawn anew for each layer, become `LARGER` times as large (their rows of `up_proj`), so that they reach 360
    times what the other channels reach (10,752 beside 30 were seen); their columns of `down_proj` are set so that
    together they make `HEAVIER` times as much of the product as all other channels.
    """
    generator, inner = torch.Generator().manual_seed(seed), model.config.intermediate_size
    for layer in model.layers[len(model.layers) // 4 : len(model.layers) * 5 // 6 + 1]:
        channels = torch.randperm(inner, generator=generator)[:OUTLIERS].to(model.device)
        up, down = layer.mlp.up_proj.weight.data, layer.mlp.down_proj.weight.data
        up[channels] *= LARGER
        down[:, channels] *= HEAVIER * math.sqrt(inner / OUTLIERS) / LARGER
    return model


def sized_vae(dtype: torch.dtype, device: torch.device) -> AutoencoderOobleck:
    """Make the VAE in its real size, which all decoders share, with random weights."""
    with _made_in(dtype, device):
        return filled(AutoencoderOobleck(**VAE)).to(dtype)


def sized_model(size: str, dtype: torch.dtype, device: torch.device, whole: bool = False) -> Model:
    """Make a turbo model that encodes prompts and decodes latents in the real sizes, with random weights.

    Its tokenizer is that of the built-in models, which spells out most words: a prompt has more tokens than with
    Qwen3's.

    Args:
        whole: with all of its decoder, else with one layer: the benchmarks' engines bring their own.

    Raises:
        InputError, MemoryShortage: as `sized_decoder`.
    """
    if whole:
        transformer = sized_decoder(size, dtype, device)
    else:
        transformer = sized_decoder(PLANTED.get(size, size), dtype, device, num_hidden_layers=1)
    with guarded(f"the encoders of size {size} found no room on {device}", *ROOM):
        with _made_in(dtype, device):
            text, conditions = Qwen3Model(Qwen3Config(**TEXT)), AceStepConditionEncoder()
        parts = {
            "vae": sized_vae(dtype, device),
            "text_encoder": filled(text).to(dtype),
            "condition_encoder": filled(conditions).to(dtype),
            "transformer": transformer,
            "audio_tokenizer": None,
            "audio_token_detokenizer": None,
        }
        pipe = assemble(parts, tokenizer_of_words())
    return Model(pipe, size, True, size, size)


@contextmanager
def _made_in(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """Make modules in this dtype from the start: made in float32 and narrowed, they would need twice their room."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with quiet(), torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


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
