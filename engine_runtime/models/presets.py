"""The built-in presets: `tiny` makes music; `random` is ACE-Step 1.5's own classes at toy size, its weights made from
a seed, for tests. It sounds like noise."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from safetensors import SafetensorError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

from ..constants import PRESETS, RANDOM
from ..errors import ModelError
from ..files import cache_home
from ..spec import ACE_STEP
from . import trained
from .quiet import quiet

RECIPE = 1  # raise it when anything below changes what is made

# Gains of the VAE's last convolutions, set so that unit-normal latents decode to an RMS near 0.1, and audio of that
# level encodes to a deviation near 1 with a posterior deviation near 0.05 (measured).
_DECODER_GAIN = 0.022
_MEAN_GAIN, _SPREAD_GAIN, _SPREAD_BIAS = 0.028, 0.002, -3.0

_BLOCK = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "sliding_window": 16,
}
_POOLER = {**_BLOCK, "num_attention_pooler_hidden_layers": 1}
_TEXT_WIDTH = 64

# Words that become one token each; all else is spelt in bytes.
_WORDS = """Instruction Caption Metas Languages Lyric Fill Repaint Generate Extract the audio semantic mask area tokens
based on given conditions bpm timesignature keyscale duration seconds major minor verse chorus bridge intro
outro instrumental music song piano guitar bass drums synth pad strings organ brass violin flute vocal voice
choir female male ambient house techno jazz rock pop folk metal classical lofi hiphop trance dub funk soul blues
warm dark bright soft loud slow fast deep dreamy happy sad calm epic tight wide live night light love and with a
of to in my your you me we is are for all""".split()


def preset_folder(name: str, make: Callable[[str], Any] | None = None) -> Path:
    """Return the folder of a preset in diffusers' format, made on first use.

    It lies in `$OSTINATO_CACHE`, or in the user's cache folder.

    Args:
        make: makes the pipeline of a kind, to be saved; None makes the preset's own.

    Raises:
        ModelError: where it cannot be written.
    """
    root = cache_home()
    folder = root / f"{name}-{RECIPE if name in RANDOM else trained.VERSION}"
    if not (folder / "model_index.json").is_file():
        try:
            root.mkdir(parents=True, exist_ok=True)
            _make(name, folder, make or (build if name in RANDOM else trained.build))
        except (OSError, SafetensorError) as error:  # the latter where the disk is full
            raise ModelError(
                f"the preset {name} could not be written to {folder}: {getattr(error, 'strerror', None) or error}",
                "it is made once, in a folder that can be written and is not in the way",
                "free or remove it, or set OSTINATO_CACHE to another folder",
            ) from error
    return folder


def _make(name: str, folder: Path, make: Callable[[str], Any]) -> None:
    """Write the preset beside its place and move it there, so that it is whole or not there."""
    made = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
    try:
        with quiet():
            make(PRESETS[name]).save_pretrained(made)
        os.replace(made, folder)
    except OSError:
        if not (folder / "model_index.json").is_file():  # else another process was faster
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)


def build(kind: str) -> AceStepPipeline:
    """Make the random pipeline: `kind` is "turbo" or "base". Float32, on the CPU, the same on every machine."""
    vae = AutoencoderOobleck(
        encoder_hidden_size=2 * ACE_STEP.channels,
        downsampling_ratios=[10, 8, 6, 4],  # the widest stride first: the encoder is 128 wide at every rate
        channel_multiples=[1, 1, 1, 1],
        decoder_channels=24,
        decoder_input_channels=ACE_STEP.channels,
        sampling_rate=ACE_STEP.sample_rate,
    )
    tokenizer = tokenizer_of_words()
    parts = {
        "vae": vae,
        "text_encoder": Qwen3Model(
            Qwen3Config(
                hidden_size=_TEXT_WIDTH,
                intermediate_size=2 * _TEXT_WIDTH,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=32,
                vocab_size=len(tokenizer),
                max_position_embeddings=4096,
            )
        ),
        "transformer": AceStepTransformer1DModel(
            **_BLOCK, num_hidden_layers=3, is_turbo=kind == "turbo", model_version=kind
        ),
        "condition_encoder": AceStepConditionEncoder(
            **_BLOCK,
            text_hidden_dim=_TEXT_WIDTH,
            num_lyric_encoder_hidden_layers=2,
            num_timbre_encoder_hidden_layers=1,
        ),
        "audio_tokenizer": AceStepAudioTokenizer(**_POOLER, fsq_dim=_BLOCK["hidden_size"]),
        "audio_token_detokenizer": AceStepAudioTokenDetokenizer(**_POOLER),
    }
    for name, module in parts.items():
        _fill(module.eval(), f"{kind}:{name}")
    _calibrate(vae)
    with torch.no_grad():
        silence = vae.encode(torch.zeros(1, 2, ACE_STEP.sample_rate)).latent_dist.mode()
        parts["condition_encoder"].silence_latent.copy_(silence[0, :, silence.shape[2] // 2])
    vae.half()  # halves the folder; it is loaded as float32
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0)
    return AceStepPipeline(**parts, tokenizer=tokenizer, scheduler=scheduler)


def _calibrate(vae: AutoencoderOobleck) -> None:
    """Bring audio and latents to the levels of a trained model; the bias gives silence a latent that is not zero."""
    with torch.no_grad():
        vae.decoder.conv2.weight_g.fill_(_DECODER_GAIN)
        last = vae.encoder.conv2
        channels, generator = ACE_STEP.channels, torch.Generator().manual_seed(RECIPE)
        last.weight_g[:channels], last.weight_g[channels:] = _MEAN_GAIN, _SPREAD_GAIN
        last.bias[:channels] = 0.5 * torch.randn(channels, generator=generator)
        last.bias[channels:] = _SPREAD_BIAS


def _fill(module: nn.Module, label: str) -> None:
    """Set weights from their names alone, so that no change of construction order changes them.

    Matrices are normal with variance 1 / fan-in, norms 1, biases and Snake parameters 0, weight norms 1.
    """
    for name, tensor in module.named_parameters():
        leaf = name.rsplit(".", 1)[-1]
        with torch.no_grad():
            if leaf in ("bias", "alpha", "beta"):
                tensor.zero_()
            elif leaf == "weight_g" or tensor.ndim == 1:
                tensor.fill_(1.0)
            else:
                digest = hashlib.sha256(f"{RECIPE}:{label}:{name}".encode()).digest()
                generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
                fan_in = 1 if leaf in ("null_condition_emb", "special_token") else math.prod(tensor.shape[1:])
                tensor.copy_(torch.randn(tensor.shape, generator=generator) / math.sqrt(fan_in))


def tokenizer_of_words() -> PreTrainedTokenizerFast:
    """Make a byte-level BPE whose merges spell the words above, each with and without a leading space."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(alphabet)}
    merges: dict[tuple[str, str], None] = {}
    for word in _WORDS:
        for text in (word, "Ġ" + word):  # Ġ is byte-level BPE's space
            for end in range(1, len(text)):
                merges.setdefault((text[:end], text[end]))
                vocab.setdefault(text[: end + 1], len(vocab))
    inner = Tokenizer(models.BPE(vocab=vocab, merges=list(merges)))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    stop = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=stop, pad_token=stop, model_max_length=4096)
