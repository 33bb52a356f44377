"""Names the places of models, and the layout that is not read here: the one in which ACE-Step publishes its own."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import ModelError

COMFY_ORG = "Comfy-Org/ace_step_1.5_ComfyUI_files"  # a hub repository of ComfyUI's checkpoints
WHOLE = "ace_step_1.5_turbo_aio.safetensors"  # everything in one file
FILES = {"vae": "ace_1.5_vae.safetensors", "text_encoder": "qwen_0.6b_ace15.safetensors"}
DIFFUSERS = "ACE-Step/acestep-v15-xl-turbo-diffusers"  # a hub repository in diffusers' format


def is_original(folder: Path) -> bool:
    """Return whether a folder has ACE-Step's own layout: a model, or several side by side, each with its code."""
    marks = ("modeling_acestep*.py", "acestep-v15-*/") if os.path.isdir(folder) else ()
    return any(next(folder.glob(mark), None) is not None for mark in marks)


def original(name: str) -> ModelError:
    """Make the error for a model in that layout."""
    return ModelError(
        f"{name} is in ACE-Step's original layout, without a model_index.json",
        "diffusers' format and ComfyUI's checkpoints are read",
        f"put {WHOLE} of {COMFY_ORG} into models/checkpoints, or use the hub id {DIFFUSERS}",
    )
