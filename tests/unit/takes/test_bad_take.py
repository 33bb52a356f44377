"""A file that is no whole take is refused in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ostinato.engine_runtime.errors import TakeError
from ostinato.engine_runtime.takes.take import FORMAT, METADATA, Log
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...fuzz import examples
from .test_take import a_log


def header(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as opened:
        return json.loads(opened.metadata()[METADATA])


def rewritten(path: Path, change: Callable[[dict[str, Any]], Any], tensors: dict[str, Tensor] | None = None) -> Path:
    """The same file with other JSON; `tensors` go over its own, None takes one away."""
    data = header(path)
    with safe_open(path, framework="pt") as opened:
        kept = {name: opened.get_tensor(name).clone() for name in opened.keys()} | (tensors or {})
    data = change(data) or data
    save_file({k: v for k, v in kept.items() if v is not None}, path, metadata={METADATA: json.dumps(data)})
    return path


def refused(path: Path, *words: str) -> None:
    with pytest.raises(TakeError) as caught:
        Log.load(path)
    sentence = str(caught.value)
    assert sentence.endswith(".") and "\n" not in sentence and sentence.count(";") >= 2
    for word in (path.name, *words):
        assert word in sentence, sentence


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "take.safetensors"
    a_log().save(path)
    return path


def put(*where: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: Any) -> None:
        for key in where[:-1]:
            data = data[key]
        data[where[-1]] = value

    return change


def without(*where: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: Any) -> None:
        for key in where[:-1]:
            data = data[key]
        del data[where[-1]]

    return change


REQUEST = ("events", 2, 2)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (put("format", value=FORMAT + 1), "update Ostinato"),
        (put("format", value="1"), "$.format"),
        (put("format", value=0), "format is 0"),
        (without("format"), "`format`"),
        (put("tempo", value=1), "`tempo`"),
        (without("events"), "`events`"),
        (without("knobs"), "`knobs`"),
        (put("engine", value=None), "header"),
        (put("origin", value={"torch": 2}), "header"),
        (put("origin", value=None), "$.origin"),
        (put("recipe", value={"model": "random"}), "header"),
        (put("recipe", value=["random"]), "$.recipe"),
        (put("ticks", value=-1), "header"),
        (put("ticks", value=4), "tick 4"),
        (put("ticks", value=True), "header"),
        (put("latents", value=["abc"]), "header"),
        (put("config", value=None), "StreamConfig"),
        (put("config", "depth", value=9), "depth is 9"),
        (put("config", "depth", value="9"), "depth is '9'"),
        (put("config", "spread", value=1), "StreamConfig.spread is 1"),
        (put("config", "kind", value="Knobs"), "unknown 'depth'"),
        (put("config", "kind", value="Path"), "'Path'"),
        (without("config", "kind"), "None"),
        (put("knobs", "sde", value=2.0), "sde is 2"),
        (put("knobs", "volume", value=2.0), "'volume'"),
        (put("events", 0, 0, value=3), "tick 0"),
        (put("events", 0, 0, value=-1), "tick -1"),
        (put("events", 0, 0, value=0.5), "$.events[0][0]"),
        (put("events", 0, 1, value="stopped"), "'stopped'"),
        (put("events", 0, 2, value={"depth": 0}), "depth is 0"),
        (put("events", 0, 2, value={"colour": 0}), "'colour'"),
        (put("events", 1, 2, value={"volume": 1.0}), "'volume'"),
        (put("events", 1, 2, value={"sde": 7.0}), "sde is 7"),
        (put("events", 1, 2, value={"sde": {"tensor": "0" * 64}}), "missing"),
        (put("events", 1, 2, value=[]), "$.events[1][2]"),
        (put("events", 1, value=[0, "turned"]), "$.events[1]"),
        *(
            (put("events", 1, value=[0, "adapted", what]), "adapters")
            for what in (
                {},
                {"digests": ["a"], "strengths": [1.0], "names": []},
                {"digests": ["a"], "strengths": ["1"], "names": ["x"]},
                {"digests": "a", "strengths": [1.0], "names": ["x"]},
                {"digests": ["a"], "strengths": [1.0], "names": ["x"], "more": []},
            )
        ),
        (put(*REQUEST, value=None), "$.events[2][2]"),
        (put(*REQUEST, value={"kind": "Knobs"}), "stands for a Request"),
        (put(*REQUEST, "target", value=1.0), "damaged"),
        (put(*REQUEST, "label", value=1.0), "Request.label"),
        (put(*REQUEST, "colour", value=1.0), "'colour'"),
        (put(*REQUEST, "sampling", "steps", value=0), "steps is 0"),
        (put(*REQUEST, "guidance", "mode", value="loud"), "'loud'"),
        (put(*REQUEST, "source", value=None), "no source"),
        (put(*REQUEST, "source", "tensor", value=0), "damaged"),
        (without(*REQUEST, "condition"), "TypeError"),
        (lambda data: [data], "no take"),
    ],
)
def test_a_changed_header_is_refused(saved: Path, change, word: str) -> None:
    refused(rewritten(saved, change), word)


def test_tensors_must_be_there_and_whole(saved: Path) -> None:
    name = header(saved)["events"][2][2]["source"]["tensor"]
    with safe_open(saved, framework="pt") as opened:
        other = opened.get_tensor(name) + 1e-6
    refused(rewritten(saved, lambda data: None, {name: other}), name[:16], "damaged")
    refused(rewritten(saved, lambda data: None, {name: None}), name[:16], "missing")


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("no take at all")
    (tmp_path / "folder").mkdir()
    for name in ("empty", "text", "folder", "nothing"):
        refused(tmp_path / name, "could not be read")
    for name, metadata in (("weights", None), ("other", {"format": "pt"})):
        save_file({"w": torch.zeros(3)}, tmp_path / name, metadata=metadata)
        refused(tmp_path / name, "is no take")
    for i, text in enumerate(("{", "[" * 100_000, "7", "{}")):
        save_file({}, tmp_path / str(i), metadata={METADATA: text})
        refused(tmp_path / str(i))


@settings(max_examples=examples(150), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_is_refused_or_is_a_take(saved: Path, data) -> None:
    """Cut anywhere it is refused. A changed byte may make another take, and never another error."""
    whole, path = bytearray(saved.read_bytes()), saved.with_name("damaged")
    at = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:at])
    refused(path)
    whole[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(whole)
    try:
        assert isinstance(Log.load(path), Log)
    except TakeError as error:
        assert path.name in str(error)
