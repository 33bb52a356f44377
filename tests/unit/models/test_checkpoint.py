"""Checkpoints in ComfyUI's layout, written from the tiny presets and loaded back."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AceStepPipeline, AutoencoderOobleck
from ostinato.engine_runtime.errors import InputError, ModelError
from ostinato.engine_runtime.models import loading
from ostinato.engine_runtime.models.checkpoint import find_split, load_checkpoint
from ostinato.engine_runtime.models.loading import Model
from ostinato.engine_runtime.models.names import PARTS, to_theirs
from ostinato.engine_runtime.models.presets import preset_folder
from ostinato.engine_runtime.models.weights import make_silence
from ostinato.nodes.shared import folders
from safetensors.torch import save_file
from torch import Tensor

pytestmark = pytest.mark.usefixtures("silence_is_encoded_once")
CPU, F32 = torch.device("cpu"), torch.float32
ROLES = {"diffusion": "model.diffusion_model.", "vae": "vae.", "text_encoder": "text_encoders.qwen3_06b.transformer."}
Tensors = dict[str, Tensor]


def comfyui_names(pipe: AceStepPipeline) -> Tensors:
    """All of a pipeline's parameters under the names of an all-in-one file."""
    found = {}
    for part in PARTS:
        for name, tensor in getattr(pipe, part).state_dict().items():
            if name != "silence_latent":
                flat = tensor.flatten() if name.endswith((".alpha", ".beta")) else tensor
                found[to_theirs(part, name, blocks=4)] = flat.contiguous()
    return found


@pytest.fixture(scope="module")
def tensors(turbo: Model) -> Tensors:
    return comfyui_names(turbo.pipe)


@pytest.fixture(scope="module")
def metadata(turbo: Model) -> dict[str, str]:
    """What the shapes of the toy model cannot tell and the real one has otherwise."""
    config = {part: {"sliding_window": 16} for part in PARTS if part not in ("vae", "text_encoder")}
    rope = turbo.pipe.text_encoder.config.to_dict()
    theta = rope.get("rope_theta") or rope["rope_parameters"]["rope_theta"]
    return {"config": json.dumps({**config, "text_encoder": {"rope_theta": theta}})}


@pytest.fixture
def words(cache: None) -> Path:
    return preset_folder("random") / "tokenizer"


@pytest.fixture
def write(tmp_path: Path, metadata: dict[str, str]) -> Callable[..., Path]:
    def save(tensors: Tensors, name: str = "tiny_turbo_aio.safetensors") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path, metadata)
        return path

    return save


def split(tensors: Tensors, role: str) -> Tensors:
    prefix = ROLES[role]
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def put_tokenizer(comfyui: Path, words: Path) -> None:
    """Put the folder of a tokenizer where ComfyUI has one."""
    (comfyui / "comfy" / "text_encoders").mkdir(parents=True)
    (comfyui / "comfy" / "text_encoders" / "qwen25_tokenizer").symlink_to(words)


def same(loaded: AceStepPipeline, original: AceStepPipeline) -> None:
    for part in PARTS:
        theirs, mine = getattr(original, part).state_dict(), getattr(loaded, part).state_dict()
        assert theirs.keys() == mine.keys()
        for name in theirs.keys() - {"silence_latent"}:
            assert torch.equal(theirs[name], mine[name]), (part, name)
        tensors = [*getattr(loaded, part).parameters(), *getattr(loaded, part).buffers()]
        assert not any(tensor.is_meta for tensor in tensors)
        assert not getattr(loaded, part).training


def sound(pipe: AceStepPipeline, steps: int = 2, **options) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    call = dict(prompt="piano", lyrics="la la", audio_duration=2.0, num_inference_steps=steps, output_type="pt")
    torch.manual_seed(4)  # a source is encoded with the global generator
    return pipe(**call, generator=generator, **options).audios


def test_a_single_file_comes_back_bit_equal(turbo: Model, tensors, write, words) -> None:
    loaded = load_checkpoint(write(tensors), CPU, F32, tokenizer=words)
    same(loaded, turbo.pipe)
    # The preset's silence was encoded before its VAE was rounded to float16.
    silence = turbo.pipe.condition_encoder.silence_latent
    made = loaded.condition_encoder.silence_latent
    assert made.shape == silence.shape and made.dtype == silence.dtype
    assert torch.equal(made[0, 25:], made[0, 25].expand(14975, -1))
    torch.testing.assert_close(made[0, 25], silence[0, 0], atol=5e-3, rtol=5e-3)
    loaded.condition_encoder.silence_latent = silence
    loaded.set_progress_bar_config(disable=True)
    source = torch.randn(2, 48000, generator=torch.Generator().manual_seed(1))
    cover = {"task_type": "cover", "src_audio": source}  # through the audio tokenizer and its buffers
    assert torch.equal(sound(loaded, **cover), sound(turbo.pipe, **cover))


def test_load_takes_the_file_by_path_and_by_name(turbo: Model, tensors, write, words, tmp_path, places) -> None:
    """By name it is looked for in ComfyUI's model folders."""
    path = write(tensors, "models/checkpoints/tiny_turbo_aio.safetensors")
    put_tokenizer(tmp_path, words)
    places(comfyui=tmp_path)
    for name in (str(path), folders.model_source("tiny_turbo_aio.safetensors")):
        model = loading.load(name, CPU, F32)
        assert model.turbo
        same(model.pipe, turbo.pipe)
    assert folders.model_source("none.safetensors") == "none.safetensors"
    with pytest.raises(InputError, match="no model 'none.safetensors' was found"):
        loading.load("none.safetensors", CPU, F32)


def test_every_config_but_defaults_is_found(turbo: Model, tensors, write, words) -> None:
    loaded = load_checkpoint(write(tensors), CPU, F32, tokenizer=words)
    for part in ("transformer", "condition_encoder", "audio_tokenizer", "audio_token_detokenizer", "vae"):
        mine, original = dict(getattr(loaded, part).config), dict(getattr(turbo.pipe, part).config)
        for config in (mine, original):
            for key in [key for key in config if key.startswith("_")]:
                del config[key]
        if part == "transformer":
            assert original.pop("encoder_hidden_size") in (None, mine.pop("encoder_hidden_size"))
        assert mine == original
    assert loaded.is_turbo and loaded.sample_rate == 48000


def test_split_files_given_or_found(turbo: Model, tensors, write, words) -> None:
    path = write(split(tensors, "diffusion"), "models/diffusion_models/sub/acestep_v1.5_turbo.safetensors")
    forms = (("parametrizations.weight.original0", "weight_g"), ("parametrizations.weight.original1", "weight_v"))
    old = split(tensors, "vae")
    for new, form in forms:
        old = {name.replace(new, form): tensor for name, tensor in old.items()}
    vae = write(old, "models/vae/ace_1.5_vae.safetensors")
    text = write(split(tensors, "text_encoder"), "models/text_encoders/qwen_0.6b_ace15.safetensors")
    write({"x": torch.zeros(1)}, "models/vae/other.safetensors")
    write({"x": torch.zeros(1)}, "models/text_encoders/qwen_1.7b_ace15.safetensors")
    same(load_checkpoint(path, CPU, F32, tokenizer=words), turbo.pipe)
    whole = write(tensors, "whole_turbo.safetensors")
    moved = write(split(tensors, "diffusion"), "alone/turbo.safetensors")
    same(load_checkpoint(moved, CPU, F32, vae=whole, text_encoder=text, tokenizer=words), turbo.pipe)
    same(load_checkpoint(whole, CPU, F32, vae=vae, tokenizer=words), turbo.pipe)
    with pytest.raises(ModelError, match="in no folder of models.*set vae to its file"):
        load_checkpoint(moved, CPU, F32, tokenizer=words)
    write(old, "models/vae/ace_1.5_vae_fp32.safetensors")
    with pytest.raises(ModelError, match=r"2 files named \*ace\*1.5\*.safetensors were found in .*models"):
        load_checkpoint(path, CPU, F32, tokenizer=words)
    shutil.rmtree(vae.parent)
    with pytest.raises(ModelError, match="has no vae, and none was found"):
        find_split(path, "vae")


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_silence_begins_as_a_long_silence_does() -> None:
    torch.manual_seed(0)
    narrow = {"decoder_channels": 4, "channel_multiples": [1] * 5, "sampling_rate": 48000}
    vae = AutoencoderOobleck(encoder_hidden_size=64, downsampling_ratios=[2, 4, 4, 6, 10], **narrow)
    for name, tensor in vae.encoder.named_parameters():
        if name.endswith("weight_g"):
            tensor.data *= 1.5  # an untrained encoder forgets its edges sooner than a trained one
    with torch.no_grad():
        long = vae.encode(torch.zeros(1, 2, 80 * 1920)).latent_dist.mode()[0].T
    made, long = make_silence(vae, 70)[0] / long.abs().max(), long / long.abs().max()
    torch.testing.assert_close(made[:60], long[:60], atol=1e-5, rtol=1e-5)
    edge = (long - long[40]).abs().amax(1) > 1e-5
    assert edge[0] and not edge[7:-7].any()


@pytest.mark.parametrize(("dtype", "vae"), [(torch.bfloat16, torch.bfloat16), (torch.float16, F32)])
def test_precision_is_converted_on_the_way(tensors, write, words, dtype, vae) -> None:
    loaded = load_checkpoint(write(tensors), CPU, dtype, tokenizer=words)
    for part in PARTS:
        assert {p.dtype for p in getattr(loaded, part).parameters()} == {vae if part == "vae" else dtype}, part
    name = "layers.1.mlp.up_proj.weight"
    assert torch.equal(loaded.transformer.get_parameter(name), tensors[UP].to(dtype))
    assert loaded.condition_encoder.silence_latent.dtype == dtype
    assert loaded.text_encoder.rotary_emb.inv_freq.dtype == F32


def test_large_tensors_are_read_in_pieces(turbo: Model, tensors, write, words, monkeypatch) -> None:
    monkeypatch.setattr("ostinato.engine_runtime.models.weights._MAPPED", 10_000)  # bytes: some rows are longer
    same(load_checkpoint(write(tensors), CPU, F32, tokenizer=words), turbo.pipe)


def test_the_weights_outlive_the_file(turbo: Model, tensors, write, words) -> None:
    path = write(tensors)
    loaded = load_checkpoint(path, CPU, F32, tokenizer=words)
    path.write_bytes(bytes(path.stat().st_size))
    same(loaded, turbo.pipe)


def test_a_base_model(base: Model, write, words, metadata) -> None:
    path = write(comfyui_names(base.pipe), "model.safetensors")
    loaded = load_checkpoint(path, CPU, F32, kind="base", tokenizer=words)
    same(loaded, base.pipe)
    assert not loaded.is_turbo
    with pytest.raises(ModelError, match="does not say whether it is turbo"):
        load_checkpoint(path, CPU, F32, tokenizer=words)


UP = "model.diffusion_model.decoder.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.pop(UP), rf"1 missing \({UP}\)"),
        (lambda t: t.update({"stray": torch.zeros(1)}), r"1 left over \(model.diffusion_model.stray\)"),
        (lambda t: t.update({UP: torch.zeros(256, 127)}), r"1 of the wrong shape \(.*\[256, 127\] instead of"),
        (lambda t: t.pop("model.diffusion_model.decoder.proj_in.1.weight"), "no usable .*proj_in"),
        (lambda t: t.update({UP.replace("weight", "weight_scale"): torch.ones(1)}), "is quantised.*weight_scale"),
        (lambda t: t.update({"model.diffusion_model.scaled_fp8": torch.ones(1)}), "is quantised.*scaled_fp8"),
        (lambda t: t.update({UP.replace("weight", "comfy_quant"): torch.ones(1)}), "is quantised.*comfy_quant"),
        (lambda t: t.update({UP: t[UP].to(torch.float8_e4m3fn)}), r"is quantised.*F8_E4M3"),
        (lambda t: t.update({UP: t[UP].to(torch.int8)}), r"is quantised.*I8"),
        (lambda t: t.update({"vae.encoder.layers.0.weight_v": torch.ones(1)}), "both hold vae.encoder.layers.0"),
        (lambda t: [t.pop(n) for n in list(t) if "detokenizer" in n], "no usable .*detokenizer"),
        (lambda t: [t.pop(n) for n in list(t) if "layers.2." in n and "decoder" in n and "vae" not in n], None),
    ],
)
def test_what_is_not_accounted_for_is_refused(tensors, write, words, change, told) -> None:
    changed = dict(tensors)
    change(changed)
    path = write(changed)
    if told is None:  # a shorter decoder is a smaller model, not a broken one
        assert len(load_checkpoint(path, CPU, F32, tokenizer=words).transformer.layers) == 2
        return
    with pytest.raises(ModelError, match=told):
        load_checkpoint(path, CPU, F32, tokenizer=words)


def test_models_of_no_use_here_may_be_in_the_file(turbo: Model, tensors, write, words) -> None:
    extra = {
        "text_encoders.qwen3_2b.transformer.model.layers.0.mlp.up_proj.weight": torch.zeros(2, dtype=torch.int8),
        "text_encoders.qwen3_2b.transformer.model.layers.0.mlp.up_proj.weight_scale": torch.zeros(1),
        "text_encoders.qwen3_06b.logit_scale": torch.zeros(()),
    }
    same(load_checkpoint(write({**tensors, **extra}), CPU, F32, tokenizer=words), turbo.pipe)


def test_a_scalar_in_place_of_a_matrix(tensors, write, words) -> None:
    for name in (UP, "vae.encoder.layers.0.parametrizations.weight.original1"):
        with pytest.raises(ModelError):
            load_checkpoint(write({**tensors, name: torch.zeros(())}), CPU, F32, tokenizer=words)


@pytest.mark.parametrize("keep", [0, 7, 5000, -4])
def test_a_truncated_file(tensors, write, words, keep: int) -> None:
    path = write(tensors)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match="could not be read as safetensors"):
        load_checkpoint(path, CPU, F32, tokenizer=words)


def test_what_is_no_safetensors_file(tmp_path: Path, words) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "turbo.ckpt")
    for path in (tmp_path / "turbo.ckpt", tmp_path / "absent_turbo.safetensors", tmp_path):
        with pytest.raises(ModelError, match="could not be read as safetensors"):
            load_checkpoint(path, CPU, F32, tokenizer=words)


def test_a_checkpoint_of_another_model(write, words) -> None:
    with pytest.raises(ModelError, match="has no vae|no usable|left over"):
        load_checkpoint(write({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(4, 4)}), CPU, F32)


def test_a_tokenizer_with_more_words_than_the_text_encoder(tensors, write, words) -> None:
    rows = "text_encoders.qwen3_06b.transformer.model.embed_tokens.weight"
    with pytest.raises(ModelError, match="must know every word"):
        load_checkpoint(write({**tensors, rows: tensors[rows][:300].contiguous()}), CPU, F32, tokenizer=words)


# Loads a small checkpoint, so that libraries are there, then a large one; tells what was resident before, the peak and
# the size of the weights. The peak is the process's own VmHWM: getrusage starts with that of the process that forked.
PEAK = """
import sys, torch
from ostinato.engine_runtime.machine import resident
from ostinato.engine_runtime.models.checkpoint import load_checkpoint
cpu, dtype = torch.device("cpu"), getattr(torch, sys.argv[4])
load_checkpoint(sys.argv[1], cpu, dtype, tokenizer=sys.argv[3])
before = resident()
parts = load_checkpoint(sys.argv[2], cpu, dtype, tokenizer=sys.argv[3]).components.values()
weights = [p for part in parts if isinstance(part, torch.nn.Module) for p in part.parameters()]
print(before, resident(peak=True), sum(p.numel() * p.element_size() for p in weights))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_second_copy_in_memory(tensors, write, words) -> None:
    small, large, first = write(tensors), dict(tensors), "model.diffusion_model.decoder.layers.0."
    for name in [name for name in tensors if name.startswith(first)]:
        tensor = tensors[name]
        if ".mlp." in name:  # 256 wide
            tensor = torch.cat([tensor] * 32, dim=1 if "down_proj" in name else 0)
        large |= {name.replace(first, f"{first[:-2]}{i}."): tensor + 0 for i in range(24)}
    path = write(large, "large_turbo.safetensors")
    command = [sys.executable, "-c", PEAK, str(small), str(path), str(words), "float32"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    shutil.rmtree(path.parent)
    before, peak, weights = map(int, done.stdout.split())
    assert weights > 3e8
    assert peak - before <= 1.15 * weights, f"{(peak - before) / weights:.3f}"
