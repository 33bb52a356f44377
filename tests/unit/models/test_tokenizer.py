"""Where the text encoder's tokenizer comes from, and how it ends a text."""

from __future__ import annotations

from pathlib import Path

import pytest
from ostinato.engine_runtime.errors import ModelError
from ostinato.engine_runtime.models import tokenizer
from ostinato.engine_runtime.models.loading import Model
from ostinato.engine_runtime.models.presets import preset_folder
from ostinato.engine_runtime.models.tokenizer import find_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast


def test_no_tokenizer_anywhere(tmp_path: Path, places, monkeypatch: pytest.MonkeyPatch) -> None:
    places(comfyui=tmp_path / "nowhere")
    monkeypatch.setattr(tokenizer, "TOKENIZER_REPO", "nobody/has-this-tokenizer")
    with pytest.raises(ModelError, match="COMFYUI_PATH or ~/ComfyUI, or nobody/has-this-tokenizer"):
        find_tokenizer()
    with pytest.raises(ModelError, match="is no folder"):
        find_tokenizer(tmp_path / "absent")
    with pytest.raises(ModelError, match="has no tokenizer"):
        find_tokenizer(tmp_path)


def qwen(folder: Path, ends: bool) -> Path:
    """A toy tokenizer whose `<|endoftext|>` has Qwen's id."""
    vocab = {"a": 0, "b": 1, "Ġ": 2, "<|endoftext|>": 151643}  # Ġ is byte-level BPE's space
    inner = Tokenizer(models.BPE(vocab, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if ends:
        inner.post_processor = processors.TemplateProcessing(
            single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", 151643)]
        )
    made = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<|endoftext|>")
    made.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("ends", [False, True])
def test_texts_end_as_in_training(tmp_path: Path, ends: bool, places) -> None:
    folder = qwen(tmp_path / "comfy" / "text_encoders" / "qwen25_tokenizer", ends)
    places(comfyui=tmp_path)
    for found in (find_tokenizer(folder), find_tokenizer()):
        assert found("a b").input_ids == [0, 2, 1, 151643]
        assert found(["a b", "a"], padding=True, truncation=True, max_length=2).input_ids == [[0, 151643]] * 2


def test_other_tokenizers_stay_as_they_are(turbo: Model, cache: None) -> None:
    words = preset_folder("random") / "tokenizer"
    assert find_tokenizer(words)("warm piano").input_ids == turbo.pipe.tokenizer("warm piano").input_ids
