"""Finds the tokenizer of the text encoder, which no checkpoint holds."""

from __future__ import annotations

import os
from pathlib import Path

from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..errors import ModelError

TOKENIZER_REPO = "Qwen/Qwen3-Embedding-0.6B"
_END = "<|endoftext|>"
_QWEN_END = 151643  # its id in Qwen's vocabulary


def find_tokenizer(given: str | Path | None = None) -> PreTrainedTokenizerBase:
    """The text encoder's tokenizer: the folder given, else the one in ComfyUI, else the local hub cache's.

    ACE-Step was trained with Qwen3-Embedding's, which ends every text with `<|endoftext|>`. ComfyUI ships Qwen 2.5's,
    the same words without that ending (its own prompts spell it out), so the ending is added where it is not.
    """
    comfyui = Path(os.environ.get("COMFYUI_PATH") or Path.home() / "ComfyUI").expanduser()
    shipped = comfyui / "comfy" / "text_encoders" / "qwen25_tokenizer"
    reasons = []
    for place in [str(given)] if given is not None else [str(shipped), TOKENIZER_REPO]:
        if place != TOKENIZER_REPO and not Path(place).expanduser().is_dir():
            reasons.append(f"{place} is no folder")
            continue
        try:
            folder = place if place == TOKENIZER_REPO else str(Path(place).expanduser())
            return _with_end(AutoTokenizer.from_pretrained(folder, local_files_only=True))
        except Exception as error:  # transformers raises many kinds, and its text is of many lines
            reasons.append(f"{place}: {' '.join(str(error).split())[:120]}")
    raise ModelError(
        f"the text encoder has no tokenizer ({'; '.join(reasons)})",
        f"it is a folder you give, comfy/text_encoders/qwen25_tokenizer of the ComfyUI at $COMFYUI_PATH or ~/ComfyUI, "
        f"or {TOKENIZER_REPO} in the local hub cache",
        f"give the folder, set COMFYUI_PATH, or run: hf download {TOKENIZER_REPO} --exclude '*.safetensors'",
    )


def _with_end(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    ids = tokenizer("a").input_ids
    if tokenizer.convert_tokens_to_ids(_END) == _QWEN_END and ids[-1] != _QWEN_END:
        end = TemplateProcessing(single=f"$A {_END}", special_tokens=[(_END, _QWEN_END)])
        tokenizer.backend_tokenizer.post_processor = end
    return tokenizer


def check_words(tokenizer: PreTrainedTokenizerBase, encoder: nn.Module) -> None:
    rows = encoder.get_input_embeddings().weight.shape[0]  # type: ignore[operator]  # a module's attribute may be a tensor
    if len(tokenizer) > rows:
        raise ModelError(
            f"the tokenizer has {len(tokenizer)} words and the text encoder {rows}",
            "the text encoder must know every word",
            f"use the tokenizer of {TOKENIZER_REPO}",
        )
