"""Measure what loading a model in diffusers' format takes of the host's memory.

python -m ostinato.tools.host_memory OUT.json --size xl --stored float32 --precision bfloat16

Saves a model of a real size with random weights in shards, loads a small model and then this one in a process of its
own, and writes how far its resident memory rose above that of before, beside the bytes of the weights. Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from ..engine_runtime.bench.origin import origin
from ..engine_runtime.machine import resident
from ..engine_runtime.models.loading import DTYPES, load
from ..engine_runtime.models.sized import SIZES, sized_model

SHARD = "4GB"
MODULE = __spec__.name  # also where this file runs as `__main__`


def loaded(folder: Path, precision: str) -> dict[str, int | None]:
    """Load a folder on the CPU; returns `before`, `peak` and `weights` in bytes."""
    cpu, dtype = torch.device("cpu"), DTYPES[precision]
    load("tiny", cpu, dtype)  # so that the libraries are there
    before = resident()
    parts = load(str(folder), cpu, dtype).pipe.components.values()
    tensors = [tensor for part in parts if isinstance(part, torch.nn.Module) for tensor in part.parameters()]
    weights = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return {"before": before, "peak": resident(peak=True), "weights": weights}


def measure(size: str, stored: str, precision: str) -> dict[str, object]:
    """Save, load and measure; returns the figures as JSON data."""
    with tempfile.TemporaryDirectory() as folder:
        model = sized_model(size, DTYPES[stored], torch.device("cpu"), whole=True)
        model.pipe.save_pretrained(folder, max_shard_size=SHARD)
        shards = {str(path.relative_to(folder)): path.stat().st_size for path in Path(folder).rglob("*.safetensors")}
        del model
        command = [sys.executable, "-m", MODULE, folder, "--load", precision]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    share = (found["peak"] - found["before"]) / found["weights"]
    about = {"size": size, "stored": stored, "precision": precision, "shards": shards}
    made_on = origin(torch.device("cpu"), f"python -m {MODULE} OUT.json --size {size}")
    return {**made_on, **about, **found, "share": share}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="the JSON file to write, or with --load the folder to load")
    parser.add_argument("--size", choices=SIZES, default="xl")
    parser.add_argument("--stored", choices=DTYPES, default="float32")
    parser.add_argument("--precision", choices=DTYPES, default="bfloat16")
    parser.add_argument("--load", choices=DTYPES, metavar="PRECISION", help="only load, and print the figures")
    given = parser.parse_args()
    if given.load:
        sys.stdout.write(json.dumps(loaded(given.path, given.load)))
        return
    found = measure(given.size, given.stored, given.precision)
    given.path.write_text(json.dumps(found) + "\n")
    sys.stdout.write(f"peak {found['share']:.3f} times the weights above what was there\n")


if __name__ == "__main__":
    main()
