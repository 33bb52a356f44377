"""A tokenizer that somebody else made: each of its steps ends, and its words fit the text encoder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ostinato.engine_runtime.models.presets import preset_folder
from ostinato.engine_runtime.models.tokenizer import read_tokenizer

from .hostile import edit, refused

TWICE = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


@pytest.mark.parametrize(
    "values",
    [
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(x+x+)+y"}, "behavior": "Isolated", "invert": False}},
        {"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}},
        {"normalizer": {"type": "Sequence", "normalizers": [TWICE] * 40}},
        {"post_processor": {"type": "Sequence", "processors": [BYTES] * 1000}},
        {"decoder": {"type": "Fuse"}},
        {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}},
        {"model": {"type": "BPE", "vocab": {"a": 1 << 40}, "merges": []}},
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}},
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [], "dropout": 0.5}},
        {"added_tokens": [{"id": 1014, "content": ""}]},
        {"version": "9.9"},
    ],
)
def test_a_tokenizer_of_steps_that_may_not_end(folder: Path, values: dict) -> None:
    edit(folder / "tokenizer" / "tokenizer.json", **values)
    refused(folder, "the tokenizer in")


def single(*pieces: dict) -> dict:
    return {"type": "TemplateProcessing", "single": pieces, "pair": [], "special_tokens": {}}


@pytest.mark.parametrize(
    "values",
    [
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "a"]], "continuing_subword_prefix": "##"}},
        {"post_processor": single({"Sequence": {"id": "B", "type_id": 0}})},
        {"post_processor": single({"SpecialToken": {"id": "absent", "type_id": 0}})},
    ],
)
def test_a_tokenizer_that_makes_its_library_panic(folder: Path, values: dict) -> None:
    edit(folder / "tokenizer" / "tokenizer.json", **values)
    refused(folder, "the tokenizer in")


PADDING = {"strategy": {"Fixed": 1 << 40}, "direction": "Left", "pad_id": 0, "pad_type_id": 0, "pad_token": "a"}
TRUNCATION = {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0}


@pytest.mark.parametrize("values", [{"padding": PADDING | {"pad_to_multiple_of": None}}, {"truncation": TRUNCATION}])
def test_a_tokenizer_pads_and_cuts_as_it_is_asked(folder: Path, values: dict) -> None:
    """Not as its file says, which could make any text one of 2^40 tokens."""
    edit(folder / "tokenizer" / "tokenizer.json", **values)
    words = read_tokenizer(folder / "tokenizer")
    assert words("piano").input_ids == read_tokenizer(preset_folder("random") / "tokenizer")("piano").input_ids
    assert "max_length" not in words.init_kwargs


def test_a_tokenizer_without_a_word_of_its_own_pads(folder: Path) -> None:
    edit(folder / "tokenizer" / "tokenizer.json", added_tokens=[])
    words = read_tokenizer(folder / "tokenizer")
    assert words(["a", "a b"], padding="longest", return_tensors="pt").input_ids.shape[0] == 2
    edit(folder / "tokenizer" / "tokenizer.json", model={"type": "BPE", "vocab": {}, "merges": []})
    refused(folder, "no words")


def test_a_word_beyond_the_text_encoder(folder: Path) -> None:
    """Its number counts, for ids may have gaps."""
    path = folder / "tokenizer" / "tokenizer.json"
    model = json.loads(path.read_text(encoding="utf-8"))["model"]
    model["vocab"]["!"] = 1015
    edit(path, model=model)
    refused(folder, "1016 words")
