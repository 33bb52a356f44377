"""PyTorch's other allocator of CUDA memory, which ComfyUI chooses by default: the same latents, without graphs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import ostinato
import pytest

pytestmark = pytest.mark.gpu
PLAY = "from ostinato.cli.main import main; main()"
BENCH = "bench --engine eager,compiled --size tiny --depth 2 --steps 4 --seconds 5 --cfg full --ticks 8 --json"
TELL = """
import torch
from ostinato.engine_runtime.models.engines import torch_engine
from ostinato.engine_runtime.models.loading import load
from ostinato.engine_runtime.plan.plan import told
model = load("tiny", torch.device("cuda", 0), torch.bfloat16)
print(told(model, torch_engine(model, "eager"), "eager"))
"""


def run(code, backend, *words):
    """Run Python on an allocator, in a process of its own; returns what it wrote to stdout and to stderr."""
    home = str(Path(ostinato.__file__).parents[1])
    path = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
    conf = dict.fromkeys(("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"), f"backend:{backend}")
    env = {**os.environ, **conf, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code, *words], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, done.stderr


def played(backend):
    """Play a stream; returns each engine's hash of its latents, and the process's messages."""
    found, said = run(PLAY, backend, *BENCH.split())
    return {one["engine"]: one["work"] for one in json.loads(found)["results"]}, said


def test_the_same_latents_and_a_word_on_what_it_costs():
    native, quiet = played("native")
    other, said = played("cudaMallocAsync")
    assert native == other and len(native) == 2
    assert said.count("--disable-cuda-malloc") == 1 and "--disable-cuda-malloc" not in quiet


def test_the_engine_node_tells_it():
    assert "--disable-cuda-malloc" not in run(TELL, "native")[0]
    assert run(TELL, "cudaMallocAsync")[0].strip().endswith("--disable-cuda-malloc to have them replayed.")
