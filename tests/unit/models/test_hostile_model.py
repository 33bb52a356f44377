"""A model that somebody else made: nothing it names runs, nothing is asked of the network, nothing grows unseen."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import huggingface_hub
import pytest
import torch
import transformers
from ostinato.engine_runtime.device.memory import guarded
from ostinato.engine_runtime.errors import InputError, MemoryShortage, ModelError
from ostinato.engine_runtime.models import loading
from ostinato.engine_runtime.models.hub import snapshot
from ostinato.engine_runtime.models.loading import Model, load
from ostinato.engine_runtime.models.presets import preset_folder
from ostinato.engine_runtime.models.quiet import offline
from ostinato.engine_runtime.models.tokenizer import read_tokenizer
from ostinato.nodes.shared import folders
from safetensors.torch import save_file

from ..refusal import check_sentence
from .test_checkpoint import comfyui_names

CPU = torch.device("cpu")
WEIGHTS = "diffusion_pytorch_model.safetensors"
posix = pytest.mark.skipif(os.name != "posix", reason="FIFOs and such file names are POSIX's")


@pytest.fixture
def folder(cache: None, tmp_path: Path) -> Path:
    shutil.copytree(preset_folder("random"), tmp_path / "model", copy_function=link_weights)
    return tmp_path / "model"


def link_weights(source: str, to: str) -> None:
    """Weights are never written to here, only taken away."""
    (os.link if source.endswith(".safetensors") else shutil.copy)(source, to)


def read(folder: Path) -> Model:
    return load(str(folder), CPU, torch.float32)


def refused(folder: Path, told: str = "", kind: type[Exception] = ModelError) -> None:
    with pytest.raises(kind) as caught:
        read(folder)
    check_sentence(caught.value)
    assert told in str(caught.value), caught.value


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


# What is imported or asked for shows by a file.
EVIL = """
import pathlib
(pathlib.Path(__file__).parent / "ran").touch()
from diffusers import AutoencoderOobleck
class Evil(AutoencoderOobleck): pass
"""


def ran(root: Path) -> list[Path]:
    return list(root.rglob("ran"))


@pytest.mark.parametrize(
    "pair",
    [
        ["upload.evil", "Evil"],  # a file below the working folder, as uploads to ComfyUI are
        ["evil", "Evil"],  # a file in the component's own folder
        ["subprocess", "Popen"],  # a module that is there
        ["diffusers", "StableAudioPipeline"],
        ["diffusers", "FlashPackAutoencoderOobleck"],
        ["transformers", "AutoencoderOobleck"],
        ["diffusers", "AutoencoderOobleck", "Evil"],
        ["ostinato", "Evil"],
        [None, None],
        "AutoencoderOobleck",
        {"diffusers": "AutoencoderOobleck"},
        [["diffusers"], "AutoencoderOobleck"],
    ],
)
def test_an_index_names_no_code(folder: Path, pair: Any, places, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder.parent / "upload").mkdir()
    for place in (folder.parent / "upload", folder / "vae"):
        (place / "evil.py").write_text(EVIL)
    places(here=folder.parent)
    monkeypatch.syspath_prepend(str(folder.parent))
    edit(folder / "model_index.json", vae=pair)
    refused(folder, "its vae")
    assert ran(folder.parent) == [] and "upload.evil" not in sys.modules


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("model_index.json", {"safety_checker": ["diffusers", "AutoencoderOobleck"]}, "safety_checker"),
        ("model_index.json", {"_class_name": ["pipeline", "AceStepPipeline"]}, "holds a"),
        ("transformer/config.json", {"auto_map": {"AutoModel": "evil.Evil"}}, "auto_map"),
        ("transformer/config.json", {"_class_name": "Evil"}, "_class_name"),
        ("transformer/config.json", {"quantization_config": {"quant_method": "bitsandbytes"}}, "quantization_config"),
        ("text_encoder/config.json", {"auto_map": {"AutoModel": "evil.Evil"}}, "auto_map"),
        ("text_encoder/config.json", {"auto_map": {"AutoConfig": "owner/name--evil.Evil"}}, "auto_map"),
        ("text_encoder/config.json", {"trust_remote_code": True}, "trust_remote_code"),
        ("text_encoder/config.json", {"_attn_implementation": "owner/kernel"}, "_attn_implementation"),
        ("text_encoder/config.json", {"_attn_implementation_internal": "owner/kernel"}, "_attn_implementation"),
        ("text_encoder/config.json", {"attn_implementation": "owner/kernel"}, "attn_implementation"),
        ("text_encoder/config.json", {"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ("text_encoder/config.json", {"model_type": "llama"}, "model_type"),
        ("text_encoder/config.json", {"rope_scaling": {"rope_type": "yarn", "factor": 1e9}}, "rope_scaling"),
        ("tokenizer/tokenizer.json", {"normalizer": {"type": "Evil"}}, "normalizer"),
    ],
)
def test_a_config_names_no_code(folder: Path, name: str, values: dict, told: str) -> None:
    for place in (folder, folder / "transformer", folder / "text_encoder", folder / "tokenizer"):
        (place / "evil.py").write_text(EVIL)
    edit(folder / name, **values)
    refused(folder, told)
    assert ran(folder) == []


def test_a_tokenizer_of_its_own_is_not_run(folder: Path, no_answer: None) -> None:
    """Its config is not even read, so nobody is asked either."""
    (folder / "tokenizer" / "evil.py").write_text(EVIL)
    config = folder / "tokenizer" / "tokenizer_config.json"
    edit(config, tokenizer_class="Evil", auto_map={"AutoTokenizer": ["evil.Evil", None]}, tokenizer_file="/dev/zero")
    assert read(folder).pipe.tokenizer("warm piano").input_ids
    assert ran(folder) == []


@pytest.fixture
def no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody may be asked on the terminal."""

    class Silent(io.StringIO):
        def readline(self, *given: object) -> str:
            pytest.fail("stdin was read")

    monkeypatch.setattr(sys, "stdin", Silent())


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt", "model.pkl", "flax_model.msgpack"])
@pytest.mark.parametrize("part", ["text_encoder", "vae"])
def test_a_pickle_is_named_and_not_read(folder: Path, part: str, name: str) -> None:
    next((folder / part).glob("*.safetensors")).unlink()
    (folder / part / name).write_bytes(b"\x80\x04cos\nsystem\n(S'touch ran'\ntR.")
    refused(folder, name)


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


def test_no_library_is_given_the_folder(folder: Path, no_network: list, monkeypatch) -> None:
    """Each would look for more in it: adapters of peft, code, kernels, a quantiser; and some of it on the hub."""
    adapter = {"base_model_name_or_path": "owner/name", "peft_type": "LORA"}
    (folder / "text_encoder" / "adapter_config.json").write_text(json.dumps(adapter))
    makers = (diffusers.DiffusionPipeline, diffusers.ModelMixin, diffusers.FlowMatchEulerDiscreteScheduler)
    for library in (*makers, transformers.PreTrainedModel, transformers.AutoTokenizer, transformers.AutoConfig):
        monkeypatch.setattr(library, "from_pretrained", lambda *given, **kw: pytest.fail("a library was asked"))
    read(folder)
    assert no_network == []


def test_a_request_during_a_load_is_refused(folder: Path, no_network: list, monkeypatch) -> None:
    """Whoever makes it: the libraries' own switch is on for the time of the load."""
    refused: list[Exception] = []

    def ask(*given: object) -> None:
        with pytest.raises(huggingface_hub.errors.OfflineModeIsEnabled) as caught:
            huggingface_hub.HfApi().model_info("owner/name")
        refused.append(caught.value)

    monkeypatch.setattr(loading, "load_folder", ask)
    with pytest.raises(AttributeError):  # nothing was loaded
        read(folder)
    assert len(refused) == 1 and no_network == []
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


def test_the_last_load_puts_the_switch_back(monkeypatch: pytest.MonkeyPatch) -> None:
    constants = huggingface_hub.constants
    for before in (False, True):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", before)
        first, second = offline(), offline()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert constants.HF_HUB_OFFLINE
        second.__exit__(None, None, None)
        assert constants.HF_HUB_OFFLINE is before


def test_a_download_fetches_no_code(folder: Path) -> None:
    def fetched(repo: str, **options: Any) -> str:
        names = ["a.py", "vae/a.bin", "vae/config.json", "vae/a.safetensors", "tokenizer/merges.txt"]
        kept = list(huggingface_hub.utils.filter_repo_objects(names, allow_patterns=options["allow_patterns"]))
        assert kept == ["vae/config.json", "vae/a.safetensors", "tokenizer/merges.txt"]
        return str(folder)

    hub = SimpleNamespace(file_exists=lambda repo, name: name == "model_index.json", snapshot_download=fetched)
    assert snapshot("owner/name", download=True, hub=hub) == folder


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


def test_a_folder_too_deep_to_list_is_passed_over(folder: Path, places) -> None:
    identity = read(folder).identity
    places(here=folder)
    for _ in range(25):
        os.mkdir("x" * 200)
        os.chdir("x" * 200)
    assert read(folder).identity == identity


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


@pytest.fixture
def comfyui(places, in_comfyui: Callable[..., None], tmp_path: Path, cache: None) -> Path:
    """A ComfyUI whose folder of models is the only one; uploads lie beside it, and the working folder is its own."""
    root = tmp_path / "ComfyUI"
    for name in ("models/diffusers/mine", "input/evil"):
        shutil.copytree(preset_folder("random"), root / name, copy_function=link_weights)
    (root / "models" / "checkpoints").mkdir()
    in_comfyui({kind: [root / "models" / kind] for kind in folders.MODELS})
    places(models="", here=root)
    return root


@pytest.mark.parametrize("name", ["mine", " mine ", "./mine", "mine/.", "../diffusers/mine"])
def test_comfyui_finds_what_lies_in_its_folders(comfyui: Path, name: str) -> None:
    assert folders.model_source(name) == str(comfyui / "models" / "diffusers" / "mine")
    assert folders.model_source(str(comfyui / "models" / "diffusers" / "mine")).endswith("mine")
    assert folders.model_source("tiny-base") == "tiny-base"


OUTSIDE = ["{0}/input/evil", "../../input/evil", "mine/../../../input/evil", "./input/evil", "/etc/passwd", "/none"]


@pytest.mark.parametrize("name", [*OUTSIDE, "", "~", "~/x", "a\0b", "ö" * 300, "C:\\x"])
def test_comfyui_tells_nothing_of_other_places(comfyui: Path, name: str) -> None:
    """The same words, whether it is there or not."""
    name = name.format(comfyui)
    with pytest.raises(InputError) as caught:
        folders.model_source(name)
    check_sentence(caught.value)
    with pytest.raises(InputError) as other:
        folders.model_source("no/such/model")
    assert caught.value.allowed == other.value.allowed and caught.value.remedy == other.value.remedy
    assert "OSTINATO_MODELS" in str(caught.value)


def test_a_name_like_a_hub_id_is_no_folder_of_the_server(comfyui: Path, no_network: list) -> None:
    assert folders.model_source("input/evil") == "input/evil"  # a hub id by its looks
    with pytest.raises(ModelError, match="nor is it in the local hub cache"):
        load("input/evil", CPU, torch.float32, local=False)
    with pytest.raises((InputError, ModelError), match="owner/x.safetensors"):
        load("owner/x.safetensors", CPU, torch.float32, local=False)
    assert no_network == []


def test_an_operator_allows_more_folders(comfyui: Path, tmp_path: Path, places) -> None:
    places(models=os.pathsep.join([str(tmp_path / "none"), str(comfyui / "input")]))
    assert folders.model_source("evil") == str(comfyui / "input" / "evil")
    assert folders.model_source(f"{comfyui}/input/evil") == str(comfyui / "input" / "evil")
    (comfyui / "models" / "checkpoints" / "linked").symlink_to(comfyui / "input" / "evil")  # whoever has the disk may
    assert folders.model_source("linked") == str(comfyui / "models" / "checkpoints" / "linked")


def test_nobody_is_asked_on_the_terminal(folder: Path, no_answer: None) -> None:
    edit(folder / "text_encoder" / "config.json", auto_map={"AutoModel": "evil.Evil"})
    refused(folder, "auto_map")
