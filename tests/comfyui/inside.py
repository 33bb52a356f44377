"""A script in a process of its own, with ComfyUI's memory manager and the pack imported as ComfyUI does it."""

import json
import subprocess
from pathlib import Path
from typing import Any

from .server import Install, environment

HEAD = """
import json, sys
sys.argv = ["main.py", "--cpu"]
sys.path.insert(0, COMFYUI)
import importlib.util
import comfy.options
comfy.options.enable_args_parsing()
import torch
import comfy.model_management as manager
spec = importlib.util.spec_from_file_location("pack", PACK + "/__init__.py", submodule_search_locations=[PACK])
pack = importlib.util.module_from_spec(spec)
sys.modules["pack"] = pack
spec.loader.exec_module(pack)
"""


def run(script: str, install: Install, pack: Path, folder: Path) -> Any:
    """What the script prints last, which is JSON."""
    path = folder / "script.py"
    given = f"COMFYUI = {str(install.root)!r}\nPACK = {str(pack)!r}\n"
    path.write_text(given + HEAD + script, encoding="utf-8")
    done = subprocess.run([install.python, str(path)], capture_output=True, text=True, timeout=300, env=environment())
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
