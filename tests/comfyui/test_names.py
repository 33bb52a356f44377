"""The list of names that the unit tests map is the real ComfyUI's."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from .server import Unavailable, environment, find_install

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


def test_the_committed_names_are_comfyuis() -> None:
    try:
        install = find_install()
    except Unavailable as reason:
        pytest.skip(str(reason))
    done = subprocess.run(
        [install.python, "-c", PROBE, str(install.root)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    real = json.loads(done.stdout[done.stdout.index("{\n") :])
    assert real == json.loads(LIST.read_text(encoding="utf-8"))
