"""Tensors from files into modules that were built without memory, one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderOobleck
from torch import Tensor, nn

from ..errors import InputError, ModelError
from ..spec import ACE_STEP
from ..tensor_file import open_tensors
from .names import Shape

FLOATS = ("F64", "F32", "F16", "BF16")
MAX_TENSORS, MAX_NAME = 20_000, 300  # of a file; a single file of the largest model has 2,000, of 90 characters
_BYTES = {"F64": 8, "F32": 4}  # else 2
_MAPPED = 32 << 20  # bytes read of a file before it is mapped anew: pages once read count as ours while it is mapped


@dataclass(frozen=True)
class Stored:
    """The location, shape and dtype of a tensor in a file."""

    path: Path
    name: str
    shape: Shape
    dtype: str


def opened(path: Path) -> Any:
    """Open a checkpoint or adapter as `open_tensors` does. Raises `ModelError` for what is no such file."""
    try:
        return open_tensors(path)
    except InputError as error:
        raise ModelError(error.given, error.allowed, error.remedy) from error


def headers(path: Path) -> tuple[list[Stored], dict[str, str]]:
    """Read a safetensors file's list of tensors and its metadata, but no tensor.

    Raises:
        ModelError: for another kind of file, and for more or longer names than a model has.
    """
    with opened(path) as file:
        names = file.keys()
        long = max(names, key=len, default="")
        if len(names) > MAX_TENSORS or len(long) > MAX_NAME:
            raise ModelError(
                f"{path.name} has {len(names)} tensors, one with a name of {len(long)} characters",
                f"at most {MAX_TENSORS} and {MAX_NAME} are read", "choose an ACE-Step 1.5 model",
            )  # fmt: skip
        parts = ((name, file.get_slice(name)) for name in names)
        found = [Stored(path, name, tuple(part.get_shape()), part.get_dtype()) for name, part in parts]
        return found, dict(file.metadata() or {})


class _Reader:
    """Copies tensors out of files and keeps little of a file in memory."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._file: Any = None
        self._read = 0

    def copy(self, stored: Stored, out: Tensor) -> None:
        """Copy a tensor into `out`, of the stored shape and any dtype and device; large ones in pieces."""
        if not stored.shape:
            out.copy_(self._at(stored.path, 8).get_tensor(stored.name))
            return
        row = max(prod(stored.shape[1:]) * _BYTES.get(stored.dtype, 2), 1)
        step = max(_MAPPED // row, 1)
        for start in range(0, stored.shape[0], step):
            rows = out[start : start + step]
            rows.copy_(self._at(stored.path, len(rows) * row).get_slice(stored.name)[start : start + step])

    def _at(self, path: Path, size: int) -> Any:
        if path != self._path or self._read + size > _MAPPED:
            self._file = None  # unmapped before it is mapped again
            self._file, self._path, self._read = opened(path), path, 0
        self._read += size
        return self._file


def fill(module: nn.Module, stored: Mapping[str, Stored], device: torch.device, dtype: torch.dtype) -> None:
    """Give every parameter its own memory and its tensor, converted on the way; names and shapes are checked before."""
    reader = _Reader()
    for name, source in stored.items():
        path, _, leaf = name.rpartition(".")
        owner = module.get_submodule(path)
        tensor = torch.empty(getattr(owner, leaf).shape, dtype=dtype, device=device)
        reader.copy(source, tensor.view(source.shape))
        setattr(owner, leaf, tensor if leaf in owner._buffers else nn.Parameter(tensor, requires_grad=False))


def restore_buffers(module: nn.Module, device: torch.device) -> None:
    """Compute the buffers that are never stored; they were built without memory too."""
    for child in list(module.modules()):
        if not any(buffer.is_meta for buffer in child.buffers(recurse=False)):
            continue
        if hasattr(child, "levels"):  # the audio tokenizer's quantizer: its buffers do not depend on its width
            fresh = type(child)(dim=1, levels=child.levels, num_quantizers=child.num_quantizers)
        else:  # Qwen3's rotary frequencies
            fresh = type(child)(config=child.config)
        for leaf, buffer in fresh.named_buffers(recurse=False):
            setattr(child, leaf, buffer.to(device))


@torch.no_grad()
def make_silence(vae: AutoencoderOobleck, frames: int) -> Tensor:
    """Encode silence with the VAE, `[1, frames, 64]`; see `load_checkpoint`.

    With the real strides only the 7 frames at each end differ from the steady ones (measured on an untrained VAE).
    """
    second, samples = ACE_STEP.frame_rate, 2 * ACE_STEP.sample_rate
    silence = torch.zeros(1, vae.config.audio_channels, samples, dtype=vae.dtype, device=vae.device)
    mean = vae.encode(silence).latent_dist.mode()[0].T  # [50, 64]
    for child in vae.modules():
        if hasattr(child, "weight_v"):  # weight norm leaves the weight it made, as large as the stored one
            child.weight = child.weight_v.detach().to("meta")
    steady = mean[second].expand(frames - second, -1)
    return torch.cat([mean[:second], steady])[None]
