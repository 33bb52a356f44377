"""A model that somebody else made: nothing it names runs, and nobody is asked."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import huggingface_hub
import pytest
import transformers
from ostinato.engine_runtime.models import loading
from ostinato.engine_runtime.models.hub import snapshot
from ostinato.engine_runtime.models.quiet import offline

from .hostile import edit, read, refused

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


def test_nobody_is_asked_on_the_terminal(folder: Path, no_answer: None) -> None:
    edit(folder / "text_encoder" / "config.json", auto_map={"AutoModel": "evil.Evil"})
    refused(folder, "auto_map")
