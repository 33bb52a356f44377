"""The names that the unit tests map are the real ComfyUI's, and what is mapped computes the same."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from ostinato.engine_runtime.models.checkpoint import on_meta
from ostinato.engine_runtime.models.conditioning import quantized_codes
from ostinato.engine_runtime.models.names import our_shape, plan
from ostinato.engine_runtime.models.sizes import config_from
from ostinato.engine_runtime.models.weights import restore_buffers
from safetensors.torch import load_file

from .server import Install, environment

LIST = Path(__file__).resolve().parents[1] / "unit" / "data" / "ace15_names.json"

# Run by ComfyUI's Python with ComfyUI's folder as the first argument. The model is made in ordinary memory that is
# never touched, for it does not build on the meta device. Equal layers become one entry: `{24}` stands for 0 to 23.
PROBE = r"""
import json, re, sys
root, sys.argv = sys.argv[1], ["main.py", "--cpu"]
sys.path.insert(0, root)
import comfy.options
comfy.options.enable_args_parsing()
import torch
import comfy.ops
from comfy.ldm.ace.ace_step15 import AceStepConditionGenerationModel
from comfy.ldm.audio.autoencoder import AudioOobleckVAE
from comfy.text_encoders.llama import Qwen3_06B_ACE15

def collapse(module, prefix):
    found = {}
    for name, tensor in module.state_dict().items():
        parts = re.split(r"(?<=layers\.)(\d+)(?=\.)", prefix + name, maxsplit=1)
        key = (parts[0], parts[2]) if len(parts) == 3 and prefix != "vae." else (prefix + name,)
        found.setdefault((key, tuple(tensor.shape)), []).append(int(parts[1]) if len(key) == 2 else None)
    rows = []
    for (key, shape), layers in found.items():
        if len(key) == 2:
            assert layers == list(range(len(layers)))
        rows.append([("{%d}" % len(layers)).join(key), list(shape)])
    return sorted(rows)

ops = comfy.ops.disable_weight_init
wide = dict(hidden_size=2560, intermediate_size=9728, num_heads=32, num_dit_layers=32)
lists = {}
for name, sizes in {"2B": {}, "XL": wide}.items():
    model = AceStepConditionGenerationModel(**sizes, dtype=torch.bfloat16, device="cpu", operations=ops)
    lists[name] = collapse(model, "model.diffusion_model.")
    del model
with torch.device("meta"):
    lists["vae"] = collapse(AudioOobleckVAE(strides=[2, 4, 4, 6, 10]), "vae.")
    text = Qwen3_06B_ACE15({}, torch.bfloat16, "meta", ops)
    lists["text_encoder"] = collapse(text, "text_encoders.qwen3_06b.transformer.")
body = ",\n".join(f'"{k}": [\n' + ",\n".join(json.dumps(row) for row in rows) + "\n]" for k, rows in lists.items())
print("{\n" + body + "\n}")
"""


# Small modules of the real classes with random weights: what they make of random inputs, in one file with the weights.
FORWARD = r"""
import sys
root, out, sys.argv = sys.argv[1], sys.argv[2], ["main.py", "--cpu"]
sys.path.insert(0, root)
import comfy.options
comfy.options.enable_args_parsing()
import torch
import comfy.ops
from comfy.ldm.ace.ace_step15 import AceStepDiTModel
from comfy.ldm.audio.autoencoder import AudioOobleckVAE
from safetensors.torch import save_file

torch.manual_seed(0)
ops = comfy.ops.disable_weight_init
kinds = ["sliding_attention", "full_attention", "sliding_attention"]
decoder = AceStepDiTModel(192, 256, 3, 4, 2, 128, 512, 2, 64, 192, kinds, 128, dtype=torch.float32, operations=ops)
vae = AudioOobleckVAE(c_mults=[1, 1, 1, 1, 1], strides=[2, 4, 4, 6, 10])
tensors = {}
for prefix, module in (("model.diffusion_model.decoder.", decoder), ("vae.", vae)):
    for name, p in module.named_parameters():
        if "original0" in name:  # the length of a filter
            p.data = 0.5 + torch.rand_like(p)
        elif p.ndim == 1:
            p.data = 0.1 * torch.randn_like(p) + ("norm" in name)
        else:
            p.data = torch.randn_like(p) / max(p[0].numel(), 1) ** 0.5
        tensors[prefix + name] = p.data
io = {"x": torch.randn(2, 301, 64), "t": torch.tensor([0.9, 0.3]), "tokens": torch.randn(2, 7, 192)}
io |= {"context": torch.randn(2, 301, 128), "latent": torch.randn(1, 64, 20), "audio": 0.1 * torch.randn(1, 2, 38400)}
with torch.no_grad():
    io["v"] = decoder(io["x"], io["t"], io["t"], None, io["tokens"], None, io["context"])
    io["decoded"], io["encoded"] = vae.decode(io["latent"]), vae.encoder(io["audio"])
save_file({k: v.contiguous() for k, v in {**tensors, **{"io." + k: v for k, v in io.items()}}.items()}, out)
"""


# A plan of audio codes as ComfyUI's model decodes it, by its real classes with random weights: the audio tokenizer's
# quantizer and the detokenizer.
PLAN = r"""
import sys
root, out, sys.argv = sys.argv[1], sys.argv[2], ["main.py", "--cpu"]
sys.path.insert(0, root)
import comfy.options
comfy.options.enable_args_parsing()
import torch
import comfy.ops
from comfy.ldm.ace.ace_step15 import AceStepAudioTokenizer, AudioTokenDetokenizer
from safetensors.torch import save_file

torch.manual_seed(0)
ops = comfy.ops.disable_weight_init
more = dict(dtype=torch.float32, operations=ops)
coder = AceStepAudioTokenizer(64, 128, 5, 128, [8, 8, 8, 5, 5, 5], 1, 2, 8, 1e-6, **more)
decoder = AudioTokenDetokenizer(128, 5, 64, 2, 8, **more)
tensors = {}
for prefix, module in (("tokenizer.", coder), ("detokenizer.", decoder)):
    for name, p in module.named_parameters():
        p.data = 0.1 * torch.randn_like(p) + ("norm" in name and p.ndim == 1)
        tensors["model.diffusion_model." + prefix + name] = p.data
codes = torch.randint(0, 64000, (1, 9))
with torch.no_grad():
    hints = decoder(coder.quantizer.get_output_from_indices(codes, dtype=torch.float32))
save_file({k: v.contiguous() for k, v in {**tensors, "io.codes": codes, "io.hints": hints}.items()}, out)
"""


def comfyui(install: Install, code: str, *arguments: str) -> str:
    """Run code with ComfyUI's Python; its output."""
    command = [install.python, "-c", code, str(install.root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_committed_names_are_comfyuis(install: Install) -> None:
    told = comfyui(install, PROBE)
    real = json.loads(told[told.index("{\n") :])
    assert real == json.loads(LIST.read_text(encoding="utf-8"))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_mapped_weights_compute_what_comfyuis_do(install: Install, tmp_path: Path) -> None:
    """Names whose shapes agree could still be swapped."""
    comfyui(install, FORWARD, str(tmp_path / "small.safetensors"))
    tensors = load_file(tmp_path / "small.safetensors")
    io = {name[3:]: tensors.pop(name) for name in list(tensors) if name.startswith("io.")}
    names = plan(tensors)
    made = {}
    for part in ("transformer", "vae"):
        found = {our: tensors[their] for our, their in names[part].items()}
        shapes = {our: our_shape(part, our, tuple(tensor.shape)) for our, tensor in found.items()}
        made[part] = on_meta(part, config_from(part, shapes, "small"), "small")
        made[part].load_state_dict({our: t.reshape(shapes[our]) for our, t in found.items()}, assign=True)
    with torch.no_grad():
        inputs = {"hidden_states": io["x"], "timestep": io["t"], "timestep_r": io["t"]}
        v = made["transformer"](**inputs, encoder_hidden_states=io["tokens"], context_latents=io["context"]).sample
        decoded = made["vae"].decode(io["latent"]).sample
        encoded = made["vae"].encode(io["audio"]).latent_dist.parameters
    for ours, theirs in ((v, io["v"]), (decoded, io["decoded"]), (encoded, io["encoded"])):
        assert theirs.std() > 1e-3
        torch.testing.assert_close(ours, theirs, atol=1e-4 * float(theirs.abs().max()), rtol=1e-4)


def test_a_plan_is_decoded_as_comfyuis_model_does(install: Install, tmp_path: Path) -> None:
    """The codes that its text encoder writes into CONDITIONING, and what its model puts in the source's place."""
    comfyui(install, PLAN, str(tmp_path / "plan.safetensors"))
    tensors = load_file(tmp_path / "plan.safetensors")
    codes, hints = (tensors.pop(f"io.{name}") for name in ("codes", "hints"))
    names = plan(tensors)
    made = {}
    for part in ("audio_tokenizer", "audio_token_detokenizer"):
        found = {our: tensors[their] for our, their in names[part].items()}
        shapes = {our: our_shape(part, our, tuple(tensor.shape)) for our, tensor in found.items()}
        made[part] = on_meta(part, config_from(part, shapes, "plan"), "plan")
        state = {our: tensor.reshape(shapes[our]) for our, tensor in found.items()}
        made[part].load_state_dict(state, assign=True, strict=False)
        restore_buffers(made[part], torch.device("cpu"))
    with torch.no_grad():
        mine = made["audio_token_detokenizer"](quantized_codes(made["audio_tokenizer"], codes[0].tolist()))
    torch.testing.assert_close(mine, hints, atol=1e-5, rtol=1e-5)
