"""The parts of a pipeline: their classes, which of a config's numbers they take, and how they are built without memory.

Whatever a file says of a part is data: the classes are known before a file is read, and each number has a bound.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import torch
from diffusers import (
    AceStepAudioTokenDetokenizer,
    AceStepAudioTokenizer,
    AceStepConditionEncoder,
    AceStepPipeline,
    AceStepTransformer1DModel,
    AutoencoderOobleck,
    FlowMatchEulerDiscreteScheduler,
)
from msgspec import Meta
from torch import nn
from transformers import PreTrainedTokenizerBase, Qwen3Config, Qwen3Model

from ..errors import ModelError
from .narrow import NARROW, narrow_vae
from .quiet import reason

CLASSES: dict[str, Callable[..., nn.Module]] = {
    "vae": AutoencoderOobleck,
    "transformer": AceStepTransformer1DModel,
    "condition_encoder": AceStepConditionEncoder,
    "audio_tokenizer": AceStepAudioTokenizer,
    "audio_token_detokenizer": AceStepAudioTokenDetokenizer,
    "text_encoder": Qwen3Model,
}
_CORRECT = "correct it, or fetch the file again"
OPTIONAL = ("audio_tokenizer", "audio_token_detokenizer")  # only covers need them

MAX_LAYERS, MAX_SIZE = 128, 1 << 20  # of one part; ACE-Step's largest have 32 layers and 151,669 words
_Size = Annotated[int, Meta(ge=1, le=MAX_SIZE)]
_Layers = Annotated[int, Meta(ge=1, le=MAX_LAYERS)]
_Few = Annotated[int, Meta(ge=1, le=64)]
_Fews = Annotated[list[_Few], Meta(min_length=1, max_length=16)]
_Positive = Annotated[float, Meta(gt=0, le=1e12)]
_Number = Annotated[float, Meta(ge=0, le=1e12)]
_Attention = Annotated[list[Literal["sliding_attention", "full_attention"]], Meta(max_length=MAX_LAYERS)]
_NAMED: dict[str, Any] = {
    "layer_types": _Attention | None,
    "rope_theta": _Positive,
    "encoder_hidden_size": _Size | None,
    "model_version": Annotated[str, Meta(max_length=64)] | None,
    "fsq_input_levels": _Fews | None,
    "fsq_input_num_quantizers": _Few,
    "downsampling_ratios": _Fews,
    "channel_multiples": _Fews,
}
_BY_DEFAULT: dict[type, Any] = {bool: bool, int: _Size, float: _Number}


@dataclass(frozen=True)
class _Rope:
    rope_theta: _Positive
    rope_type: Literal["default"] = "default"


@dataclass(frozen=True)
class _Narrow:
    hidden_size: _Size
    channel_multiples: _Fews
    plain_levels: Annotated[int, Meta(ge=0, le=16)]


_TEXT: dict[str, Any] = {
    **dict.fromkeys(
        ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim"),
        _Size,
    ),
    "num_hidden_layers": _Layers,
    "rms_norm_eps": _Number,
    "rope_theta": _Positive,
    "rope_parameters": _Rope,
    "layer_types": Annotated[list[Literal["full_attention"]], Meta(max_length=MAX_LAYERS)] | None,
    "hidden_act": Literal["silu"],
    "model_type": Literal["qwen3"],
}
# Keys that change nothing here.
_LABELS = {"_class_name", "_diffusers_version", "_name_or_path"}
_TEXT_LABELS = {
    *("architectures", "transformers_version", "dtype", "torch_dtype", "initializer_range", "attention_dropout"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "use_cache", "tie_word_embeddings", "max_position_embeddings"),
    *("max_window_layers", "sliding_window", "_name_or_path"),
}


def checked_config(part: str, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the arguments of a part's class from its config.

    An unknown key is ignored where it is empty (null, false, empty), and refused otherwise: it would ask for other
    code, quantised weights or another model.

    Raises:
        ModelError: for such a key, and for a value of the wrong type or out of its bound, by name.
    """
    if given.get("_class_name", name := CLASSES[part].__name__) != name:
        raise ModelError(f"{where} has _class_name {given['_class_name']!r}", f"it must be {name}", _CORRECT)
    types, labels = (_TEXT, _TEXT_LABELS) if part == "text_encoder" else (_types(CLASSES[part]), _LABELS)
    for key, value in given.items():
        if key not in types:
            if key in labels or not value:
                continue
            raise ModelError(
                f"{where} has {key!r}", f"only what a {name} is made of is read",
                "choose a model that needs nothing else",
            )  # fmt: skip
        try:
            msgspec.convert(value, types[key])
        except msgspec.ValidationError as error:
            raise ModelError(f"{where} has {key} {value!r}", str(error), _CORRECT) from error
    found = {key: value for key, value in given.items() if key in types}
    return _text(found) if part == "text_encoder" else found


def _types(kind: Callable[..., nn.Module]) -> dict[str, Any]:
    """Return the type and bound of each argument of a class, mostly from its default; arguments of unknown type are
    left out."""
    found = {}
    for name, argument in inspect.signature(kind).parameters.items():
        by_name = _Layers if name.endswith("_layers") else _NAMED.get(name)
        found[name] = by_name or _BY_DEFAULT.get(type(argument.default))
    if kind is AutoencoderOobleck:
        found[NARROW] = _Narrow
    return {name: known for name, known in found.items() if known is not None}


def _text(given: dict[str, Any]) -> dict[str, Any]:
    """Return a text encoder's arguments; transformers 5 writes `rope_parameters`, earlier releases `rope_theta`."""
    rope = given.pop("rope_parameters", {})
    kept = {k: v for k, v in given.items() if k not in ("layer_types", "hidden_act", "model_type")}
    return kept | {k: v for k, v in rope.items() if k == "rope_theta"}


def on_meta(part: str, config: dict[str, Any], source: str) -> nn.Module:
    """Build a part whose parameters hold no memory. The device is set for this thread only: others may be loading
    too."""
    try:
        with torch.device("meta"):
            if part == "text_encoder":
                made: nn.Module = Qwen3Model(Qwen3Config(max_position_embeddings=32768, **config))
            else:
                made = narrow_vae(config) if NARROW in config else CLASSES[part](**config)
    except Exception as error:  # the libraries' classes raise many kinds
        raise ModelError(
            f"{source} has sizes that make no {part}: {reason(error)}",
            "the sizes must be those of ACE-Step 1.5",
            "choose an ACE-Step 1.5 model",
        ) from error
    heads, keys = (getattr(made.config, f"num_{name}_heads", 1) for name in ("attention", "key_value"))
    if heads % keys:
        raise ModelError(f"{source} has {heads} heads and {keys} key heads", "the first is a multiple", _CORRECT)
    return made.eval()


def assemble(parts: Mapping[str, nn.Module | None], tokenizer: PreTrainedTokenizerBase) -> AceStepPipeline:
    """Put parts together as a pipeline, with the scheduler that it documents."""
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0)
    return AceStepPipeline(**parts, tokenizer=tokenizer, scheduler=scheduler)
