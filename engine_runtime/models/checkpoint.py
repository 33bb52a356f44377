"""ACE-Step 1.5 from ComfyUI's single-file or split checkpoints, without ComfyUI and without a second copy in memory."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AceStepPipeline
from torch import nn

from ..errors import ModelError
from .names import (
    NOT_STORED,
    PARTS,
    canonical,
    check,
    count_blocks,
    dropped,
    our_shape,
    plan,
    quantised,
    to_theirs,
)
from .original import COMFY_ORG, FILES
from .parts import assemble, checked_config, on_meta
from .sizes import configs_from, known_from, pick_kind
from .tokenizer import check_words, find_tokenizer
from .weights import FLOATS, Stored, fill, headers, make_silence, restore_buffers

_HOMES = ("diffusion_models", "unet", "checkpoints")
_LOOK_FOR = {
    "vae": (("vae",), r".*ace.*1[._]?5.*", "*ace*1.5*"),
    "text_encoder": (("text_encoders", "clip"), r".*qwen.*0[._]?6b.*ace.*", "qwen_0.6b*ace*"),
}
_PREFIX = {"vae": "vae.", "text_encoder": "text_encoders.qwen3_06b."}


@dataclass
class _Files:
    """The headers of all files given: tensors by their canonical names, and the first file's metadata."""

    tensors: dict[str, Stored] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)

    def add(self, path: Path, role: str) -> None:
        found, metadata = headers(path)
        if role == "diffusion":
            self.metadata = metadata
        for stored in found:
            key = canonical(stored.name, role)
            if role != "diffusion" and not key.startswith(_PREFIX[role]):
                continue  # a single file given for its VAE or text encoder only
            if key in self.tensors:
                raise ModelError(
                    f"{path.name} and {self.tensors[key].path.name} both hold {key}",
                    "every tensor must be there once",
                    "give one file for each part",
                )
            self.tensors[key] = stored

    def holds(self, role: str) -> bool:
        return any(name.startswith(_PREFIX[role]) for name in self.tensors)


def load_checkpoint(
    path: str | Path,
    device: torch.device,
    dtype: torch.dtype,
    kind: str | None = None,
    vae: str | Path | None = None,
    text_encoder: str | Path | None = None,
    tokenizer: str | Path | None = None,
) -> AceStepPipeline:
    """Load a pipeline from safetensors files.

    The silence latent is in no such file. It is made by encoding two seconds of zeros with the VAE in float32 (the
    mean of the posterior): the first second is kept, for the first frames differ, and the frame at its end, whose
    surroundings are all silence, fills the rest of `condition_encoder.silence_latent` `[1, 15000, 64]`.

    Args:
        path: a file with everything, or the diffusion model alone.
        device, dtype: where the weights go and in what precision; the VAE is float32 unless `dtype` is bfloat16.
        kind: turbo, base or sft, where neither metadata nor the file's name says it.
        vae, text_encoder: their files, where `path` has none; else they are looked for by `find_split`.
        tokenizer: folder of the text encoder's tokenizer; else see `find_tokenizer`.

    Raises:
        ModelError: for a file that is broken, quantised, of another model, or incomplete.
    """
    path = Path(os.path.expanduser(path))
    files = _Files()
    files.add(path, "diffusion")
    given = {"vae": vae, "text_encoder": text_encoder}
    for role, file in given.items():
        if file is not None and files.holds(role):
            files.tensors = {n: s for n, s in files.tensors.items() if not n.startswith(_PREFIX[role])}
        if file is not None:
            files.add(Path(os.path.expanduser(file)), role)
        elif not files.holds(role):
            files.add(find_split(path, role), role)
    _refuse_quantised(files, path.name)
    numbers, noted = known_from(files.metadata)
    parts, stored = _build(files, path, pick_kind(kind, noted, path), numbers)
    words = find_tokenizer(tokenizer)
    check_words(words, parts["text_encoder"])
    _load(parts, stored, device, dtype)
    return assemble(parts, words)


def find_split(path: Path, role: str) -> Path:
    """Find the VAE or text encoder of a diffusion model, in ComfyUI's model folders beside it.

    Raises:
        ModelError: unless exactly one file is found.
    """
    folders, pattern, shown = _LOOK_FOR[role]
    home = next((parent.parent for parent in path.absolute().parents if parent.name in _HOMES), None)
    places = [home / folder for folder in folders] if home else []
    found = sorted(
        file
        for place in places
        for file in place.rglob("*.safetensors")
        if re.fullmatch(pattern, file.stem, re.IGNORECASE)
    )
    if len(found) == 1:
        return found[0]
    where = " and ".join(map(str, places))
    what = role.replace("_", " ")
    if not found:
        looked = f"no {shown}.safetensors is in {where}" if home else "it lies in no folder of models"
        raise ModelError(
            f"{path.name} has no {what}, and none was found: {looked}",
            "the diffusion model alone makes no music",
            f"put {FILES[role]} of {COMFY_ORG} into models/{folders[0]}, or set {role} to its file",
        )
    raise ModelError(
        f"{path.name} has no {what}, and {len(found)} files named {shown}.safetensors were found in {where} "
        f"({', '.join(file.name for file in found)})",
        "exactly one is needed",
        f"set {role} to one of them",
    )


def _refuse_quantised(files: _Files, source: str) -> None:
    read = {name: stored.dtype for name, stored in files.tensors.items() if not dropped(name)}
    named = [name for name in read if quantised(name)]
    if found := named or [f"{name} ({dtype})" for name, dtype in read.items() if dtype not in FLOATS]:
        raise ModelError(
            f"{source} is quantised: it has {len(found)} tensors such as {found[0]}",
            "allowed are weights in float32, bfloat16 or float16",
            "choose the checkpoint that is not quantised",
        )


def _build(
    files: _Files, path: Path, kind: str, numbers: dict[str, dict[str, float]]
) -> tuple[dict[str, nn.Module], dict[str, dict[str, Stored]]]:
    """Build the parts without weights, and map each of their parameters to its stored tensor. Every tensor is accounted
    for."""
    names, blocks = plan(files.tensors), count_blocks(files.tensors)
    shapes = {
        part: {our: our_shape(part, our, files.tensors[their].shape) for our, their in names[part].items()}
        for part in PARTS
    }
    configs = configs_from(shapes, path.name, kind, numbers)
    parts = {p: on_meta(p, checked_config(p, config, path.name), path.name) for p, config in configs.items()}
    expected = {
        to_theirs(part, name, blocks): tuple(tensor.shape)
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
        if name not in NOT_STORED.get(part, ())
    }
    given = {name: stored.shape for name, stored in files.tensors.items() if not dropped(name)}
    given |= {names[part][our]: shape for part in PARTS for our, shape in shapes[part].items()}
    check(expected, given, path.name)
    return parts, {part: {our: files.tensors[their] for our, their in names[part].items()} for part in PARTS}


def _load(
    parts: dict[str, nn.Module], stored: dict[str, dict[str, Stored]], device: torch.device, dtype: torch.dtype
) -> None:
    """Fill the parts, the VAE first: encoding silence takes memory that the other parts' weights then use."""
    vae = parts["vae"]
    fill(vae, stored["vae"], device, torch.float32)
    encoder: Any = parts["condition_encoder"]
    encoder.silence_latent = make_silence(vae, encoder.silence_latent.shape[1]).to(dtype)
    if dtype == torch.bfloat16:
        nn.Module.to(vae, dtype)  # diffusers' own `to` warns of parts it would rather keep in float32; it names none
    for part, module in parts.items():
        if part != "vae":
            fill(module, stored[part], device, dtype)
        restore_buffers(module, device)
