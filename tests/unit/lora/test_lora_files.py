"""LoRA files: the styles of names that are understood, what scales them, and what is refused by name."""

from __future__ import annotations

import json

import pytest
import torch
from ostinato.engine_runtime.engines.factors import BUCKETS, KINDS, Targets
from ostinato.engine_runtime.errors import InputError, ModelError
from ostinato.engine_runtime.lora.adapter import Adapter
from ostinato.nodes import lora as lora_node
from ostinato.nodes.shared import folders, host
from safetensors.torch import save_file

from ...adapters import dotted, flat, made_adapter, tensors_of, written
from ..refusal import check_sentence


@pytest.fixture(scope="module")
def targets(turbo):
    return Targets.of(turbo.pipe.transformer)


STYLES = {
    "PEFT, ACE-Step's trainer": dotted("base_model.model."),
    "PEFT with the adapter's name": dotted("base_model.model.", ".lora_A.default.weight", ".lora_B.default.weight"),
    "PEFT of the whole model": dotted("base_model.model.decoder."),
    "diffusers": dotted("transformer.", theirs=False),
    "diffusers, bare": dotted("", theirs=False),
    "diffusers, old": dotted("transformer.", "_lora.down.weight", "_lora.up.weight", theirs=False),
    "diffusers, older": dotted("", ".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight", theirs=False),
    "ComfyUI": dotted("diffusion_model.decoder."),
    "ComfyUI, down and up": dotted("diffusion_model.decoder.", ".lora_down.weight", ".lora_up.weight"),
    "ComfyUI, no weight": dotted("diffusion_model.decoder.", ".lora_A", ".lora_B"),
    "ComfyUI, all in one": dotted("model.diffusion_model.decoder.", ".lora.down.weight", ".lora.up.weight"),
    "bare": dotted("decoder."),
    "kohya": flat("lora_unet_decoder_"),
    "kohya, decoder only": flat("lora_unet_"),
    "OneTrainer": flat("lora_transformer_", theirs=False),
    "LyCORIS": flat("lycoris_"),
}


@pytest.mark.parametrize("style", STYLES)
def test_every_style_of_names_is_the_same_adapter(targets, tmp_path, style):
    reference = made_adapter(tmp_path, targets, 3)
    again = Adapter.read(written(tmp_path / "styled.safetensors", targets, 3, name=STYLES[style]), targets)
    assert again.digest == reference.digest and again.pairs.keys() == reference.pairs.keys()
    assert len(again.pairs) == targets.layers * len(KINDS)


def test_alpha_is_over_rank(targets, tmp_path):
    tensors = tensors_of(targets, 4, name=STYLES["kohya"], alpha=2.0)
    tensors = {n: t.bfloat16() for n, t in tensors.items()}
    save_file(tensors, tmp_path / "alpha.safetensors")
    pairs = Adapter.read(tmp_path / "alpha.safetensors", targets).pairs
    assert {scale for _, _, scale in pairs.values()} == {0.5}
    assert pairs[0, "up"][0].dtype == torch.bfloat16


def test_pefts_own_config_scales(targets, tmp_path):
    folder = tmp_path / "my adapter"
    folder.mkdir()
    written(folder / "adapter_model.safetensors", targets, 4, name=STYLES["PEFT, ACE-Step's trainer"])
    assert {s for _, _, s in Adapter.read(folder, targets).pairs.values()} == {1.0}
    config = {"r": 4, "lora_alpha": 8, "alpha_pattern": {r"self_attn\.q_proj": 2, "layers.1.mlp.up_proj": 1}}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    adapter = Adapter.read(folder, targets)
    assert adapter.name == "my adapter"
    scales = {place: scale for place, (_, _, scale) in adapter.pairs.items()}
    assert (scales[0, "self_q"], scales[1, "up"], scales[0, "up"], scales[0, "cross_q"]) == (0.5, 0.25, 2.0, 2.0)
    (folder / "adapter_config.json").write_text(json.dumps({"lora_alpha": 8, "use_rslora": True}))
    assert {s for _, _, s in Adapter.read(folder, targets).pairs.values()} == {4.0}
    for bad, match in (('{"lora_alpha": "x"}', "lora_alpha"), ("[1]", "Expected `object`"), ("{", "no JSON")):
        (folder / "adapter_config.json").write_text(bad)
        with pytest.raises(ModelError, match=match):
            Adapter.read(folder, targets)
    (folder / "adapter_config.json").write_text('{"use_dora": true}')
    with pytest.raises(ModelError, match="DoRA"):
        Adapter.read(folder, targets)


def test_diffusers_own_metadata_scales(targets, tmp_path):
    tensors = tensors_of(targets, 4, name=STYLES["diffusers"])
    entry = json.dumps({"transformer.r": 4, "transformer.lora_alpha": 16})
    save_file(tensors, tmp_path / "d.safetensors", metadata={"lora_adapter_metadata": entry})
    assert {s for _, _, s in Adapter.read(tmp_path / "d.safetensors", targets).pairs.values()} == {4.0}


HEAD = "base_model.model.layers.0.self_attn.q_proj"
OTHERS = {
    "Tucker LoKr": {f"{HEAD}.lokr_t2": (2, 2)},
    "LoHa": {f"{HEAD}.hada_w1_a": (2, 2)},
    "DoRA": {f"{HEAD}.lora_magnitude_vector": (128,)},
    "OFT": {f"{HEAD}.oft_blocks": (2, 2)},
    "Tucker LoRA": {f"{HEAD}.lora_mid.weight": (2, 2)},
    "GLoRA": {f"{HEAD}.a1.weight": (2, 2)},
    "whole weight differences": {f"{HEAD}.diff": (128, 128)},
}
STRANGE = {
    "a layer there is not": {"base_model.model.layers.99.self_attn.q_proj.lora_A.weight": (3, 128)},
    "the condition encoder": {"diffusion_model.encoder.lyric_encoder.layers.0.mlp.up_proj.lora_A.weight": (3, 128)},
    "time_embed": {"diffusion_model.decoder.time_embed.linear_1.lora_A.weight": (3, 256)},
    "a bias": {"transformer.layers.0.self_attn.to_q.lora_B.bias": (128,)},
    "a second adapter": {f"{HEAD}.lora_A.other.weight": (3, 128)},
    "another model": {"unet.down_blocks.0.attentions.0.to_q.lora_A.weight": (3, 128)},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds_of_adapters_are_refused_by_name(targets, tmp_path, kind):
    tensors = tensors_of(targets, 3) | {name: torch.ones(shape) for name, shape in OTHERS[kind].items()}
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match=f"x.safetensors holds {kind} .*only plain LoRA and LoKr") as error:
        Adapter.read(tmp_path / "x.safetensors", targets)
    assert all(name in str(error.value) for name in OTHERS[kind])


@pytest.mark.parametrize("what", STRANGE)
def test_tensors_without_a_place_are_refused_by_name(targets, tmp_path, what):
    tensors = tensors_of(targets, 3) | {name: torch.ones(shape) for name, shape in STRANGE[what].items()}
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match="tensors that are no whole pair") as error:
        Adapter.read(tmp_path / "x.safetensors", targets)
    assert all(name in str(error.value) for name in STRANGE[what])


def change(name, made):
    def apply(tensors):
        tensors[name] = made(tensors[name]) if made else tensors.pop(name) and None
        return {n: t for n, t in tensors.items() if t is not None}

    return apply


A, B = f"{HEAD}.lora_A.weight", f"{HEAD}.lora_B.weight"
BROKEN = {
    "another width": (A, lambda t: t[:, :100], r"\[3, 100\] instead of \['rank', 128\]"),
    "another rank than its half": (B, lambda t: t[:, :2], r"\[128, 2\] instead of \[128, 'rank'\]"),
    "no rank": (A, lambda t: t[:0], "instead of"),
    "a convolution's": (A, lambda t: t[:, :, None], "instead of"),
    "not a number": (A, lambda t: t.fill_(float("nan")), "not all finite"),
    "infinite": (B, lambda t: t.fill_(float("inf")), "not all finite"),
    "whole numbers": (B, lambda t: t.to(torch.int32), "int32"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_misshaped_tensors_are_refused_by_name(targets, tmp_path, what):
    name, made, match = BROKEN[what]
    tensors = tensors_of(targets, 3)
    tensors[name] = made(tensors[name]).contiguous()
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match=match) as error:
        Adapter.read(tmp_path / "x.safetensors", targets)
    assert name in str(error.value)


def test_half_a_pair_and_a_bad_alpha_are_refused(targets, tmp_path):
    tensors = tensors_of(targets, 3)
    half = {n: t for n, t in tensors.items() if n != B}
    for given, name in ((half, A), (tensors | {f"{HEAD}.alpha": torch.ones(2)}, f"{HEAD}.alpha")):
        save_file(given, tmp_path / "x.safetensors")
        with pytest.raises(ModelError) as error:
            Adapter.read(tmp_path / "x.safetensors", targets)
        assert name in str(error.value)


def test_files_that_are_none(targets, tmp_path):
    save_file({}, tmp_path / "empty.safetensors")
    whole = written(tmp_path / "whole.safetensors", targets, 3).read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    for name in ("empty", "cut", "missing"):
        with pytest.raises(ModelError):
            Adapter.read(tmp_path / f"{name}.safetensors", targets)
    with pytest.raises(ModelError):  # a folder of another kind
        Adapter.read(tmp_path, targets)


def test_targets_go_through_an_export_record(targets):
    record = json.loads(json.dumps(targets.as_record()))
    assert Targets.from_record(record) == targets and Targets.from_record(None) is None
    assert set(record["kinds"]) == set(KINDS) and BUCKETS == (8, 32, 128)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_factors_in_float8_are_what_they_say(targets, tmp_path, dtype):
    tensors = {name: t.to(dtype) for name, t in tensors_of(targets, 4).items()}
    save_file(tensors, tmp_path / "small.safetensors")
    save_file({name: t.float() for name, t in tensors.items()}, tmp_path / "large.safetensors")
    small, large = (Adapter.read(tmp_path / f"{size}.safetensors", targets) for size in ("small", "large"))
    for place, (a, b, scale) in large.pairs.items():
        assert torch.equal(small.pairs[place][0].float(), a) and torch.equal(small.pairs[place][1].float(), b)
        assert small.pairs[place][2] == scale == 1
    name = next(iter(tensors))
    tensors[name].view(torch.uint8)[0, 0] = 0x7F  # NaN in either
    save_file(tensors, tmp_path / "small.safetensors")
    with pytest.raises(ModelError, match="not all finite"):
        Adapter.read(tmp_path / "small.safetensors", targets)


def scales_of(path, targets):
    adapter = Adapter.read(path, targets)
    return {scale for _, _, scale in adapter.pairs.values()}, adapter.note


def test_the_config_beside_a_renamed_file_scales_it(targets, tmp_path, caplog):
    path, config = written(tmp_path / "my_style.safetensors", targets, 4), tmp_path / "adapter_config.json"
    scales, note = scales_of(path, targets)
    assert scales == {1.0} and "my_style.safetensors: no alpha was found" in note and note in caplog.text
    config.write_text(json.dumps({"r": 4, "lora_alpha": 8, "peft_type": "LORA"}))
    assert scales_of(path, targets) == ({2.0}, "")
    config.write_text(json.dumps({"r": 8, "lora_alpha": 8}))  # of another file
    assert scales_of(path, targets) == ({1.0}, note)
    config.write_text(json.dumps({"r": 4, "lora_alpha": 8}))
    written(tmp_path / "other.safetensors", targets, 4)  # whose is it?
    assert scales_of(path, targets) == ({1.0}, note)
    written(tmp_path / "with_alpha.safetensors", targets, 4, alpha=2.0)
    assert scales_of(tmp_path / "with_alpha.safetensors", targets) == ({0.5}, "")


@pytest.mark.parametrize(
    ("begun", "kind"),
    [("pissa", "PiSSA"), ("pissa_niter_16", "PiSSA"), ("olora", "OLoRA"), ("corda", "CorDA"), ("loftq", "LoftQ")],
)
def test_what_changed_the_base_model_is_refused_by_name(targets, tmp_path, begun, kind):
    """The product of their factors is no difference from the weights that everybody has."""
    path, config = written(tmp_path / "adapter_model.safetensors", targets, 4), tmp_path / "adapter_config.json"
    config.write_text(json.dumps({"r": 4, "lora_alpha": 4, "init_lora_weights": begun}))
    with pytest.raises(ModelError, match=f"is a {kind} by its config") as caught:
        Adapter.read(path, targets)
    check_sentence(caught.value)
    for plain in (True, "gaussian", "eva", None):
        config.write_text(json.dumps({"r": 4, "lora_alpha": 4, "init_lora_weights": plain}))
        assert scales_of(path, targets) == ({1.0}, "")
    entry = json.dumps({"transformer.init_lora_weights": begun})
    save_file(tensors_of(targets, 4), tmp_path / "d.safetensors", metadata={"lora_adapter_metadata": entry})
    with pytest.raises(ModelError, match=f"is a {kind} by its config"):
        Adapter.read(tmp_path / "d.safetensors", targets)


@pytest.mark.parametrize("headless", [True, False])
@pytest.mark.parametrize(
    "name", ["sub/style", r"sub\style", r"sub\style\adapter_model.safetensors", r"sub\a.safetensors"]
)
def test_a_peft_folder_and_another_systems_separators(targets, tmp_path, places, in_comfyui, headless, name):
    place = tmp_path / "models" / "loras" / "sub"
    (place / "style").mkdir(parents=True)
    written(place / "style" / "adapter_model.safetensors", targets, 4)
    written(place / "a.safetensors", targets, 4)
    places(comfyui=tmp_path)
    if not headless:
        in_comfyui({"loras": [tmp_path / "models" / "loras"]})
    wanted = (
        place / "a.safetensors" if name.endswith("a.safetensors") else place / "style" / "adapter_model.safetensors"
    )
    assert folders.adapter_path(name) == wanted
    if not headless:
        with pytest.raises(InputError, match="is not there"):
            folders.adapter_path(f"{place}/style")


def test_the_node_shows_that_no_alpha_was_found(targets, tmp_path, places):
    places(comfyui=tmp_path)
    (tmp_path / "models" / "loras").mkdir(parents=True)
    shown = []
    with host.use(host.Host(text=lambda text, node: shown.append(text))):
        for alpha in (None, 4.0):
            written(tmp_path / "models" / "loras" / "a.safetensors", targets, 4, alpha=alpha)
            lora_node.Lora.execute("a.safetensors", 1.0)
    assert "no alpha was found" in shown[0] and shown[1] == ""
