"""The sizes and the kind of an ACE-Step 1.5 model, from its tensors' shapes, its metadata and its file's name."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError, ModelError
from ..files import parse_json
from ..spec import ACE_STEP
from .given import KINDS
from .names import Shape, to_theirs

_ROPE = {"rope_theta": 1_000_000.0}
_COMMON = {**_ROPE, "sliding_window": 128}
_UNSEEN = ("rms_norm_eps", "rope_theta", "sliding_window")  # numbers that no shape tells


def config_from(part: str, shapes: Mapping[str, Shape], source: str, **known: Any) -> dict[str, Any]:
    """Derive a part's configuration from its tensors' shapes.

    Args:
        part: one of `PARTS`.
        shapes: by our names, in our shapes.
        source: the file's name, for errors.
        known: values that shapes cannot tell, such as `sliding_window`; they override.

    Raises:
        ModelError: when a needed tensor is missing or has an impossible shape.
    """
    try:
        return {**_CONFIGS[part](shapes), **known}
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise ModelError(
            f"{source} has no usable {to_theirs(part, error.args[0])}"
            if isinstance(error, KeyError)
            else f"{source} has {part} tensors of impossible shapes",
            "a single file holds the diffusion model, the VAE and the text encoder of ACE-Step 1.5",
            "choose an ACE-Step 1.5 checkpoint, or give the missing file",
        ) from error


def _blocks(shapes: Mapping[str, Shape], prefix: str) -> int:
    """Count the layers numbered from 0 without a gap."""
    seen = {int(m[1]) for name in shapes if (m := re.match(re.escape(prefix) + r"\.(\d{1,4})\.", name))}
    return next(i for i in range(len(seen) + 1) if i not in seen)


def _attention(shapes: Mapping[str, Shape], layer: str, q: str = "to_q", k: str = "to_k", norm: str = "norm_q") -> dict:
    head = shapes[f"{layer}.self_attn.{norm}.weight"][0]
    inner, hidden = shapes[f"{layer}.mlp.gate_proj.weight"]
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_attention_heads": shapes[f"{layer}.self_attn.{q}.weight"][0] // head,
        "num_key_value_heads": shapes[f"{layer}.self_attn.{k}.weight"][0] // head,
        "head_dim": head,
    }


def _transformer(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    _, channels, patch = shapes["proj_in_conv.weight"]
    return {
        **_COMMON,
        **_attention(shapes, "layers.0"),
        "num_hidden_layers": _blocks(shapes, "layers"),
        "in_channels": channels,
        "patch_size": patch,
        "audio_acoustic_hidden_dim": shapes["proj_out_conv.weight"][1],
        "encoder_hidden_size": shapes["condition_embedder.weight"][1],
    }


def _condition_encoder(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    return {
        **_COMMON,
        **_attention(shapes, "lyric_encoder.layers.0"),
        "text_hidden_dim": shapes["text_projector.weight"][1],
        "timbre_hidden_dim": shapes["timbre_encoder.embed_tokens.weight"][1],
        "num_lyric_encoder_hidden_layers": _blocks(shapes, "lyric_encoder.layers"),
        "num_timbre_encoder_hidden_layers": _blocks(shapes, "timbre_encoder.layers"),
    }


def _audio_tokenizer(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    return {
        **_COMMON,
        **_attention(shapes, "attention_pooler.layers.0"),
        "num_attention_pooler_hidden_layers": _blocks(shapes, "attention_pooler.layers"),
        "audio_acoustic_hidden_dim": shapes["audio_acoustic_proj.weight"][1],
        "fsq_dim": shapes["quantizer.project_in.weight"][1],
    }


def _detokenizer(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    return {
        **_COMMON,
        **_attention(shapes, "layers.0"),
        "num_attention_pooler_hidden_layers": _blocks(shapes, "layers"),
        "audio_acoustic_hidden_dim": shapes["proj_out.weight"][0],
        "pool_window_size": shapes["special_tokens"][1],
    }


def _vae(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    width, audio, _ = shapes["encoder.conv1.weight_v"]
    strides = [shapes[f"encoder.block.{i}.conv1.weight_v"] for i in range(_blocks(shapes, "encoder.block"))]
    return {
        "encoder_hidden_size": width,
        "downsampling_ratios": [kernel // 2 for _, _, kernel in strides],
        "channel_multiples": [out // width for out, _, _ in strides],
        "decoder_channels": shapes["decoder.conv2.weight_v"][1],
        "decoder_input_channels": shapes["decoder.conv1.weight_v"][1],
        "audio_channels": audio,
        "sampling_rate": ACE_STEP.sample_rate,
    }


def _text_encoder(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    return {
        **_ROPE,
        **_attention(shapes, "layers.0", "q_proj", "k_proj", "q_norm"),
        "vocab_size": shapes["embed_tokens.weight"][0],
        "num_hidden_layers": _blocks(shapes, "layers"),
    }


_CONFIGS: dict[str, Callable[[Mapping[str, Shape]], dict[str, Any]]] = {
    "transformer": _transformer,
    "condition_encoder": _condition_encoder,
    "audio_tokenizer": _audio_tokenizer,
    "audio_token_detokenizer": _detokenizer,
    "vae": _vae,
    "text_encoder": _text_encoder,
}


def configs_from(shapes: Mapping[str, Mapping[str, Shape]], source: str, kind: str, known: Mapping) -> dict[str, dict]:
    """Derive the configurations of all parts, and check that they agree. Raises `ModelError`."""
    made = {part: config_from(part, found, source, **known.get(part, {})) for part, found in shapes.items()}
    made["audio_tokenizer"]["pool_window_size"] = made["audio_token_detokenizer"]["pool_window_size"]
    made["transformer"] |= {"is_turbo": kind == "turbo", "model_version": kind}
    if (hop := math.prod(made["vae"]["downsampling_ratios"])) != ACE_STEP.hop:
        raise ModelError(
            f"{source} has a VAE of {hop} samples a frame",
            f"ACE-Step 1.5's has {ACE_STEP.hop}",
            "choose the VAE of ACE-Step 1.5",
        )
    return made


def known_from(metadata: Mapping[str, str]) -> tuple[dict[str, dict[str, float]], str | None]:
    """Read from metadata the numbers that shapes cannot tell, by part, and the model's kind.

    Used are `model_version`, and `config`, a JSON object of objects by part with the names of diffusers' configs. Other
    metadata is ignored.
    """
    try:
        config = parse_json(metadata.get("config", "{}"), "the metadata")
    except InputError:
        config = {}
    parts = {name: part for name, part in config.items() if isinstance(part, dict)} if isinstance(config, dict) else {}
    numbers = {name: {k: part[k] for k in _UNSEEN if _positive(part.get(k))} for name, part in parts.items()}
    transformer = parts.get("transformer", {})
    kind = metadata.get("model_version") or transformer.get("model_version")
    if kind is None and transformer.get("is_turbo") is True:
        kind = "turbo"
    return numbers, kind if kind in KINDS else None


def _positive(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


def pick_kind(given: str | None, noted: str | None, path: Path) -> str:
    """Choose turbo, base or sft: the caller's word, else the metadata's, else the one in the file's name. Raises
    `ModelError`."""
    if given is not None and given not in KINDS:
        raise ModelError(f"the kind is {given!r}", f"allowed are {', '.join(KINDS)}", "choose one of them")
    words = sorted(set(re.split(r"[^a-z]+", path.stem.lower())) & set(KINDS))
    if kind := given or noted or (words[0] if len(words) == 1 else None):
        return kind
    raise ModelError(
        f"{path.name} does not say whether it is turbo, base or SFT",
        "the weights cannot tell; its metadata or exactly one of these words in its name can",
        f"set kind to {' or '.join(KINDS)}, or rename the file",
    )
