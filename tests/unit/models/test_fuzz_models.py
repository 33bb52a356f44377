"""Damaged model folders and checkpoints: each loads or is one sentence, soon, in bounded memory, and alone.

A load may take `ROOM` bytes of address space beyond what was there before, for a model of 17 MB.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ostinato.engine_runtime.errors import MemoryShortage, OstinatoError
from ostinato.engine_runtime.models.loading import load
from ostinato.engine_runtime.models.presets import preset_folder
from ostinato.engine_runtime.models.tokenizer import read_tokenizer
from safetensors.torch import save

from ...fuzz import budget
from ..refusal import check_sentence
from .test_checkpoint import comfyui_names, put_tokenizer

ROOM = 1 << 30
WORDS = [
    *("", "vae", "diffusers", "transformers", "os", "Qwen3Model", "AutoencoderOobleck", "auto_map", "evil.Evil"),
    *("../../etc/passwd", "/dev/zero", "owner/name", "nan", "\0", "\x1b[2J", "ö" * 50, "x" * 5000, "BF16", "F8_E4M3"),
    *("_class_name", "trust_remote_code", "quantization_config", "num_hidden_layers", "model.", "lm_head.weight"),
]
NUMBERS = [0, 1, -1, 2, 3, 127, 1 << 20, 1 << 31, 1 << 63, (1 << 64) - 1, 10**30, 10**400, 0.5, -0.0, 1e300, 5e-324]
plain = (
    st.none() | st.booleans() | st.sampled_from(NUMBERS) | st.sampled_from(WORDS) | st.integers() | st.text(max_size=9)
)
values = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=8,
)
opened: list[str] = []
listening = False


def listen(event: str, given: tuple) -> None:
    if listening and event in ("open", "os.remove", "os.rename", "os.mkdir", "socket.connect", "subprocess.Popen"):
        if not isinstance(given[0], int):  # a file that was opened by its name before
            opened.append(os.fsdecode(given[0]) if event == "open" else event)


sys.addaudithook(listen)


@contextmanager
def watched(folder: Path) -> Iterator[None]:
    """The block opens nothing outside a folder, and takes no more than `ROOM`."""
    global listening
    limits = None
    with suppress(ImportError, OSError):
        import resource

        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limits = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, limits[1]))
    opened.clear()
    listening = True
    try:
        yield
    finally:
        listening = False
        if limits is not None:
            resource.setrlimit(resource.RLIMIT_AS, limits)
    own = (str(folder), sys.prefix, sys.base_prefix, str(Path(__file__).parents[3]), "/proc/", "/sys/")
    assert [what for what in opened if not what.startswith(own)] == []


def loads_or_refuses(path: Path, root: Path) -> None:
    with watched(root):
        try:
            assert load(str(path), torch.device("cpu"), torch.float32).identity
        except OstinatoError as error:
            assert not isinstance(error, MemoryShortage), error
            check_sentence(error)
            assert len(str(error)) < 2000


@pytest.fixture
def root(turbo) -> Iterator[Path]:
    """A folder for a test, with a tokenizer; a model has been loaded before, for the first load imports much."""
    with tempfile.TemporaryDirectory() as place:
        put_tokenizer(Path(place), preset_folder("random") / "tokenizer")
        yield Path(place)


@pytest.fixture
def fresh(root: Path) -> Callable[[], Path]:
    """Makes a whole model to damage; its weights are links, to be replaced and not written to."""

    def make() -> Path:
        shutil.rmtree(root / "model", ignore_errors=True)

        def put(source: str, to: str) -> None:
            (os.link if source.endswith(".safetensors") else shutil.copy)(source, to)

        with suppress(OSError):  # the links are left where the disks differ
            shutil.copytree(preset_folder("random"), root / "model", copy_function=put)
        if not (root / "model" / "model_index.json").is_file():
            shutil.copytree(preset_folder("random"), root / "model", dirs_exist_ok=True)
        return root / "model"

    return make


def places(data: Any, here: tuple = ()) -> list[tuple]:
    """Where something can be put in JSON data."""
    items = data.items() if isinstance(data, dict) else enumerate(data[:20]) if isinstance(data, list) else ()
    return [here, *(place for key, value in items for place in places(value, (*here, key)))][:400]


def put(data: Any, place: tuple, value: Any, key: str | None) -> Any:
    """The data with a value at a place, or beside what is there under a key; without it, where the value is `...`."""
    if not place and key is None:
        return None if value is ... else value
    changed = copy.deepcopy(data)
    inner = changed
    for step in place[: None if key is not None else -1]:
        inner = inner[step]
    step = key if key is not None else place[-1]
    if isinstance(inner, dict) and value is ...:
        inner.pop(step, None)
    elif isinstance(inner, dict) or (isinstance(inner, list) and isinstance(step, int)):
        inner[step] = None if value is ... else value
    return changed


def damaged(draw: Callable, data: Any) -> Any:
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(places(data)))
        data = put(data, place, draw(values | st.just(...)), draw(st.none() | st.sampled_from(WORDS)))
    return data


def cut(draw: Callable, data: bytes) -> bytes:
    """Some bytes changed or left out."""
    start = draw(st.integers(0, min(len(data), 4096)))
    return data[:start] + draw(st.binary(max_size=9)) + data[start + draw(st.integers(0, 40)) :]


def rewritten(draw: Callable, data: bytes) -> bytes:
    """A safetensors file with another header, or other bytes."""
    if draw(st.booleans()):
        return cut(draw, data)
    (size,) = struct.unpack("<Q", data[:8])
    header = damaged(draw, json.loads(data[8 : 8 + size]))
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def replace(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


@budget(15)
@given(st.data())
def test_a_damaged_config(fresh: Callable, root: Path, data: Any) -> None:
    folder = fresh()
    path = data.draw(st.sampled_from(sorted(folder.rglob("*.json"))), "file")
    text = path.read_bytes()
    if data.draw(st.integers(0, 4), "kind"):
        text = json.dumps(damaged(data.draw, json.loads(text))).encode("utf-8", "surrogatepass")
    else:
        text = cut(data.draw, text)
    replace(path, text)
    loads_or_refuses(folder, root)


@budget(8)
@given(st.data())
def test_damaged_weights(fresh: Callable, root: Path, data: Any) -> None:
    folder = fresh()
    path = data.draw(st.sampled_from(sorted(folder.rglob("*.safetensors"))), "file")
    replace(path, rewritten(data.draw, path.read_bytes()))
    loads_or_refuses(folder, root)


@pytest.mark.skipif(os.name != "posix", reason="FIFOs and links are POSIX's")
@budget(10)
@given(st.data())
def test_other_things_in_the_place_of_files(fresh: Callable, root: Path, data: Any) -> None:
    folder = fresh()
    for path in data.draw(st.lists(st.sampled_from(sorted(folder.rglob("*"))), min_size=1, max_size=3), "paths"):
        if not path.exists():
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        kind = data.draw(st.sampled_from(["none", "fifo", "folder", "empty", "loop", "device", "name"]), "kind")
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        elif kind == "empty":
            path.touch()
        elif kind in ("loop", "device"):
            path.symlink_to(path if kind == "loop" else "/dev/zero")
        elif kind == "name":
            os.mkdir(
                os.path.join(
                    os.fsencode(path.parent),
                    data.draw(st.binary(min_size=1, max_size=9), "name").hex().encode() + b"\xff",
                )
            )
    loads_or_refuses(folder, root)


@pytest.fixture(scope="module")
def whole(turbo, tmp_path_factory) -> Path:
    """A checkpoint in ComfyUI's layout."""
    path = tmp_path_factory.mktemp("whole") / "turbo.safetensors"
    config = {"model_version": "turbo", "config": '{"transformer": {"sliding_window": 16}}'}
    path.write_bytes(save(comfyui_names(turbo.pipe), config))
    return path


@budget(6)
@given(st.data())
def test_a_damaged_checkpoint(whole: Path, root: Path, places, silence_is_encoded_once: None, data: Any) -> None:
    path = root / "turbo.safetensors"
    path.write_bytes(rewritten(data.draw, whole.read_bytes()))
    places(comfyui=root)
    loads_or_refuses(path, root)


@budget(30)
@given(st.data())
def test_metadata_of_any_make(data: Any) -> None:
    """What a file says of itself in its header, which is text that may hold JSON."""
    from ostinato.engine_runtime.models.sizes import known_from

    config = json.dumps(data.draw(st.dictionaries(st.sampled_from(["transformer", "vae", "x"]), values), "config"))
    known_from({"config": data.draw(st.just(config) | st.text()), "model_version": data.draw(st.text())})


@budget(30)
@given(st.data())
def test_a_tokenizer_reads_any_text_or_is_refused(root: Path, data: Any) -> None:
    folder = root / "words"
    folder.mkdir(exist_ok=True)
    whole = json.loads((preset_folder("random") / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))
    (folder / "tokenizer.json").write_text(json.dumps(damaged(data.draw, whole)), encoding="utf-8")
    with watched(root):
        try:
            words = read_tokenizer(folder)
        except OstinatoError as error:
            assert not isinstance(error, MemoryShortage)
            return check_sentence(error)
        given = dict(padding="longest", truncation=True, max_length=64, return_tensors="pt")
        assert words([data.draw(st.text(max_size=200), "text")], **given).input_ids.shape[1] <= 64
