"""LoRA files that somebody made to hang, crash or fill the host: each is refused in a sentence, at once."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ostinato.engine_runtime.engines.factors import Targets
from ostinato.engine_runtime.errors import ModelError, OstinatoError
from ostinato.engine_runtime.lora.adapter import Adapter
from ostinato.engine_runtime.lora.scaling import DIFFUSERS_METADATA, PEFT_CONFIG, PEFT_FILE
from ostinato.nodes.lora import Lora
from ostinato.nodes.shared import folders
from safetensors.torch import save, save_file

from ...adapters import dotted, tensors_of, written
from ...fuzz import budget
from ...tensor_files import in_memory, not_regular, with_header, within
from ..refusal import check_sentence

DIFFUSERS = dotted("transformer.", theirs=False)


@pytest.fixture(scope="module")
def targets(turbo):
    return Targets.of(turbo.pipe.transformer)


def peft(folder: Path, targets: Targets, config: Any) -> Path:
    """The folder that PEFT writes, with a config of the test's own."""
    folder.mkdir(exist_ok=True)
    written(folder / PEFT_FILE, targets, 4)
    (folder / PEFT_CONFIG).write_text(config if isinstance(config, str) else json.dumps(config))
    return folder


def diffusers(path: Path, targets: Targets, config: Any) -> Path:
    """A file as diffusers saves it, with metadata of the test's own."""
    text = config if isinstance(config, str) else json.dumps({f"transformer.{k}": v for k, v in config.items()})
    save_file(tensors_of(targets, 4, name=DIFFUSERS), path, metadata={DIFFUSERS_METADATA: text})
    return path


def refused(source: Path, targets: Targets, *words: str) -> None:
    with within(10), pytest.raises(ModelError) as caught:
        Adapter.read(source, targets)
    check_sentence(caught.value)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def scales(source: Path, targets: Targets) -> dict[tuple[int, str], float]:
    return {place: scale for place, (_, _, scale) in Adapter.read(source, targets).pairs.items()}


BAD_PATTERNS = (
    "([a-z0-9_.]+)+!",
    "(.*.*.*.*)*x",
    "layers.[01].mlp",
    "a|b",
    "(",
    "\\",
    "x{3}",
    "a+",
    "x?",
    "",
    "^",
    "**",
)


@pytest.mark.parametrize("pattern", BAD_PATTERNS)
@pytest.mark.parametrize("made", [peft, diffusers])
def test_a_pattern_is_never_run_as_a_regular_expression(targets, tmp_path, made, pattern):
    refused(made(tmp_path / "x", targets, {"alpha_pattern": {pattern: 1}}), targets, "pattern", repr(pattern))


def test_patterns_are_ends_of_names_as_peft_has_them(targets, tmp_path):
    """The ways in which PEFT and diffusers write them; PEFT's `^` begins the name that the layer has in its model."""
    patterns = {
        "layers.0.self_attn.q_proj": 1,
        r"layers\.1\.self_attn\.q_proj$": 2,
        "^layers.0.mlp.up_proj": 3,
        r".*\.down_proj": 5,
        "oj": 6,  # no whole word of a name
        "^self_attn.k_proj": 7,  # no whole name
        "cross_attn.q_proj": 9,
        "q_proj": 10,  # behind the ones above, which go before it
    }
    found = scales(peft(tmp_path / "x", targets, {"lora_alpha": 4, "alpha_pattern": patterns}), targets)
    wanted = {(0, "self_q"): 1, (1, "self_q"): 2, (0, "up"): 3, (0, "down"): 5, (1, "down"): 5, (0, "cross_q"): 9}
    wanted |= {(0, "self_k"): 4, (1, "up"): 4}
    assert {place: found[place] * 4 for place in wanted} == wanted
    patterns = {"^layers.0.self_attn.to_q": 8, "self_attn.to_out.0": 2, "^transformer.layers.0.self_attn.to_k": 2}
    found = scales(diffusers(tmp_path / "y", targets, {"lora_alpha": 4, "alpha_pattern": patterns}), targets)
    assert (found[0, "self_q"], found[1, "self_q"], found[0, "self_o"], found[1, "self_k"]) == (2, 1, 0.5, 1)


BAD_CONFIGS = {
    "a number of 400 digits": '{"lora_alpha": 1' + "0" * 400 + "}",
    "a number of 5,000 digits": '{"lora_alpha": 1' + "0" * 5000 + "}",
    "a large number": {"lora_alpha": 1e300},
    "a large number in a pattern": {"alpha_pattern": {"q_proj": 1e300}},
    "no number": {"lora_alpha": "8"},
    "no number in a pattern": {"alpha_pattern": {"q_proj": [8]}},
    "patterns in a list": {"alpha_pattern": ["q_proj"]},
    "Infinity": '{"lora_alpha": Infinity}',
    "NaN": '{"alpha_pattern": {"q_proj": NaN}}',
    "no flag": {"use_rslora": "yes"},
    "deep JSON": '{"a": ' + "[" * 100_000,
    "deep JSON that ends": '{"a": ' + "[" * 900 + "]" * 900 + "}",
    "a lone surrogate": '{"a": "\\ud800"}',
    "a list": "[]",
    "half of it": "{",
    "more than a megabyte": json.dumps({"a": "x" * (1 << 20)}),
}


@pytest.mark.parametrize("what", BAD_CONFIGS)
@pytest.mark.parametrize("made", [peft, diffusers])
def test_what_is_written_of_an_adapter_is_checked(targets, tmp_path, made, what):
    refused(made(tmp_path / "x", targets, BAD_CONFIGS[what]), targets, PEFT_CONFIG)


def test_a_dora_by_its_config_is_named(targets, tmp_path):
    refused(peft(tmp_path / "x", targets, {"use_dora": True}), targets, "DoRA")


def test_many_patterns_take_no_time(targets, tmp_path):
    patterns = {f"layers.{i}.q_proj": 1 for i in range(30_000)}
    path = peft(tmp_path / "x", targets, {"alpha_pattern": patterns})
    with within(2):
        Adapter.read(path, targets)


@pytest.mark.skipif(os.name != "posix", reason="FIFOs and devices are POSIX's")
def test_what_is_no_file_is_refused_at_once(targets, tmp_path):
    for kind, path in not_regular(tmp_path, "x.safetensors").items():
        refused(path, targets, "x.safetensors" if kind != "folder" else PEFT_FILE)


@pytest.mark.skipif(os.name != "posix", reason="FIFOs and devices are POSIX's")
def test_a_config_that_is_no_file_is_refused_at_once(targets, tmp_path):
    home = peft(tmp_path / "peft", targets, {})
    for path in not_regular(tmp_path, "config").values():
        (home / PEFT_CONFIG).unlink()
        (home / PEFT_CONFIG).symlink_to(path)
        refused(home, targets, PEFT_CONFIG)


HEADERS: dict[str, tuple[bytes | dict[str, Any], int | None]] = {
    "a header longer than the file": (b"{}", 1 << 40),
    "a header of 2^64 bytes": (b"{}", (1 << 64) - 1),
    "deep JSON": (b'{"a":' + b"[" * 100_000, None),
    "deep metadata": (b'{"__metadata__":{"a":' + b"[" * 100_000, None),
    "no UTF-8": (b'{"\xff":1}', None),
    "a shape beyond 64 bits": ({"a": {"dtype": "F32", "shape": [0, 2**64 - 1], "data_offsets": [0, 0]}}, None),
}


@pytest.mark.parametrize("what", HEADERS)
def test_headers_are_bounded(targets, tmp_path, what):
    header, length = HEADERS[what]
    refused(with_header(tmp_path / "x.safetensors", header, length=length), targets, "x.safetensors")


def test_a_header_of_more_than_32_mib_is_not_read(targets, tmp_path):
    """The library alone takes 100 MB, several times over in memory."""
    save_file(tensors_of(targets, 4), tmp_path / "x.safetensors", metadata={"a": "x" * (33 << 20)})
    refused(tmp_path / "x.safetensors", targets, "header")


def grown(path: Path, shape: list[int], dtype: str, size: int, name: str = "lora_A") -> Path:
    """A file whose first factor has this shape, and zeros that take no room on a disk that knows holes."""
    whole = "base_model.model.layers.0.self_attn.q_proj"
    named = f"{whole}.{name}.weight"
    other = f"{whole}.{'lora_B' if name == 'lora_A' else 'lora_A'}.weight"
    nothing = {"dtype": "F32", "shape": [128, 0], "data_offsets": [size, size]}
    header = {named: {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}, other: nothing}
    with_header(path, header)
    os.truncate(path, path.stat().st_size + size)
    return path


def test_a_tensor_of_another_shape_is_not_read(targets, tmp_path):
    """8 GB of zeros would be read before their shape was looked at."""
    width = targets.kinds["self_q"][0]
    rows = (8 << 30) // (4 * width)
    path = grown(tmp_path / "x.safetensors", [rows, width], "F32", rows * width * 4)
    with in_memory(200):
        refused(path, targets, "lora_A")


@pytest.mark.parametrize("dtype", [torch.float8_e8m0fnu, torch.complex64, torch.bool, torch.uint64])
def test_other_numbers_than_floats_are_refused(targets, tmp_path, dtype):
    tensors = tensors_of(targets, 4)
    name = next(iter(tensors))
    tensors[name] = torch.ones(tensors[name].shape).to(dtype)
    save_file(tensors, tmp_path / "x.safetensors")
    refused(tmp_path / "x.safetensors", targets, name, str(dtype))


@pytest.mark.parametrize("alpha", [1e30, -1e7, float("nan"), float("inf"), 1 + 2j])
def test_an_alpha_that_is_no_number_in_its_range_is_refused(targets, tmp_path, alpha):
    save_file(tensors_of(targets, 4, alpha=alpha), tmp_path / "x.safetensors")
    refused(tmp_path / "x.safetensors", targets, ".alpha")


def test_an_alpha_may_be_whole(targets, tmp_path):
    save_file(tensors_of(targets, 4, alpha=2), tmp_path / "x.safetensors")
    assert set(scales(tmp_path / "x.safetensors", targets).values()) == {0.5}


def test_a_rank_beyond_the_layers_is_refused(targets, tmp_path):
    widest = max(max(pair) for pair in targets.kinds.values())
    refused(written(tmp_path / "x.safetensors", targets, widest + 1), targets, "rank")


@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "\ud800", "~nobody-of-that-name/x", ".", "/dev/zero"])
def test_names_that_no_adapter_can_have(tmp_path, places, name):
    places(comfyui=tmp_path)
    with pytest.raises(OstinatoError) as caught:
        folders.adapter_path(name)
    check_sentence(caught.value)


def leaves(targets: Targets) -> st.SearchStrategy[Any]:
    numbers = st.integers(-(10**30), 10**30) | st.floats() | st.booleans() | st.none()
    patterns = st.text("^.*\\$()[]+?|layers01q_proj", max_size=40) | st.sampled_from(["q_proj", "layers.0"])
    return st.recursive(
        numbers | patterns,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(patterns, inner, max_size=4),
        max_leaves=12,
    )


KEYS = ("lora_alpha", "alpha_pattern", "use_rslora", "use_dora", "r", "rank_pattern", "auto_mapping")


@budget(60)
@given(st.data())
def test_fuzzed_configs_are_read_or_refused(targets, tmp_path, data):
    config = data.draw(st.dictionaries(st.sampled_from(KEYS), leaves(targets)))
    made = data.draw(st.sampled_from([peft, diffusers]))
    read_or_refused(made(tmp_path / made.__name__, targets, config), targets)


@budget(150)
@given(st.data())
def test_fuzzed_files_are_read_or_refused(targets, tmp_path, data):
    """A file cut, with bytes changed, or with any piece of its header said otherwise."""
    path = tmp_path / "x.safetensors"
    whole = bytearray(save(tensors_of(targets, 2, kinds=["self_q", "up"], alpha=2.0)))
    length = struct.unpack("<Q", whole[:8])[0]
    if data.draw(st.booleans()):
        header = json.loads(whole[8 : 8 + length])
        entry = header[data.draw(st.sampled_from(sorted(header)))]
        key = data.draw(st.sampled_from(sorted(entry)))
        numbers = st.lists(st.integers(-2, 2**64), max_size=4)
        entry[key] = data.draw(st.sampled_from(["F64", "F16", "I8", "F4", "C64"]) | numbers | leaves(targets))
        with_header(path, header, bytes(whole[8 + length :]))
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, 8 + length + 64))
            whole[at] = data.draw(st.integers(0, 255))
        path.write_bytes(whole[: data.draw(st.sampled_from([len(whole), data.draw(st.integers(0, len(whole)))]))])
    read_or_refused(path, targets)


def read_or_refused(path: Path, targets: Targets) -> None:
    before = sorted(path.parent.rglob("*"))
    try:
        adapter = Adapter.read(path, targets)
    except OstinatoError as error:
        assert len(str(error)) < 1600 and str(error).isprintable()
    else:
        assert all(abs(scale) < 1e7 for _, _, scale in adapter.pairs.values())
    assert sorted(path.parent.rglob("*")) == before


def test_a_home_of_nobody(targets: Targets) -> None:
    refused(Path("~nobody-of-this-name/a.safetensors"), targets, "could not be read")


def test_a_name_as_long_as_a_header_is_told_in_little_memory(targets: Targets, tmp_path: Path) -> None:
    """Each of its characters becomes an escape where it is shown."""
    name = b"\x7f" * (12 << 20)
    header = b'{"' + name + b'":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    with in_memory(400):
        refused(with_header(tmp_path / "long.safetensors", header, b"\0" * 4), targets, "no whole pair")


def test_a_folder_that_cannot_be_listed_takes_no_node_away(tmp_path: Path, places) -> None:
    """Below so many folders the system opens none by its path."""
    at = tmp_path / "models" / "loras"
    at.mkdir(parents=True)
    places(comfyui=tmp_path, here=at)
    for _ in range(25):
        os.mkdir("x" * 200)
        os.chdir("x" * 200)
    assert isinstance(folders.adapter_names(), list)
    assert Lora.GET_SCHEMA().inputs
