"""Puts trained weights where the package has them: python -m tools.tiny.ship VAE STRUCTURE DIT_FOLDER

VAE and STRUCTURE are such files, DIT_FOLDER has net.safetensors and turbo.safetensors. Raise `VERSION` in
engine_runtime/models/trained.py with it; tests/unit/models/test_trained.py compares the package's classes with the
trainer's networks.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

from .graphs import begin, log
from .vae import load_vae, silence_of

HOME = Path(__file__).parents[2] / "engine_runtime" / "models" / "tiny"
MOST = 40_000_000  # bytes of all weights


def main(vae: Path, structure: Path, folder: Path) -> None:
    shutil.copyfile(vae, HOME / "vae.safetensors")
    shutil.copyfile(structure, HOME / "structure.safetensors")
    shutil.copyfile(folder / "turbo.safetensors", HOME / "turbo.safetensors")
    base = load_file(folder / "net.safetensors")
    base["silence"] = silence_of(load_vae(str(vae), "cpu"), "cpu").half()
    save_file(base, HOME / "base.safetensors")
    sizes = {path.name: path.stat().st_size for path in sorted(HOME.glob("*.safetensors"))}
    log.info("%s, %.1f MB in all", sizes, sum(sizes.values()) / 1e6)
    if sum(sizes.values()) > MOST:
        raise SystemExit(f"the weights have {sum(sizes.values())} bytes, {MOST} are allowed: ship fewer")


if __name__ == "__main__":
    begin(0)
    main(*(Path(given) for given in sys.argv[1:4]))
