"""A small ACE-Step 1.5 diffusion checkpoint of random weights, and a LoRA for it, that ComfyUI's loader takes.

The loader reads a few sizes from the file and takes the rest as given: heads are 128 wide, 8 of them are keys, and the
condition encoder, the tokenizer and the detokenizer are 2048 wide, with 8, 4, 2 and 2 layers.
"""

from __future__ import annotations

import json
import re
from math import prod
from pathlib import Path

import torch
from safetensors.torch import save_file

LIST = Path(__file__).resolve().parents[1] / "unit" / "data" / "ace15_names.json"
PREFIX = "model.diffusion_model."
WIDTH, INNER, LAYERS, HEADS = 512, 512, 3, 8
ENCODER_INNER, ENCODER_HEADS = 256, 8


def shapes() -> dict[str, tuple[int, ...]]:
    """Names as in a split file, and the smallest shapes that are allowed."""
    made = {}
    for name, shape in json.loads(LIST.read_text(encoding="utf-8"))["2B"]:
        name, shape = name.removeprefix(PREFIX), list(shape)
        if name.startswith("decoder."):
            shape = _decoder(name, shape)
        elif name.startswith("encoder."):
            shape = _encoder(name, shape)
        layers = re.search(r"\{(\d+)\}", name)
        count = 1 if layers is None else LAYERS if name.startswith("decoder.") else int(layers[1])
        made |= {re.sub(r"\{\d+\}", str(i), name): tuple(shape) for i in range(count)}
    return made


def _decoder(name: str, shape: list[int]) -> list[int]:
    if name.endswith("condition_embedder.weight"):
        return [WIDTH, 2048]
    if re.search(r"attn\.[qkv]_proj", name):
        return [HEADS * 128, WIDTH]
    if re.search(r"attn\.o_proj", name):
        return [WIDTH, HEADS * 128]
    return [{2048: WIDTH, 6144: INNER, 12288: 6 * WIDTH}.get(n, n) for n in shape]


def _encoder(name: str, shape: list[int]) -> list[int]:
    if name.endswith("q_proj.weight"):
        return [128 * ENCODER_HEADS, 2048]
    if name.endswith("o_proj.weight"):
        return [2048, 128 * ENCODER_HEADS]
    return [{6144: ENCODER_INNER}.get(n, n) for n in shape]


def tensors(seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Matrices of `1 / sqrt(fan in)`, norms about 1, small biases: activations stay sane."""
    pool, made, at = torch.randn(1 << 22, generator=torch.Generator().manual_seed(seed)), {}, 0
    for name, shape in shapes().items():  # drawing takes long, so one pool of numbers is read from shifting places
        count, at = prod(shape), (at + 1_000_003) % pool.numel()
        tensor = pool.roll(at).repeat(-(-count // pool.numel()))[:count].view(shape).clone()
        if "norm" in name:
            tensor = 1.0 + 0.1 * tensor
        elif "bias" in name or "scale_shift_table" in name:
            tensor *= 0.1
        elif name.startswith("decoder.proj_out.1"):
            tensor /= shape[0] ** 0.5
        elif len(shape) > 1 and name not in ("null_condition_emb",):
            tensor /= tensor[0].numel() ** 0.5
        made[name] = tensor.to(dtype)
    return made


def write_checkpoint(path: Path) -> Path:
    save_file(tensors(), path)
    return path


def write_lora(path: Path, rank: int = 4, seed: int = 7) -> Path:
    """A LoRA of every decoder and condition encoder matrix of the attention and the MLP, in ComfyUI's names."""
    generator, made = torch.Generator().manual_seed(seed), {}
    for name, shape in shapes().items():
        if not re.search(r"(proj|linear_\d|embedder)\.weight$", name) or not name.startswith(("decoder.", "encoder.")):
            continue
        key = "diffusion_model." + name.removesuffix(".weight")
        made[f"{key}.lora_A.weight"] = torch.randn(rank, shape[1], generator=generator) / shape[1] ** 0.5
        made[f"{key}.lora_B.weight"] = torch.randn(shape[0], rank, generator=generator) / rank**0.5 * 0.5
    save_file(made, path)
    return path
