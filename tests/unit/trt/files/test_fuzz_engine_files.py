"""Damaged and hostile engine files of every kind: a sentence or nothing, soon, in little memory, touching nothing else.

Bounds: 10 s for each file (`tests/fuzz.py`), and 200 MB more than at the start for all of them together.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ostinato.cli.engines import _state_json, _state_text
from ostinato.engine_runtime.bench import report
from ostinato.engine_runtime.errors import LONGEST, EngineBuildError, EngineFileError, InputError
from ostinato.engine_runtime.profile.layers import LayerProfile, LayerTime, Workload, diff, load
from ostinato.engine_runtime.trt.build.assemble import read_record
from ostinato.engine_runtime.trt.files.folder import HOLDER, discard, forget, holder
from ostinato.engine_runtime.trt.files.sidecar import Expect, read_sidecar, rewritten, sidecar_path
from ostinato.engine_runtime.trt.files.stamp import stamp
from ostinato.engine_runtime.trt.files.trust import MANIFEST, Trust
from ostinato.engine_runtime.trt.health.doctor import _engine
from ostinato.engine_runtime.trt.health.state import READY, health

from ....engine_files import ADA, made_up, put
from ....fuzz import budget
from ...refusal import check_sentence

MOST = 200 << 20  # bytes
KNOWN: dict[str, Any] = {"tensorrt_rtx": ADA}
NUMBERS = st.integers() | st.sampled_from([10**400, -(10**19), 1 << 63, 0, -1]) | st.floats()
TEXTS = st.text(max_size=20) | st.sampled_from(
    ["\ud800", "\x1b[2J", "\0", "/" * 300, "x" * 5000, "~nobody/x", "\u202e"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)


def places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of JSON data."""
    keys = list(data) if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
    for key in keys:
        yield data, key
        yield from places(data[key])


@st.composite
def damaged(draw: Any, good: str) -> bytes:
    """The text of a good file with a few values changed, or its bytes."""
    data = json.loads(good)
    for _ in range(draw(st.integers(0, 3))):
        where, key = draw(st.sampled_from(list(places(data)) or [([None], 0)]))
        change = draw(st.sampled_from(("set", "remove", "add")))
        if change == "remove":
            del where[key]
        elif change == "set" or isinstance(where, list):
            where[key] = draw(VALUES)
        else:
            where[draw(TEXTS)] = draw(VALUES)
    raw = bytearray(json.dumps(data).encode())
    for _ in range(draw(st.sampled_from((0, 0, 1, 3)))):
        start = draw(st.integers(0, len(raw)))
        raw[start : start + draw(st.integers(0, 9))] = draw(st.binary(max_size=9) | st.just(b"[" * 2000))
    return bytes(raw)


def texts_are_plain(text: str) -> None:
    assert all(line.isprintable() for line in text.splitlines()) and len(text) < 40 * LONGEST


class Folder:
    """An engine, trusted, with one file at a time damaged; everything else must stay as it is."""

    def __init__(self, root: Path) -> None:
        self.root, self.trust = root, Trust(root / "home")
        self.engine = put(root / "engines", *made_up(), self.trust)
        assert health(self.engine, KNOWN, self.trust).state == READY  # imports what is needed
        self.start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def around(self, path: Path, raw: bytes, look: Callable[[], None]) -> None:
        before = path.read_bytes() if path.exists() else None
        path.write_bytes(raw)
        others = self._sums(path)
        look()
        assert self._sums(path) == others, "another file was touched"
        path.unlink() if before is None else path.write_bytes(before)
        assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - self.start) * 1024 < MOST

    def _sums(self, but: Path) -> dict[str, str]:
        files = [path for path in self.root.rglob("*") if path.is_file() and path != but and path.suffix != ".lock"]
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("fuzz")
    before = os.environ.get("OSTINATO_DATA")
    os.environ["OSTINATO_DATA"] = str(root / "home")
    yield Folder(root)
    os.environ.pop("OSTINATO_DATA") if before is None else os.environ.update(OSTINATO_DATA=before)


SIDECAR = rewritten(made_up()[1]).decode()
ENTRY = {"name": "one", "how": "built", "sidecar": "d" * 64, "since": "2026", "proof": None}
LIST = json.dumps({"schema": 1, "plans": {"e" * 64: ENTRY}, "hmac": "f" * 64})
NOTE = json.dumps({"name": "one", "pid": 1, "since": "12:00:00"})
RECORD = json.dumps({**made_up()[1].export, "onnx_sha256": hashlib.sha256(b"graph").hexdigest()})
LAYERS = (LayerTime("layers.0.mlp", "other", 1.0, 2.0),)
PROFILE = json.dumps(LayerProfile("x", "GPU", "kernels", Workload(), 3, 1.0, 1.5, LAYERS).as_json())
TICK = dict.fromkeys(report.TICK, 1.0)
RESULT = {"size": "2b", "engine": "eager", "precision": "bf16", "depth": 4, "steps": 8, "seconds": 60.0, "cfg": "off"}
RESULT |= {"dcw": False, "tick_ms": TICK, "latents_per_s": 1.0, "realtime": 1.0, "joins_per_tick": None, "work": "a"}
RESULT |= {"launches_per_tick": 1, "peak_bytes": 5, "reference_ratio": None, "floor_ms": 1.0, "mean_ms": 1.5}
RESULT |= {"rounds_ms": [1.0, 2.0], "references": {"eager": {"ratio": 2.0}}}
RUN = json.dumps({"gpu": None, "command": "x", "versions": {}, "floor_ms": 1.0, "results": [RESULT]})


@budget(60)
@given(raw=damaged(SIDECAR))
def test_sidecars(folder, raw):
    def look() -> None:
        for known in (KNOWN, {"tensorrt_rtx": Expect()}):
            state = health(folder.engine, known, folder.trust, whole=True)
            texts_are_plain(f"{state.text()}\n{_state_text(state)}")
            texts_are_plain("\n".join(one.text() for one in _engine(state, None)))
            json.dumps(_state_json(state), allow_nan=False)
            assert state.state != READY or state.sidecar == made_up()[1]
        assert stamp(folder.engine)
        try:
            assert rewritten(read_sidecar(folder.engine))
        except EngineFileError as error:
            check_sentence(error)

    folder.around(sidecar_path(folder.engine), raw, look)


@budget(30)
@given(raw=damaged(SIDECAR))
def test_sidecars_that_were_left(folder, raw):
    work = folder.root / "engines" / ".build-dead"
    work.mkdir()

    def look() -> None:
        (work / "one.plan.json").write_bytes(raw)
        discard(work, folder.trust.has)
        assert not work.exists()

    folder.around(folder.root / "raw", raw, look)
    assert health(folder.engine, KNOWN, folder.trust, whole=True).state == READY


@budget(60)
@given(raw=damaged(LIST))
def test_manifests(folder, raw):
    def look() -> None:
        assert folder.trust.known() is None and not folder.trust.has(made_up()[1])
        state = health(folder.engine, KNOWN, folder.trust)
        texts_are_plain(state.text())
        assert state.reason == "key" and stamp(folder.engine)

    folder.around(folder.trust.home / MANIFEST, raw, look)
    assert health(folder.engine, KNOWN, folder.trust).state == READY


@budget(40)
@given(raw=damaged(NOTE))
def test_notes(folder, raw):
    def look() -> None:
        texts_are_plain(str(EngineBuildError(holder(folder.root), "a", "b")))
        forget(folder.root, 2)

    folder.around(folder.root / HOLDER, raw, look)


def _refused(read: Callable[[], object], kind: type[Exception]) -> None:
    try:
        read()
    except kind as error:
        check_sentence(error)


@budget(40)
@given(raw=damaged(RECORD))
def test_export_records(folder, raw):
    graph = folder.root / "one.onnx"
    graph.write_bytes(b"graph")
    path = folder.root / "one.onnx.json"
    folder.around(path, raw, lambda: _refused(lambda: read_record(graph, made_up()[1].spec), EngineBuildError))


@budget(40)
@given(raw=damaged(PROFILE))
def test_profiles(folder, raw):
    path = folder.root / "profile.json"

    def read() -> None:
        found = load(path)
        texts_are_plain(f"{found.text()}\n{diff(found, found).text()}")

    folder.around(path, raw, lambda: _refused(read, InputError))


@budget(40)
@given(raw=damaged(RUN))
def test_runs(folder, raw):
    path = folder.root / "run.json"

    def read() -> None:
        run = report.load(path)
        texts_are_plain("\n".join([report.table(run), *(pair.text() for pair in report.compare(run, run))]))

    folder.around(path, raw, lambda: _refused(read, InputError))
