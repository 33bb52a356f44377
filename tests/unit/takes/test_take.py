"""A take's file: whatever a session was told comes back to the bit, and a save is whole or not there."""

from __future__ import annotations

import re
import threading
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ostinato.engine_runtime.config import ROW_MODES, Guidance, Sampling, StreamConfig
from ostinato.engine_runtime.constants import VERSION
from ostinato.engine_runtime.controls.knobs import Knobs
from ostinato.engine_runtime.errors import InputError, TakeError
from ostinato.engine_runtime.stream.request import Condition, Part, Request
from ostinato.engine_runtime.takes.codec import fingerprint
from ostinato.engine_runtime.takes.take import Event, Log
from ostinato.nodes.save_take import SaveTake
from ostinato.nodes.shared import host
from safetensors import safe_open
from torch import Tensor

from ... import live
from ...fuzz import examples
from ...helpers import StandIn, drawn, made_up, no_reads
from ...tensor_files import no_file_beyond

FRAMES = 6
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and fingerprint(a) == fingerprint(b)
    if is_dataclass(a):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def recast(value: Any, dtype: torch.dtype) -> Any:
    """The same with all its tensors in another precision."""
    if isinstance(value, Tensor):
        return value.to(dtype)
    if is_dataclass(value):
        return replace(value, **{f.name: recast(getattr(value, f.name), dtype) for f in fields(value)})
    return tuple(recast(item, dtype) for item in value) if isinstance(value, tuple) else value


def a_log(**header: Any) -> Log:
    """A take of each kind of event."""
    log = Log.of(StandIn(), StreamConfig(depth=2), Knobs(sde=0.5))
    log.recipe = {"model": "random", "precision": "float32", "device": "cpu", "max_rows": 16}
    log.configured(0, {"depth": 3})
    log.knobs_set(0, {"velocity_scale": drawn(0, FRAMES).sigmoid(), "dcw": True})
    log.submitted(0, live.everything(1, FRAMES))
    log.submitted(2, Request(made_up(1, FRAMES), label="b"))
    log.knobs_set(4, {"guidance_scale": None})
    log.finished([drawn(1, FRAMES, 64)])
    return replace(log, **header)


@settings(max_examples=examples(60))
@given(
    st.integers(0, 2**32),
    st.sets(st.sampled_from(sorted(live.FEATURES))),
    st.sampled_from(DTYPES),
    st.text(max_size=9),
    st.sampled_from([None, (1.0, 0.0), (0.9, 0.5, 0.1, 0.0)]),
)
def test_requests_and_knobs_come_back(tmp_path_factory, seed, names, dtype, label, schedule) -> None:
    path = tmp_path_factory.getbasetemp() / "round.safetensors"
    draft = live.draft(Random(seed), FRAMES, names)
    draft.source()
    if seed % 3 == 0:
        draft.request["noise"] = draft.latent()
    request = replace(recast(draft.made(), dtype), label=label, schedule=schedule)
    knobs = Knobs(**draft.knobs)
    log = Log.of(StandIn(), StreamConfig(depth=5, guidance=ROW_MODES[seed % 3], spread=seed % 2 == 0), knobs)
    log.submitted(3, request)
    log.knobs_set(4, {name: recast(value, dtype) for name, value in draft.knobs.items()})
    log.save(path)
    assert same(Log.load(path), log)


def test_all_of_a_log_comes_back(tmp_path: Path) -> None:
    log, path = a_log(), tmp_path / "deep" / "take.safetensors"
    log.save(path)
    back = Log.load(path)
    assert same(back, log)
    assert [e.tick for e in back.events] == [0, 0, 0, 2, 4] and back.ticks == 5
    assert back.origin["ostinato"] == VERSION and back.origin["torch"] == torch.__version__
    assert [p.name for p in path.parent.iterdir()] == ["take.safetensors"]
    again = path.with_name("again.safetensors")
    back.save(again)
    assert again.read_bytes() == path.read_bytes()


def test_a_log_without_events(tmp_path: Path) -> None:
    log = Log.of(StandIn(), StreamConfig())
    log.save(tmp_path / "empty")
    assert same(Log.load(tmp_path / "empty"), log)


def test_each_tensor_is_stored_once(tmp_path: Path) -> None:
    log, condition = Log.of(StandIn(), StreamConfig()), made_up(3, FRAMES)
    copy = Condition(condition.tokens.clone(), condition.context.clone(), condition.null_tokens)
    batch = drawn(9, 2, FRAMES, 64)  # its parts share memory, and one is not contiguous
    for i in range(20):
        log.submitted(i, Request((copy if i % 2 else condition), source=batch[i % 2], noise=batch[0].T.clone().T))
    log.save(tmp_path / "take")
    with safe_open(tmp_path / "take", framework="pt") as opened:
        assert len(opened.keys()) == 3 + 2
    assert same(Log.load(tmp_path / "take"), log)


def test_telling_costs_nothing() -> None:
    """It is done inside a step: the very tensors are kept, and none is read."""
    log, request, curve = Log.of(StandIn(), StreamConfig()), Request(made_up(1, FRAMES)), drawn(0, FRAMES).sigmoid()
    changes = {"sde": curve}
    with no_reads():
        log.configured(0, {"depth": 3})
        log.knobs_set(0, changes)
        log.submitted(7, request)
    changes["sde"] = 0.0
    assert [e.kind for e in log.events] == ["configured", "turned", "submitted"] and log.ticks == 8
    assert log.events[1].what["sde"] is curve and log.events[2].what is request


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    log = Log.of(StandIn(), StreamConfig(depth=np.int64(3)))
    sampling = Sampling(steps=np.int32(4), shift=np.float32(1.5))
    log.submitted(0, Request(made_up(1, FRAMES), sampling, schedule=tuple(np.float32([1, 0.3, 0]))))
    log.save(tmp_path / "take")
    back = Log.load(tmp_path / "take")
    request = back.events[0].what
    assert (back.config.depth, request.sampling.steps, request.sampling.shift) == (3, 4, 1.5)
    assert request.schedule == (1.0, float(np.float32(0.3)), 0.0)


def test_the_version_is_the_projects() -> None:
    text = (Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'^version = "(.*)"$', text, re.MULTILINE)[1] == VERSION


@pytest.mark.parametrize("before", [None, b"the take before"])
def test_an_interrupted_save_leaves_what_was_there(tmp_path: Path, before) -> None:
    path = tmp_path / "take.safetensors"
    if before:
        path.write_bytes(before)

    with no_file_beyond(100), pytest.raises(TakeError, match="too large"):
        a_log().save(path)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([before] if before else [])


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TakeError, match="could not be written"):
        a_log().save(tmp_path / "file" / "take.safetensors")


def test_a_take_may_be_saved_while_it_goes_on(tmp_path: Path) -> None:
    log, going = a_log(), threading.Event()

    def tell() -> None:
        for tick in range(5, 20_000):
            log.knobs_set(tick, {"sde": 0.5})
            if tick == 50:
                going.set()

    teller = threading.Thread(target=tell)
    teller.start()
    going.wait()
    log.save(tmp_path / "take")
    teller.join()
    back = Log.load(tmp_path / "take")
    assert 50 <= len(back.events) <= len(log.events) and back.ticks > back.events[-1].tick


def test_the_node_saves_into_the_hosts_folder(tmp_path: Path) -> None:
    shown = []
    at = host.Host(
        next_file=lambda prefix, suffix: tmp_path / f"{prefix}{suffix}", text=lambda text, node: shown.append(text)
    )
    log = a_log()
    with host.use(at):
        output = SaveTake.execute(log, "takes/one")
    path = tmp_path / "takes" / "one.safetensors"
    assert output.ui == {"files": [str(path)]} and shown == ["one.safetensors"]
    assert same(Log.load(path), log)
    with pytest.raises(InputError, match="nowhere"):
        SaveTake.execute(log, "takes/one")


def test_a_part_alone_is_kept_as_a_part(tmp_path: Path) -> None:
    log = Log.of(StandIn(), StreamConfig())
    log.submitted(0, Request((Part(made_up(0, FRAMES), 0.3),), guidance=Guidance(mode="self")))
    log.save(tmp_path / "take")
    assert same(Log.load(tmp_path / "take").events, [Event(0, "submitted", log.events[0].what)])
