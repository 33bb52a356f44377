"""The trained presets: 20 million weights shipped with the package, put together as an ACE-Step 1.5 pipeline.

`tiny/` beside this file has them in float16: `vae`, `base` (text encoder, condition encoder, transformer), `structure`
(audio tokenizer and detokenizer) and `turbo`, low-rank factors that make the base's transformer the turbo one. What is
zero by design is not stored. tools/tiny trained them; tiny/README.md is the model card.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AceStepAudioTokenDetokenizer,
    AceStepAudioTokenizer,
    AceStepConditionEncoder,
    AceStepPipeline,
    AceStepTransformer1DModel,
    FlowMatchEulerDiscreteScheduler,
)
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

from .narrow import narrow_vae

HOME = Path(__file__).with_name("tiny")
VERSION = 4  # raise it with every change of the files in `tiny/`
_STOP = "<|endoftext|>"


def build(kind: str) -> AceStepPipeline:
    """Make the pipeline: `kind` is "turbo" or "base". Float16, on the CPU."""
    config: dict[str, Any] = json.loads((HOME / "config.json").read_text(encoding="utf-8"))
    weights = load_file(HOME / "base.safetensors") | load_file(HOME / "structure.safetensors")
    if kind == "turbo":
        merge(weights, load_file(HOME / "turbo.safetensors"))
    vae = narrow_vae(config["vae"])
    vae.load_state_dict(load_file(HOME / "vae.safetensors"))
    parts: dict[str, nn.Module] = {
        "text_encoder": Qwen3Model(Qwen3Config(**config["text_encoder"])),
        "condition_encoder": AceStepConditionEncoder(**config["condition_encoder"]),
        "transformer": AceStepTransformer1DModel(**config["transformer"], is_turbo=kind == "turbo", model_version=kind),
        "audio_tokenizer": AceStepAudioTokenizer(**config["audio_tokenizer"]),
        "audio_token_detokenizer": AceStepAudioTokenDetokenizer(**config["audio_token_detokenizer"]),
    }
    silence = weights.pop("silence")  # [64]
    for name, part in parts.items():
        own = {key.removeprefix(f"{name}."): t for key, t in weights.items() if key.startswith(f"{name}.")}
        with torch.no_grad():
            for key, tensor in part.state_dict().items():
                if key in own:
                    tensor.copy_(own.pop(key))
                else:
                    tensor.zero_()
        assert not own, f"{name} has no {sorted(own)}"
    with torch.no_grad():
        parts["condition_encoder"].get_buffer("silence_latent").copy_(silence)
    return AceStepPipeline(
        vae=vae.eval(),
        **{name: part.eval().half() for name, part in parts.items()},
        tokenizer=tokenizer(HOME / "tokenizer.json"),
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0),
    )


def merge(weights: dict[str, Tensor], adapter: dict[str, Tensor]) -> None:
    """Make the base's transformer the adapter's: W + b @ a where it has factors, its own tensor where it has that."""
    for key, tensor in adapter.items():
        name = f"transformer.{key}"
        if key.endswith(".a"):
            name, b = name.removesuffix(".a"), adapter[f"{key.removesuffix('.a')}.b"]
            weights[name] = weights[name].float() + b.float() @ tensor.float()
        elif not key.endswith(".b"):
            weights[name] = tensor


def tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """Byte-level BPE in which every tempo and every key is one token."""
    inner = Tokenizer.from_file(str(path))
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=_STOP, pad_token=_STOP, model_max_length=4096)
