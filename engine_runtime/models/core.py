"""ComfyUI's MODEL as an engine: its own weights, shared and not copied. ComfyUI is imported only inside functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..engines.eager import LIMITS, EagerEngine
from ..errors import InputError, ModelError, check_range
from . import names
from .checkpoint import on_meta
from .sizes import config_from

# Options of a model patcher that are there on every model, and the sampling settings: the schedule is the stream's own.
_HARMLESS = {"model_sampling"}


class CoreEngine(EagerEngine):
    """The eager engine on the decoder of a ComfyUI MODEL.

    Its parameters are the core's own tensors, bound anew by `ready`, after ComfyUI's model management has brought them
    to the device and merged the patcher's patches (LoRA, LoKr, ...) in place: what KSampler would run on is what the
    ring runs on. Only tensors in another dtype than the core computes in are converted.

    Args:
        patcher: ComfyUI's `ModelPatcher`.
        max_rows: rows in one execute.

    Raises:
        ModelError: for another model than ACE-Step 1.5, or one that lacks or has other tensors.
        InputError: for options on the MODEL that the stream does not run.
    """

    def __init__(self, patcher: Any, max_rows: int = LIMITS.batch) -> None:
        check_range("max rows", max_rows, 1, 64, "a slot needs one, or two with guidance")
        self.patcher = patcher.get_non_dynamic_delegate() if patcher.is_dynamic() else patcher
        check_core(self.patcher)
        self.transformer = on_meta("transformer", *self._config())
        self._bind()
        identity = f"core:{id(self.patcher.model)}:{self.patcher.patches_uuid}"
        super().__init__(self.transformer, identity, replace(LIMITS, batch=max_rows))
        self.name = f"ComfyUI's weights, {self.name}"

    def ready(self) -> None:
        """Let ComfyUI make room, load the model and merge its patches; then take the tensors it has now."""
        import comfy.model_management

        comfy.model_management.load_models_gpu([self.patcher], force_full_load=True)
        self._bind()
        self.device = self.transformer.device

    def _config(self) -> tuple[dict[str, Any], str]:
        shapes = {ours: tuple(self._tensor(key).shape) for ours, key in decoder_keys(self.patcher.model).items()}
        return config_from("transformer", shapes, "the MODEL"), "the MODEL"

    def _tensor(self, key: str) -> torch.Tensor:
        import comfy.utils

        return comfy.utils.get_attr(self.patcher.model, key)

    def _bind(self) -> None:
        """Put the core's tensors into the reference transformer."""
        model = self.patcher.model
        keys = decoder_keys(model)
        expected = {name: tuple(p.shape) for name, p in self.transformer.named_parameters()}
        names.check(expected, {ours: tuple(self._tensor(key).shape) for ours, key in keys.items()}, "the MODEL")
        dtype, device = model.get_dtype_inference(), self.patcher.load_device
        for ours, key in keys.items():
            value = self._tensor(key)
            if key in self.patcher.patches and key not in self.patcher.backup:  # not merged in place, so merge a copy
                value = self.patcher.patch_weight_to_device(key, device_to=device, return_weight=True)
            owner, _, leaf = ours.rpartition(".")
            value = value.detach().to(device=device, dtype=dtype)
            setattr(self.transformer.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=False))


def decoder_keys(model: Any) -> dict[str, str]:
    """`{our parameter: the patcher's key}` of a core model's decoder."""
    theirs = (f"{names.DIFFUSION}decoder.{name}" for name, _ in model.diffusion_model.decoder.named_parameters())
    return {ours: key.removeprefix("model.") for ours, key in names.plan(theirs)["transformer"].items()}


def check_core(patcher: Any) -> None:
    """Refuse another model than ACE-Step 1.5, and options that would be lost."""
    network = getattr(patcher.model, "diffusion_model", None)
    if not hasattr(network, "decoder") or not hasattr(network, "prepare_condition"):
        raise ModelError(
            f"the MODEL is a {type(patcher.model).__name__}",
            "the stream plays ACE-Step 1.5 (turbo, base, SFT or XL)",
            "load an ACE-Step 1.5 checkpoint",
        )
    options = dict(patcher.model_options)
    inner = options.pop("transformer_options", {})
    given = [*_named(options), *_named(inner), *(k for k in patcher.object_patches if k not in _HARMLESS)]
    if patcher.injections:
        given.append("injections")
    if given:
        raise InputError(
            f"the MODEL carries {', '.join(sorted(given))}",
            "the stream runs its weights with LoRA and other weight patches, and no other patch",
            "remove the nodes that set them",
        )


def _named(options: Mapping[str, Any]) -> list[str]:
    """Names of the options that hold anything."""
    return [name for name, value in options.items() if value not in (None, False, {}, [], ())]
