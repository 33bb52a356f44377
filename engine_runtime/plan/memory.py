"""Estimates what the parts of a model take of a card's memory while it plays live; nothing is measured here.

Decoder and ring together are up to 5 % above the peaks of the kept benchmarks, in 8 bits up to 27 %: those leave out
what lies unused between PyTorch's blocks, and what an 8-bit engine keeps in bf16 has no copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from diffusers import AceStepConditionEncoder, AceStepTransformer1DModel, AutoencoderOobleck
from torch import nn
from transformers import Qwen3Config, Qwen3Model

from ..bench.case import GIB, OUTSIDE, WINDOW_SECONDS, Case
from ..bench.floor import products
from ..models.loading import Model
from ..models.quiet import quiet
from ..models.sized import SIZES, TEXT, VAE

WIDTH = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "int8": 1}  # bytes of a number
NARROW = ("fp8", "int8")  # kinds that keep their products' weights in 8 bits beside the model's own
# Fitted to the kept benchmarks: bytes that no shape changes (workspaces, the kernels' own buffers), and the numbers
# a decoder token takes in all buffers of a tick and its graphs, as a multiple of hidden and inner width together.
FIXED, SPREAD = 172e6, {"eager": 11.5, "compiled": 4.4, "fp8": 4.4, "int8": 4.4}
MARGIN = 9  # frames on each side of a window that are decoded with it
VAE_FRAME = 2.9e6  # numbers that a frame takes in the VAE's graph: 5.8 MB in bfloat16 were measured in `bench fits`


@dataclass(frozen=True)
class Sizes:
    """Counts of the weights of a model's parts.

    Attributes:
        config: of the decoder, with diffusers' names.
        vae_decoder: the part of the VAE that a live session keeps a copy of.
    """

    decoder: int
    text: int
    conditions: int
    vae: int
    vae_decoder: int
    config: Mapping[str, Any] = field(repr=False)

    @property
    def width(self) -> int:
        """Return the width of a condition token."""
        return int(self.config.get("encoder_hidden_size") or self.config["hidden_size"])

    @property
    def products(self) -> int:
        """Count the weights of the products that an engine in 8 bits computes in them."""
        one = products(self.config, Case(depth=1, steps=1, seconds=1.0))
        return round(sum(product.n * product.k * product.count for product in one if product.layer))

    @classmethod
    def of(cls, model: Model) -> Sizes:
        """Count those of a loaded model."""
        pipe = model.pipe
        return _sizes(pipe.transformer, pipe.text_encoder, pipe.condition_encoder, pipe.vae)


@cache
def released(size: str) -> Sizes:
    """Count the weights of a released model of a size, one of `SIZES`, without making any."""
    with quiet(), torch.device("meta"):
        text, conditions = Qwen3Model(Qwen3Config(**TEXT)), AceStepConditionEncoder()
        return _sizes(AceStepTransformer1DModel(**SIZES[size]), text, conditions, AutoencoderOobleck(**VAE))


def _sizes(decoder: Any, text: nn.Module, conditions: nn.Module, vae: Any) -> Sizes:
    whole, own = _count(vae), _count(vae.decoder)
    return Sizes(_count(decoder), _count(text), _count(conditions), whole, own, decoder.config)


def needed(sizes: Sizes, kind: str, precision: str, case: Case) -> dict[str, int]:
    """Return the bytes of every part, all of them on the card together.

    Args:
        kind: of the engine, one of `KINDS`.
        precision: of the weights: `fp32`, `bf16` or `fp16`. The VAE is fp32 unless it is `bf16`.
    """
    own, vae = WIDTH[precision], WIDTH["bf16" if precision == "bf16" else "fp32"]
    window = Case(seconds=WINDOW_SECONDS).frames + 2 * MARGIN
    parts: dict[str, float] = {"decoder": own * sizes.decoder}
    if kind in NARROW:
        parts["8-bit copy"] = WIDTH[kind] * sizes.products
    parts |= {
        "ring": _ring(sizes, kind, own, case),
        "text encoder": own * sizes.text,
        "condition encoder": own * sizes.conditions,
        "VAE": vae * sizes.vae,
        "live decode": vae * (sizes.vae_decoder + VAE_FRAME * window),
    }
    return {name: round(size) for name, size in parts.items()}


def played(sizes: Sizes, kind: str, precision: str, case: Case) -> int:
    """Sum the bytes of decoder and ring alone, which are the benchmarks' peak."""
    parts = needed(sizes, kind, precision, case)
    return sum(parts.get(name, 0) for name in ("decoder", "8-bit copy", "ring"))


def room(memory: float) -> float:
    """Return the bytes of a card's that are left to tensors: `OUTSIDE` is the driver's, the graphs' and a desktop's."""
    return memory - OUTSIDE * GIB


def _ring(sizes: Sizes, kind: str, width: int, case: Case) -> float:
    """Count the bytes of rows, activations and graphs."""
    config = sizes.config
    rows = case.slots * (2 if case.row_mode == "full" else 1) + (case.row_mode == "initialize")
    condition = case.tokens * sizes.width
    if kind != "eager":  # keys and values of every layer are kept
        inner = config["num_key_value_heads"] * config["head_dim"]
        condition += 2 * case.tokens * config["num_hidden_layers"] * inner
    tokens = rows * -(-case.frames // config["patch_size"])
    numbers = SPREAD[kind] * (config["hidden_size"] + config["intermediate_size"])
    return FIXED + width * (rows * condition + tokens * numbers)


def _count(part: nn.Module) -> int:
    return sum(tensor.numel() for tensor in part.parameters())
