"""PyTorch's other allocator of CUDA memory, which ComfyUI chooses by default: the same latents, without graphs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import ostinato
import pytest

pytestmark = pytest.mark.gpu
COMMAND = "from ostinato.cli.main import main; main()"
BENCH = "bench --engine eager,compiled --size tiny --depth 2 --steps 4 --seconds 5 --cfg full --ticks 8 --json"


def played(backend):
    """Play a stream in a process of its own; returns each engine's hash of its latents, and the process's messages."""
    home = str(Path(ostinato.__file__).parents[1])
    path = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
    conf = dict.fromkeys(("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"), f"backend:{backend}")
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *BENCH.split()],
        env={**os.environ, **conf, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {one["engine"]: one["work"] for one in json.loads(done.stdout)["results"]}, done.stderr


def test_the_same_latents_and_a_word_on_what_it_costs():
    native, quiet = played("native")
    other, said = played("cudaMallocAsync")
    assert native == other and len(native) == 2
    assert said.count("--disable-cuda-malloc") == 1 and "--disable-cuda-malloc" not in quiet
