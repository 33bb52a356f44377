"""A model that somebody else made: nothing it holds grows unseen, and what does not fit is told."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from ostinato.engine_runtime.device.memory import guarded
from ostinato.engine_runtime.errors import MemoryShortage, ModelError
from ostinato.engine_runtime.models.loading import Model
from safetensors.torch import save_file

from .hostile import edit, read, refused
from .test_checkpoint import comfyui_names

WEIGHTS = "diffusion_pytorch_model.safetensors"
posix = pytest.mark.skipif(os.name != "posix", reason="FIFOs and such file names are POSIX's")


def test_shards_are_read_when_all_are_there(folder: Path) -> None:
    from safetensors.torch import load_file

    whole = folder / "transformer" / WEIGHTS
    tensors = load_file(whole)
    names, place = sorted(tensors), folder / "transformer"
    for i, part in enumerate((names[:20], names[20:]), 1):
        save_file(
            {name: tensors[name] for name in part}, place / f"diffusion_pytorch_model-0000{i}-of-00002.safetensors"
        )
    whole.unlink()
    loaded = read(folder).pipe.transformer.state_dict()
    assert all(torch.equal(loaded[name], tensors[name]) for name in names)
    (place / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    refused(folder, "no whole diffusion_pytorch_model.safetensors")


def test_a_schedule_of_a_billion_steps_is_not_built(folder: Path) -> None:
    """Of 10^9 diffusers would make tables of 15 GB."""
    edit(folder / "scheduler" / "scheduler_config.json", num_train_timesteps=10**6)
    assert read(folder).pipe.scheduler.config.num_train_timesteps == 1


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("transformer", {"num_hidden_layers": 10**9}),
        ("transformer", {"hidden_size": 10**18}),
        ("transformer", {"head_dim": 0}),
        ("transformer", {"head_dim": 32.5}),
        ("transformer", {"sliding_window": -1}),
        ("transformer", {"rope_theta": 0}),
        ("transformer", {"rms_norm_eps": "1e-6"}),
        ("transformer", {"layer_types": ["full_attention"]}),
        ("transformer", {"layer_types": ["evil"] * 3}),
        ("transformer", {"layer_types": [{}] * 3}),
        ("transformer", {"num_attention_heads": True}),
        ("transformer", {"model_version": "x" * 100_000}),
        ("audio_tokenizer", {"fsq_input_levels": [10**9] * 6}),
        ("audio_tokenizer", {"fsq_input_num_quantizers": 10**9}),
        ("audio_token_detokenizer", {"pool_window_size": 10**9}),
        ("condition_encoder", {"text_hidden_dim": 10**9}),
        ("condition_encoder", {"num_timbre_encoder_hidden_layers": 10**9}),
        ("vae", {"downsampling_ratios": [10**9]}),
        ("vae", {"downsampling_ratios": []}),
        ("vae", {"channel_multiples": [1] * 10**5}),
        ("vae", {"decoder_channels": None}),
        ("text_encoder", {"num_hidden_layers": 10**9}),
        ("text_encoder", {"layer_types": ["sliding_attention"] * 2}),
        ("text_encoder", {"vocab_size": 10**12}),
        ("text_encoder", {"head_dim": []}),
        ("text_encoder", {"rope_parameters": {"rope_theta": 1.0, "rope_type": "dynamic"}}),
        ("text_encoder", {"use_sliding_window": True}),
    ],
)
def test_a_number_has_a_bound(folder: Path, part: str, values: dict) -> None:
    edit(folder / part / "config.json", **values)
    refused(folder, "" if "layer_types" in values else next(iter(values)))


def test_heads_that_cannot_be_shared(folder: Path) -> None:
    """Of 16 heads, which is what the class has where a config says nothing, 3 cannot be the keys."""
    path = folder / "transformer" / "config.json"
    edit(path, num_key_value_heads=3)
    refused(folder, "4 heads and 3 key heads")
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({name: config[name] for name in config if name != "num_attention_heads"}))
    refused(folder, "16 heads and 3 key heads")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"hidden_size": 64}, "wrong shape"),
        ({"decoder_input_channels": 32}, "wrong shape"),
    ],
)
def test_sizes_are_compared_before_memory_is_taken(folder: Path, values: dict, told: str, monkeypatch) -> None:
    part = "transformer" if "hidden_size" in values else "vae"
    edit(folder / part / "config.json", **values)
    monkeypatch.setattr("ostinato.engine_runtime.models.folder.fill", lambda *given: pytest.fail("memory was taken"))
    refused(folder, told)


TEXTS = {
    "deep": '{"_class_name": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "of 400 digits": '{"_class_name": 1' + "0" * 400 + "}",
    "not finite": '{"rms_norm_eps": NaN}',
    "a surrogate": '{"_class_name": "\\ud800"}',
    "binary": b"\xff\xfe\x00\x00",
    "a list": "[]",
    "large": '{"a": "' + "x" * (30 << 20) + '"}',
}
JSON = ["model_index.json", "vae/config.json", "text_encoder/config.json", "tokenizer/tokenizer.json"]


@pytest.mark.parametrize("name", JSON)
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_json_that_is_none(folder: Path, name: str, text: str | bytes) -> None:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(folder, Path(name).name)


@posix
@pytest.mark.parametrize("kind", ["fifo", "folder", "device", "dangling", "loop"])
@pytest.mark.parametrize("name", [*JSON, f"vae/{WEIGHTS}", "text_encoder/model.safetensors"])
def test_what_is_no_file(folder: Path, name: str, kind: str) -> None:
    path = folder / name
    path.unlink()
    targets = {"device": "/dev/zero", "dangling": folder / "none", "loop": path}
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(targets[kind])
    refused(folder)


@posix
def test_a_name_that_is_no_text(folder: Path) -> None:
    (folder / os.fsdecode(b"notes-\xff.txt")).touch()
    assert read(folder).identity
    place = folder.rename(folder.with_name(os.fsdecode(b"model-\xff\xfe")))
    refused(place, "not valid UTF-8")  # safetensors opens no such path


def test_a_folder_too_deep_to_list_is_passed_over(folder: Path, places) -> None:
    identity = read(folder).identity
    places(here=folder)
    for _ in range(25):
        os.mkdir("x" * 200)
        os.chdir("x" * 200)
    assert read(folder).identity == identity


@pytest.mark.parametrize(
    ("part", "values", "told"),
    [
        ("vae", {"sampling_rate": 44_100}, "44100 Hz"),
        ("transformer", {"patch_size": 4}, "wrong shape"),
    ],
)
def test_parts_that_do_not_fit(folder: Path, part: str, values: dict, told: str) -> None:
    edit(folder / part / "config.json", **values)
    refused(folder, told)


def test_a_text_encoder_of_another_width(folder: Path) -> None:
    """Each part is whole, and only together they are no model."""
    from transformers import Qwen3Config, Qwen3Model

    config = json.loads((folder / "text_encoder" / "config.json").read_text(encoding="utf-8"))
    (folder / "text_encoder" / "model.safetensors").unlink()
    Qwen3Model(Qwen3Config(**config | {"hidden_size": 32})).save_pretrained(folder / "text_encoder")
    refused(folder, "32 channels of text")


def chain(*errors: BaseException) -> BaseException:
    for error, cause in zip(errors, errors[1:], strict=False):
        error.__cause__ = cause
    return errors[0]


def shortages() -> dict[str, BaseException]:
    from safetensors import SafetensorError

    said = ModelError("vae could not be read", "a checkpoint is whole", "fetch the model again")
    mapped = SafetensorError("Error while opening: Cannot allocate memory (os error 12)")
    return {
        "onednn": RuntimeError("could not create a primitive"),
        "c++": RuntimeError("std::bad_alloc"),
        "mmap": OSError(12, "Cannot allocate memory"),
        "safetensors": mapped,
        "behind another": chain(said, mapped),
        "far behind": chain(said, ValueError("odd"), MemoryError()),
    }


@pytest.mark.parametrize("name", shortages())
def test_a_shortage_is_called_one(name: str) -> None:
    with pytest.raises(MemoryShortage) as caught, guarded("no room", "it must fit", "unload others"):
        raise shortages()[name]
    assert "fetch" not in str(caught.value)


@pytest.mark.parametrize("error", [OSError(2, "No such file"), RuntimeError("odd"), ModelError("a", "b", "c")])
def test_other_errors_are_left_alone(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, guarded("no room", "it must fit", "unload others"):
        raise error
    assert caught.value is error


def test_a_shortage_that_was_told_keeps_its_words() -> None:
    with pytest.raises(MemoryShortage, match="inner"), guarded("outer", "b", "c"), guarded("inner", "b", "c"):
        raise MemoryError


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ([f"t{i}" for i in range(20_000)], " tensors, one"),
        (["x." * 200_000], "400000 characters"),
        ([f"model.diffusion_model.decoder.layers.{i}.x" for i in range(9_999)], "num_hidden_layers 9999"),
        ([f"model.diffusion_model.encoder.lyric_encoder.layers.{i}.x" for i in range(200)], "layers 200"),
    ],
)
def test_a_checkpoint_of_too_many_names(turbo: Model, tmp_path: Path, names: list[str], told: str) -> None:
    extra = {name: torch.zeros(1) for name in names}
    save_file(comfyui_names(turbo.pipe) | extra, tmp_path / "turbo.safetensors")
    refused(tmp_path / "turbo.safetensors", told)


def test_a_checkpoint_of_nothing(turbo: Model, tmp_path: Path) -> None:
    """A size of 0 holds no bytes, whatever the others are."""
    name = "model.diffusion_model.decoder.layers.0.mlp.gate_proj.weight"
    tensors = comfyui_names(turbo.pipe) | {name: torch.zeros(1 << 40, 0)}
    save_file(tensors, tmp_path / "turbo.safetensors")
    refused(tmp_path / "turbo.safetensors", "hidden_size 0")


def test_metadata_that_is_deep_says_nothing() -> None:
    from ostinato.engine_runtime.models.sizes import known_from

    for text in ("[" * 100_000, '{"a":' * 50_000, '{"transformer": {"rope_theta": 1' + "0" * 400 + "}}"):
        assert known_from({"config": text}) == ({}, None)
