"""The table of names: every parameter of the real 2B and XL models has its place, and its way back."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from ostinato.engine_runtime.errors import ModelError
from ostinato.engine_runtime.models import names
from ostinato.engine_runtime.models.checkpoint import on_meta
from ostinato.engine_runtime.models.names import NOT_STORED, PARTS, Shape, canonical, check, our_shape, plan, to_theirs
from ostinato.engine_runtime.models.sizes import configs_from, known_from, pick_kind

LISTS = json.loads((Path(__file__).parents[1] / "data" / "ace15_names.json").read_text(encoding="utf-8"))
DECODER = {"2B": 1_575_458_880, "XL": 4_168_897_088}


def comfyui(size: str) -> dict[str, Shape]:
    """Names and shapes of a whole checkpoint, as ComfyUI's modules have them."""
    found = {}
    for name, shape in LISTS[size] + LISTS["vae"] + LISTS["text_encoder"]:
        count = re.search(r"\{(\d+)\}", name)
        for i in range(int(count[1]) if count else 1):
            found[name.replace(count[0], str(i)) if count else name] = tuple(shape)
    return found


def ours(theirs: dict[str, Shape]) -> dict[str, dict[str, Shape]]:
    found = plan(theirs)
    return {part: {our: our_shape(part, our, theirs[their]) for our, their in found[part].items()} for part in PARTS}


@pytest.fixture(scope="module", params=["2B", "XL"])
def size(request: pytest.FixtureRequest) -> str:
    return request.param


def test_the_whole_table_maps_one_to_one(size: str) -> None:
    theirs = comfyui(size)
    mapped = ours(theirs)
    configs = configs_from(mapped, size, "turbo", {})
    reached = []
    for part, config in configs.items():
        made = {name: tuple(tensor.shape) for name, tensor in on_meta(part, config, size).state_dict().items()}
        assert {name: shape for name, shape in made.items() if name not in NOT_STORED.get(part, ())} == mapped[part]
        reached += [to_theirs(part, name) for name in mapped[part]]
    assert sorted(reached) == sorted(theirs)


def test_sizes_are_the_models_own(size: str) -> None:
    configs = configs_from(ours(comfyui(size)), size, "base", {})
    transformer = configs["transformer"]
    wide = {"hidden_size": 2560, "intermediate_size": 9728, "num_attention_heads": 32, "num_hidden_layers": 32}
    small = {"hidden_size": 2048, "intermediate_size": 6144, "num_attention_heads": 16, "num_hidden_layers": 24}
    assert transformer.items() >= (wide if size == "XL" else small).items()
    assert transformer.items() >= {"head_dim": 128, "num_key_value_heads": 8, "encoder_hidden_size": 2048}.items()
    assert transformer.items() >= {"is_turbo": False, "model_version": "base", "sliding_window": 128}.items()
    module = on_meta("transformer", transformer, size)
    assert sum(p.numel() for p in module.parameters()) == DECODER[size]
    assert [layer.self_attn.sliding_window for layer in module.layers[:3]] == [128, None, 128]
    assert {layer.cross_attn.sliding_window for layer in module.layers} == {None}
    encoder = configs["condition_encoder"]
    assert (encoder["hidden_size"], encoder["num_lyric_encoder_hidden_layers"]) == (2048, 8)
    assert configs["vae"]["downsampling_ratios"] == [2, 4, 4, 6, 10]
    assert configs["vae"]["channel_multiples"] == [1, 2, 4, 8, 16]
    assert configs["text_encoder"].items() >= {"vocab_size": 151669, "num_hidden_layers": 28}.items()


def test_old_weight_norm_names_and_split_files_become_the_same() -> None:
    theirs = comfyui("2B")
    roles = {
        "model.diffusion_model.": "diffusion",
        "vae.": "vae",
        "text_encoders.qwen3_06b.transformer.": "text_encoder",
    }
    for name in theirs:
        prefix = next(p for p in roles if name.startswith(p))
        assert canonical(name, "diffusion") == name
        assert canonical(name.removeprefix(prefix), roles[prefix]) == name
    old = "decoder.layers.2.layers.1.weight_v"
    assert canonical(old, "vae") == "vae.decoder.layers.2.layers.1.parametrizations.weight.original1"
    assert canonical("diffusion_model.decoder.x", "diffusion") == "model.diffusion_model.decoder.x"
    assert canonical("qwen3_06b.logit_scale", "text_encoder") == "text_encoders.qwen3_06b.logit_scale"


@pytest.mark.parametrize(
    ("part", "name", "key"),
    [
        ("transformer", "layers.3.cross_attn.to_out.0.weight", "decoder.layers.3.cross_attn.o_proj.weight"),
        ("transformer", "proj_in_conv.weight", "decoder.proj_in.1.weight"),
        ("transformer", "scale_shift_table", "decoder.scale_shift_table"),
        ("condition_encoder", "null_condition_emb", "null_condition_emb"),
        ("condition_encoder", "lyric_encoder.layers.0.self_attn.norm_q.weight",
         "encoder.lyric_encoder.layers.0.self_attn.q_norm.weight"),
        ("audio_token_detokenizer", "proj_out.bias", "detokenizer.proj_out.bias"),
    ],
)  # fmt: skip
def test_the_key_of_a_lora_patch(part: str, name: str, key: str) -> None:
    assert names.patch_key(part, name) == "diffusion_model." + key


def test_what_is_known_and_not_ours_is_dropped() -> None:
    head = "model.diffusion_model."
    for name in (
        "text_encoders.qwen3_2b.transformer.model.layers.0.mlp.up_proj.weight",
        "text_encoders.qwen3_06b.logit_scale",
        head + "decoder.rotary_emb.inv_freq",
        head + "tokenizer.quantizer.layers.0.implicit_codebook",
        head + "tokenizer.quantizer.scales",
    ):
        assert names.dropped(name) and names.to_ours(name) is None
    for name in (head + "decoder.layers.0.scales", "decoder.x", "text_encoders.t5.x", "", head):
        assert not names.dropped(name)


def test_the_check_names_all_three_kinds_at_once() -> None:
    check({"a": (1,)}, {"a": (1,)}, "f")
    expected = {f"m{i}": (1,) for i in range(9)} | {"w": (2, 3), "a": (1,)}
    with pytest.raises(ModelError) as caught:
        check(expected, {"w": (3, 2), "a": (1,), "x": (4,)}, "file")
    text = str(caught.value)
    assert "9 missing (m0, m1, m2, m3, ...)" in text
    assert "1 left over (x)" in text and "1 of the wrong shape (w [3, 2] instead of [2, 3])" in text


@pytest.mark.parametrize("part", PARTS)
def test_no_sizes_without_the_tensors_that_tell_them(part: str) -> None:
    shapes = ours(comfyui("2B"))
    with pytest.raises(ModelError, match="no usable"):
        configs_from({**shapes, part: {}}, "f", "turbo", {})
    broken = {name: (0,) * len(shape) for name, shape in shapes[part].items()}
    with pytest.raises(ModelError):
        configs_from({**shapes, part: broken}, "f", "turbo", {})


def test_a_vae_of_another_model_is_refused() -> None:
    shapes = ours(comfyui("2B"))
    name = "encoder.block.4.conv1.weight_v"
    out, into, _ = shapes["vae"][name]
    shapes["vae"][name] = (out, into, 16)
    with pytest.raises(ModelError, match="1536 samples a frame"):
        configs_from(shapes, "f", "turbo", {})


@pytest.mark.parametrize(
    ("given", "told", "file", "kind"),
    [
        ("sft", "turbo", "base.safetensors", "sft"),
        (None, "turbo", "base.safetensors", "turbo"),
        (None, None, "ace_step_1.5_turbo_aio.safetensors", "turbo"),
        (None, None, "acestep_v1.5_XL_SFT_bf16.safetensors", "sft"),
        (None, None, "acestep_v1.5_base.safetensors", "base"),
    ],
)
def test_the_kind(given: str | None, told: str | None, file: str, kind: str) -> None:
    assert pick_kind(given, told, Path(file)) == kind


@pytest.mark.parametrize("file", ["model.safetensors", "merge_sft_turbo.safetensors", "turbodatabase.safetensors"])
def test_a_kind_nobody_tells_is_asked_for(file: str) -> None:
    with pytest.raises(ModelError, match="set kind to turbo or base or sft"):
        pick_kind(None, None, Path(file))


def test_a_kind_that_is_none() -> None:
    with pytest.raises(ModelError, match="the kind is 'fast'"):
        pick_kind("fast", None, Path("turbo.safetensors"))


def test_metadata_says_what_shapes_cannot() -> None:
    config = {"transformer": {"sliding_window": 16, "is_turbo": True, "hidden_size": 7, "rope_theta": -1}, "vae": 3}
    assert known_from({"config": json.dumps(config)}) == ({"transformer": {"sliding_window": 16}}, "turbo")
    assert known_from({"model_version": "sft"}) == ({}, "sft")
    for other in ({}, {"config": "{"}, {"config": "[1]"}, {"model_version": "2"}, {"config": '{"transformer": 1}'}):
        assert known_from(other) == ({}, None)
