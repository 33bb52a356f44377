"""The text encoder's tokenizer: found, and read as data, for no file of a model says which code runs."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct
from tokenizers import AddedToken, Tokenizer
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen2Tokenizer

from ..errors import InputError, ModelError
from ..files import parse_json, read_bytes
from .quiet import reason

TOKENIZER_REPO = "Qwen/Qwen3-Embedding-0.6B"
MAX_FILE = 24 << 20  # bytes of one of a tokenizer's files; Qwen's largest has 11 million
_END = "<|endoftext|>"
_QWEN_END = 151643  # its id in Qwen's vocabulary
_Id = Annotated[int, Meta(ge=0, lt=1 << 20)]
_Short = Annotated[list[Any], Meta(max_length=8)]


class _Nfc(Struct, tag="NFC"):
    """Unicode's composed form."""


class _Lower(Struct, tag="Lowercase"):
    """Small letters."""


class _Key(Struct, forbid_unknown_fields=True):
    """A musical key by its other name, as the built-in model's text has it; another expression might never end."""

    Regex: Annotated[str, Meta(pattern=r"^\\b[a-g][b#] \(\?=minor\|major\)$")]


class _Replace(Struct, tag="Replace"):
    pattern: _Key
    content: Annotated[str, Meta(max_length=4)]


class _Normalizers(Struct, tag="Sequence"):
    normalizers: Annotated[list[_Lower | _Replace | _Nfc], Meta(max_length=16)]


class _Bytes(Struct, tag="ByteLevel"):
    """Bytes as printable characters."""


class _Pattern(Struct, forbid_unknown_fields=True):
    """Qwen's pattern for splitting text; another expression might never end."""

    Regex: Literal[
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    ]


class _Split(Struct, tag="Split"):
    pattern: _Pattern


class _Splits(Struct, tag="Sequence"):
    pretokenizers: Annotated[list[_Split | _Bytes], Meta(max_length=8)]


class _Template(Struct, tag="TemplateProcessing"):
    """Tokens before and after a text."""

    single: _Short
    pair: _Short
    special_tokens: Annotated[dict[str, dict[str, str | _Short]], Meta(max_length=8)]


class _Templates(Struct, tag="Sequence"):
    processors: Annotated[list[_Template | _Bytes], Meta(max_length=8)]


class _Bpe(Struct, tag="BPE"):
    vocab: dict[str, _Id]
    dropout: None = None
    # where cutting one off a word splits a character, the library ends the process
    continuing_subword_prefix: Literal[""] | None = None


class _Added(Struct):
    content: Annotated[str, Meta(min_length=1, max_length=256)]
    id: _Id = 0
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = True
    special: bool = False

    def token(self) -> AddedToken:
        return AddedToken(**{name: getattr(self, name) for name in self.__struct_fields__ if name != "id"})


class _File(Struct):
    """`tokenizer.json` of a byte-level BPE: no step of another kind, whose work could grow without bound."""

    model: _Bpe
    normalizer: _Normalizers | _Nfc | None = None
    pre_tokenizer: _Splits | _Split | _Bytes | None = None
    post_processor: _Templates | _Template | _Bytes | None = None
    decoder: _Bytes | None = None
    added_tokens: Annotated[list[_Added], Meta(max_length=4096)] = []


@dataclass(frozen=True)
class _Settings:
    """The fields read from `tokenizer_config.json`."""

    added_tokens_decoder: Annotated[dict[str, _Added], Meta(max_length=4096)] = field(default_factory=dict)


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Read the tokenizer in a folder: from `tokenizer.json`, else from `vocab.json` and `merges.txt` as Qwen's.

    Raises:
        ModelError: for a folder that has neither, or another kind of tokenizer.
    """
    try:
        if not (folder / "tokenizer.json").exists():
            return _with_end(_from_words(folder))
        data = read_bytes(folder / "tokenizer.json", MAX_FILE)
        parse_json(data, "tokenizer.json", _File)
        inner = Tokenizer.from_buffer(data)
        inner.no_padding()
        inner.no_truncation()
        added = [token.content for _, token in sorted(inner.get_added_tokens_decoder().items())]
        end = _END if _END in added else next(reversed(added or sorted(inner.get_vocab())), None)
        # transformers asks for a token to pad with, which a text by itself never is
        return _with_end(PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=end, pad_token=end))
    except BaseException as error:  # tokenizers and transformers raise many kinds, and a panic in Rust is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ModelError(
            f"the tokenizer in {folder} could not be read: {reason(error)}",
            "it is Qwen's, or another byte-level BPE, in tokenizer.json or in vocab.json and merges.txt",
            "fetch the model again",
        ) from error


def _from_words(folder: Path) -> PreTrainedTokenizerBase:
    vocab = parse_json(read_bytes(folder / "vocab.json", MAX_FILE), "vocab.json", dict[str, _Id])
    lines = read_bytes(folder / "merges.txt", MAX_FILE).decode().splitlines()
    merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    if wrong := next((merge for merge in merges if len(merge) != 2), None):
        raise InputError(f"merges.txt has {' '.join(wrong)!r}", "a merge is of two", "check the file")
    settings = folder / "tokenizer_config.json"
    said = parse_json(read_bytes(settings, MAX_FILE), settings.name, _Settings) if settings.exists() else _Settings()
    added = {int(number): token.token() for number, token in said.added_tokens_decoder.items()}
    return Qwen2Tokenizer(vocab=vocab, merges=merges, added_tokens_decoder=added)


def find_tokenizer(given: str | Path | None = None) -> PreTrainedTokenizerBase:
    """Find the text encoder's tokenizer: in the given folder, else in ComfyUI, else in the local hub cache.

    ACE-Step was trained with Qwen3-Embedding's, which ends every text with `<|endoftext|>`. ComfyUI ships Qwen 2.5's,
    the same words without that ending (its own prompts spell it out), so the ending is added where it is missing.

    Raises:
        ModelError: where there is none.
    """
    from huggingface_hub import snapshot_download

    comfyui = Path(os.path.expanduser(os.environ.get("COMFYUI_PATH") or "~/ComfyUI"))
    shipped = comfyui / "comfy" / "text_encoders" / "qwen25_tokenizer"
    reasons = []
    for place in [str(given)] if given is not None else [str(shipped), TOKENIZER_REPO]:
        folder = Path(os.path.expanduser(place))
        try:
            if place == TOKENIZER_REPO:
                folder = Path(snapshot_download(place, local_files_only=True))
            elif not folder.is_dir():
                reasons.append(f"{place} is no folder")
                continue
            return read_tokenizer(folder)
        except Exception as error:  # the hub raises many kinds
            reasons.append(f"{place}: {reason(error)[:120]}")
    raise ModelError(
        f"the text encoder has no tokenizer ({'; '.join(reasons)})",
        f"it is a folder you give, comfy/text_encoders/qwen25_tokenizer of the ComfyUI at $COMFYUI_PATH or ~/ComfyUI, "
        f"or {TOKENIZER_REPO} in the local hub cache",
        f"give the folder, set COMFYUI_PATH, or run: hf download {TOKENIZER_REPO} --exclude '*.safetensors'",
    )


def _with_end(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    ids = tokenizer("a").input_ids
    if not ids:
        raise InputError("it makes no words of a text", "each letter is one at least", "check its vocabulary")
    if tokenizer.convert_tokens_to_ids(_END) == _QWEN_END and ids[-1:] != [_QWEN_END]:
        end = TemplateProcessing(single=f"$A {_END}", special_tokens=[(_END, _QWEN_END)])
        tokenizer.backend_tokenizer.post_processor = end
    return tokenizer


def check_words(tokenizer: PreTrainedTokenizerBase, encoder: nn.Module) -> None:
    rows = encoder.get_input_embeddings().weight.shape[0]  # type: ignore[operator]  # a module's attribute may be a tensor
    words = max(tokenizer.get_vocab().values(), default=0) + 1  # ids may have gaps
    if words > rows:
        raise ModelError(
            f"the tokenizer has {words} words and the text encoder {rows}",
            "the text encoder must know every word",
            f"use the tokenizer of {TOKENIZER_REPO}",
        )
