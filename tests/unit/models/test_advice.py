"""What Load Model's messages advise can be done, with the inputs that it has."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.errors import RepositoryNotFoundError
from ostinato.engine_runtime.errors import InputError, ModelError
from ostinato.engine_runtime.models.given import Given
from ostinato.engine_runtime.models.hub import snapshot
from ostinato.engine_runtime.models.loading import load
from ostinato.engine_runtime.models.original import DIFFUSERS, WHOLE
from ostinato.nodes import LoadModel
from ostinato.nodes.shared.missing import missing
from ostinato.nodes.shared.run import run_node
from safetensors.torch import save_file

from .test_checkpoint import metadata, put_tokenizer, same, split, tensors, words  # noqa: F401 - fixtures, and what they are made of

pytestmark = pytest.mark.usefixtures("silence_is_encoded_once")
CPU, F32 = torch.device("cpu"), torch.float32


@pytest.fixture
def comfyui(tmp_path: Path, tensors, metadata, words, places) -> Path:  # noqa: F811
    """ComfyUI's folder with a model in three files whose names do not tell what they are."""
    files = {
        "diffusion_models/mine.safetensors": split(tensors, "diffusion"),
        "vae/sub/other.safetensors": split(tensors, "vae"),
        "text_encoders/words.safetensors": split(tensors, "text_encoder"),
    }
    for name, part in files.items():
        path = tmp_path / "models" / name
        path.parent.mkdir(parents=True)
        save_file(part, path, metadata)
    put_tokenizer(tmp_path, words)
    places(comfyui=tmp_path)
    return tmp_path


def node(**given: str):
    asked = {"model": "mine.safetensors", "precision": "float32", "device": "cpu", "download": False, **given}
    return run_node(LoadModel, asked, {})[0]


def test_each_message_is_followed_until_it_loads(turbo, comfyui: Path) -> None:
    """From a bare name, doing what each message says."""
    for said, given in (
        ("set vae to its file", {}),
        ("set text_encoder to its file", {"vae": "sub/other.safetensors"}),
        ("set kind to turbo or base or sft", {"vae": "sub/other.safetensors", "text_encoder": "words.safetensors"}),
    ):
        with pytest.raises(ModelError, match=said):
            node(**given)
    model = node(kind="turbo", **given)
    same(model.pipe, turbo.pipe)
    assert model.turbo and model.given.kind == "turbo" and Path(model.given.vae).is_absolute()
    assert not node(kind="base", **given).turbo


def test_the_choosers_list_what_is_installed(comfyui: Path) -> None:
    options = {spec.id: getattr(spec, "options", None) for spec in LoadModel.GET_SCHEMA().inputs}
    assert options["kind"] == ["auto", "turbo", "base", "sft"]
    assert options["vae"] == ["auto", "sub/other.safetensors"]
    assert options["text_encoder"] == ["auto", "words.safetensors"]


def test_a_file_of_a_shared_workflow_that_is_not_here(comfyui: Path) -> None:
    assert LoadModel.validate_inputs() is True
    assert "the vae 'theirs.safetensors' was not found" in LoadModel.validate_inputs(vae="theirs.safetensors")
    found = missing([("2", "Load", "OstinatoLoadModel", {"model": "tiny", "vae": "theirs.safetensors"})])
    assert [one.node for one in found] == ["2"] and "models/vae" in found[0].reason


def test_another_vae_is_another_model(comfyui: Path) -> None:
    given = {"kind": "turbo", "text_encoder": "words.safetensors"}
    second = comfyui / "models/vae/second.safetensors"
    second.write_bytes((comfyui / "models/vae/sub/other.safetensors").read_bytes())
    first, other = (node(vae=name, **given) for name in ("sub/other.safetensors", second.name))
    assert first.identity != other.identity


@pytest.mark.parametrize("given", [{"kind": "turbo"}, {"vae": "sub/other.safetensors"}])
def test_parts_beside_a_model_that_has_its_own(comfyui: Path, given: dict) -> None:
    with pytest.raises(InputError, match=f"{next(iter(given))} of tiny is given.*to auto"):
        node(model="tiny", **given)


@pytest.mark.parametrize(
    "name", ["nothing.safetensors", "./nowhere", "/nowhere/at/all", "some_name", "a/b.safetensors"]
)
def test_what_is_not_there_is_said_to_be_not_found(name: str) -> None:
    with pytest.raises(InputError, match="no model .* was found"):
        load(name, CPU, F32)


@pytest.mark.parametrize(
    "marks", [["acestep-v15-turbo/config.json", "vae/config.json"], ["modeling_acestep_v15_turbo.py"]]
)
def test_the_original_layout_gets_the_sentence_that_helps(tmp_path: Path, marks: list[str]) -> None:
    for mark in marks:
        (tmp_path / mark).parent.mkdir(exist_ok=True)
        (tmp_path / mark).write_text("{}")
    with pytest.raises(ModelError, match="original layout") as raised:
        load(str(tmp_path), CPU, F32)
    assert DIFFUSERS in raised.value.remedy and WHOLE in raised.value.remedy


def test_the_original_repository_is_refused_before_its_gigabytes_come() -> None:
    hub = SimpleNamespace(file_exists=lambda repo, name: False)
    with pytest.raises(ModelError, match="ACE-Step/Ace-Step1.5 is in ACE-Step's original layout"):
        snapshot("ACE-Step/Ace-Step1.5", download=True, hub=hub)


def test_a_repository_that_the_hub_does_not_have() -> None:
    def answer(repo: str, name: str) -> bool:
        raise RepositoryNotFoundError.__new__(RepositoryNotFoundError)  # its response is of whatever HTTP library

    with pytest.raises(ModelError, match="the hub has no model nobody/nothing"):
        snapshot("nobody/nothing", download=True, hub=SimpleNamespace(file_exists=answer))


def test_what_was_given_goes_into_a_build_and_a_take(comfyui: Path) -> None:
    from ostinato.engine_runtime.models.engines import eager_engine
    from ostinato.engine_runtime.trt.export.source import part_of
    from ostinato.engine_runtime.trt.files.spec import BuildSpec, make_spec

    model = node(kind="turbo", vae="sub/other.safetensors", text_encoder="words.safetensors")
    assert Given(**eager_engine(model).recipe["given"]) == model.given
    spec = make_spec("rtx", "decoder", {"model": model.source}, {}, "one", "fp32", given=model.given)
    again = BuildSpec.of(spec.as_json())
    assert again == spec and part_of(again).config.is_turbo
    assert f"--model-kind turbo --model-vae {model.given.vae} --model-text-encoder" in spec.command()
