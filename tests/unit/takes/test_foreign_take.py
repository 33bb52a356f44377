"""Takes that somebody made to hang, crash or fill the host: refused in a sentence, or played in bounds."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ostinato.engine_runtime.config import Sampling, StreamConfig
from ostinato.engine_runtime.constants import MAX_STEPS
from ostinato.engine_runtime.controls.knobs import Knobs
from ostinato.engine_runtime.errors import InputError, OstinatoError, TakeError
from ostinato.engine_runtime.numerics.schedule import explicit
from ostinato.engine_runtime.stream.request import Request
from ostinato.engine_runtime.takes import take as log_module
from ostinato.engine_runtime.takes.replay import replay
from ostinato.engine_runtime.takes.take import METADATA, Log
from safetensors import safe_open
from safetensors.torch import save_file

from ...fuzz import budget
from ...helpers import StandIn, made_up
from ...tensor_files import in_memory, not_regular, with_header, within
from ..refusal import check_sentence
from .test_bad_take import REQUEST, header, put, rewritten
from .test_replay import recording
from .test_take import FRAMES, a_log


def refused(path: Path, *words: str) -> None:
    with within(10), pytest.raises(TakeError) as caught:
        Log.load(path)
    check_sentence(caught.value)
    for word in words:
        assert word in str(caught.value), str(caught.value)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "take.safetensors"
    a_log().save(path)
    return path


@pytest.fixture
def played(tmp_path: Path) -> Path:
    """A take in which nothing is in flight for a while, twice."""
    engine, out = StandIn(), []
    with recording(engine, StreamConfig(depth=2), Knobs()) as (session, log):
        for seed in range(3):
            session.submit(Request(made_up(1, FRAMES), Sampling(4, seed=seed)))
            session.submit(Request(made_up(1, FRAMES), Sampling(4, seed=seed + 9)))
            while not session.idle:
                out += [finished.take() for finished in session.step()]
            for _ in range(7):
                session.step()
            session.set(velocity_scale=0.8 - 0.1 * seed)
            session.step()
            session.configure(depth=2 + seed)
            session.step()
    log.finished(out)
    log.save(tmp_path / "played.safetensors")
    return tmp_path / "played.safetensors"


@pytest.mark.parametrize("ticks", [0, 10**18, 2**63 - 1])
@pytest.mark.parametrize("moved", [True, False])
def test_ticks_in_which_nothing_is_in_flight_take_no_time(played: Path, ticks: int, moved: bool) -> None:
    def later(data: Any) -> None:
        """The end, and the last event where it is moved, that much later."""
        data["ticks"] = max(ticks, data["ticks"])
        if moved:
            data["events"][-1][0] = data["ticks"] - 1

    log = Log.load(rewritten(played, later))
    shown: list[tuple[int, int]] = []
    with within(10):
        again = replay(log, StandIn(), lambda *at: shown.append(at))
    assert again.differing == [] and len(again.latents) == 6
    assert len(shown) < 60 and shown[-1] == (log.ticks, log.ticks)


@pytest.mark.parametrize("name", ["schedule", "mask_strength"])
def test_a_request_has_no_more_numbers_than_steps(saved: Path, name: str) -> None:
    falling = [1 - i / 200_000 for i in range(200_001)]
    refused(rewritten(saved, put(*REQUEST, name, value=falling)), "200001", str(MAX_STEPS))
    with pytest.raises(InputError, match=f"at most {MAX_STEPS}"):
        explicit([1 - i / (MAX_STEPS + 1) for i in range(MAX_STEPS + 2)])
    assert len(explicit([1 - i / MAX_STEPS for i in range(MAX_STEPS + 1)])) == MAX_STEPS + 1


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (put("ticks", value=2**64), "20 digits"),
        (put("ticks", value=10**400), "401 digits"),
        (put("recipe", "max_rows", value=10**18), "max_rows"),
        (put("recipe", "max_rows", value=0), "max_rows"),
        (put("recipe", "kind", value="pickle"), "kind"),
        (put("config", "depth", value=10**18), "depth is"),
        (put("config", "tokens", value=10**18), "tokens is"),
        (put("config", "queue", value=10**18), "queue is"),
        (put(*REQUEST, "sampling", "steps", value=10**9), "steps is"),
        (put(*REQUEST, "sampling", "seed", value=10**19 * 5), "20 digits"),
        (put("knobs", "sde", value=float("nan")), "no JSON"),
        (put("engine", value="\ud800"), "no JSON"),
        (put("engine", value=[[[[[]]]]]), "engine"),
        (put("origin", value={"torch": ["2"]}), "origin"),
        (put("latents", value=["0" * 64 + "\n"]), "latents"),
        (put("events", value={}), "events"),
        (put("events", 0, value=[0, "turned", {}, 1]), "events"),
    ],
)
def test_numbers_and_kinds_are_bounded(saved: Path, change, word: str) -> None:
    refused(rewritten(saved, change), word)


def test_deep_and_long_headers_are_refused(saved: Path) -> None:
    data = header(saved)
    for text in ("[" * 100_000, '{"a":' * 5000, '{"format": 1, "a": ' + "[" * 300 + "]" * 300 + "}"):
        save_file({}, saved, metadata={METADATA: text})
        refused(saved, saved.name)
    with_header(saved, b'{"__metadata__":{"a":' + b"[" * 100_000)
    refused(saved, saved.name)
    strange = {"a": {"dtype": "F32", "shape": [0, 2**64 - 1], "data_offsets": [0, 0]}}
    with_header(saved, strange | {"__metadata__": {METADATA: json.dumps(data)}})
    refused(saved, saved.name)
    save_file({}, saved, metadata={METADATA: json.dumps({"format": 1, "events": [[]] * (log_module.MAX_VALUES // 2)})})
    refused(saved, "values")


@pytest.mark.skipif(os.name != "posix", reason="FIFOs and devices are POSIX's")
def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    for path in not_regular(tmp_path, "take.safetensors").values():
        refused(path, "take.safetensors")


def test_a_file_of_more_than_a_take_may_have_is_not_read(tmp_path: Path) -> None:
    """16 GB of zeros, in a file that takes no room on a disk that knows holes."""
    path, size = tmp_path / "take.safetensors", 16 << 30
    header = {"0" * 64: {"dtype": "F32", "shape": [size >> 2], "data_offsets": [0, size]}}
    with_header(path, header | {"__metadata__": {METADATA: json.dumps({"format": 1})}})
    os.truncate(path, path.stat().st_size + size)
    with in_memory(200):
        refused(path, "bytes")


def test_memory_that_is_short_is_not_a_damaged_file(saved: Path, monkeypatch) -> None:
    def none_left(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(log_module, "Reader", none_left)
    with pytest.raises(OstinatoError, match="no room"):
        Log.load(saved)


def test_what_can_not_be_read_again_is_not_written(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "take.safetensors"
    for name in ("MAX_VALUES", "MAX_SIZE"):
        with monkeypatch.context() as patch:
            patch.setattr(log_module, name, 10)
            with pytest.raises(TakeError, match="could not be written"):
                a_log().save(path)
    for bad in (tmp_path / "a\0b", tmp_path / ("a" * 300), tmp_path / "a\0b" / "c"):
        with pytest.raises(TakeError, match="could not be written"):
            a_log().save(bad)
    assert list(tmp_path.iterdir()) == []


def test_text_of_any_kind_comes_back(tmp_path: Path) -> None:
    log = a_log(origin={"device": "\x1b[2J\u202e \ud800"})
    log.save(tmp_path / "take")
    assert Log.load(tmp_path / "take").origin == {"device": "\x1b[2J\u202e ?"}


def test_what_a_take_says_of_its_origin_is_shown_without_commands(played: Path) -> None:
    log = replace(Log.load(played), engine="\x1b[2Jother", origin={"torch": "\x1b]0;title\x07\n" + "x" * 10_000})
    again = replay(log, StandIn(), force=True)
    assert all(line.isprintable() and len(line) < 600 for line in again.changed) and len(again.changed) == 2


def places(data: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where anything stands in JSON."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in inner:
        yield (*here, key)
        yield from places(value, (*here, key))


def values(data: Any) -> st.SearchStrategy[Any]:
    """Anything, or what stands elsewhere in the file."""
    numbers = st.integers(-2, 20) | st.sampled_from([2**31, 2**63 - 1, 2**64, 10**18, 10**30]) | st.floats()
    plain = numbers | st.none() | st.booleans() | st.text(max_size=6) | st.sampled_from([0.5, 1.0, "full", "drop"])
    there = st.sampled_from(list(places(data))).map(lambda where: at(data, where))
    return there | st.recursive(plain, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3))


def at(data: Any, where: tuple[Any, ...]) -> Any:
    for key in where:
        data = data[key]
    return json.loads(json.dumps(data))


@budget(80)
@given(st.data())
def test_a_fuzzed_take_is_refused_or_plays(tmp_path_factory, data) -> None:
    """Any pieces of its JSON said otherwise, and tensors of any shape and kind in the place of its own."""
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    folder.mkdir(exist_ok=True)
    path = folder / "take.safetensors"
    log = a_log()
    log.adapted(5, None)
    log.save(path)
    said = header(path)
    for _ in range(data.draw(st.integers(1, 3))):
        where = data.draw(st.sampled_from(list(places(said))))
        put(*where, value=data.draw(values(said)))(said)
    with safe_open(path, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}
    if data.draw(st.booleans()):
        shape = data.draw(st.lists(st.sampled_from([0, 1, 6, 64, 128]), max_size=3))
        dtype = data.draw(
            st.sampled_from([torch.bool, torch.int64, torch.float16, torch.float8_e4m3fn, torch.complex64])
        )
        other = torch.ones(shape).to(dtype)
        name = log_module.fingerprint(other)
        tensors[name] = other
        text = json.dumps(said).replace(data.draw(st.sampled_from(sorted(tensors))), name)
        said = json.loads(text)
    save_file(tensors, path, metadata={METADATA: json.dumps(said)})
    try:
        replay(Log.load(path), StandIn(), force=True)
    except OstinatoError as error:
        assert len(str(error)) < 1600 and str(error).isprintable()
    assert list(folder.iterdir()) == [path]
