"""ComfyUI's MODEL as an engine: its own weights, shared and not copied. ComfyUI is imported only inside functions."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ..constants import ROWS
from ..device.player import PLAYER, Player
from ..engines.contract import limits_of
from ..engines.eager import EagerEngine
from ..errors import InputError, ModelError
from ..spec import CORE, ModelId
from . import names
from .checkpoint import on_meta
from .comfy_queue import bring, is_idle, job_runs, leaving
from .sizes import config_from


class CoreEngine(EagerEngine):
    """The eager engine on the decoder of a ComfyUI MODEL.

    Its parameters are the core's own tensors. They are bound by `ready`, after ComfyUI's model management has brought
    them to the device and merged the patcher's patches (LoRA, LoKr, ...) in place: what KSampler would run on is what
    the ring runs on. `rest` lets go of them, so that ComfyUI can free them; between renders the engine holds nothing.
    Only tensors in another dtype than the core computes in are converted.

    Args:
        patcher: ComfyUI's `ModelPatcher`.
        max_rows: rows in one execute.

    Raises:
        ModelError: for another model than ACE-Step 1.5, or one that lacks or has other tensors.
        InputError: for options on the MODEL that the stream does not run.
    """

    def __init__(self, patcher: Any, max_rows: int = ROWS) -> None:
        limits = limits_of(max_rows)
        check_core(patcher)
        self._lock, self._players, self._key = threading.Lock(), 0, f"ostinato {id(self)}"
        self.patcher = static(patcher)
        self.transformer = on_meta("transformer", *self._config())
        self._meta = dict(self.transformer.named_parameters())
        expected = {name: tuple(p.shape) for name, p in self._meta.items()}
        names.check(expected, self._shapes(), "the MODEL")
        self.model = model_id(self.patcher)
        identity = f"{self.model.identity}:{self.patcher.patches_uuid}"
        super().__init__(self.transformer, identity, limits)
        # what `ready` will bring; until then the transformer is on the meta device
        self.dtype, self.device = self.patcher.model.get_dtype_inference(), self.patcher.load_device
        self.identity = f"eager:{identity}:{self.dtype}:{self.device}:{self.limits}"
        self.name = f"ComfyUI's weights, eager, {str(self.dtype).removeprefix('torch.')} on {self.device}"

    def ready(self) -> None:
        """Let ComfyUI make room, load the model and merge its patches; then take the tensors it has now.

        A player beside ComfyUI's queue is asked to rest when the model is taken from the device.
        """
        from comfy.patcher_extension import CallbacksMP

        with self._lock:
            if (player := PLAYER.get()) is not None:
                self.patcher.add_callback_with_key(CallbacksMP.ON_DETACH, self._key, _asks(player))
            if not self._players:  # otherwise another stream plays on them already
                bring(self.patcher, force_full_load=True)
                for ours, key in decoder_keys(self.patcher.model).items():
                    self._put(ours, nn.Parameter(self._merged(key), requires_grad=False))
            self._players += 1  # once they are there: what was refused is brought the next time

    def rest(self) -> None:
        from comfy.patcher_extension import CallbacksMP

        with self._lock:
            self._players = max(0, self._players - 1)
            if self._players == 0:
                self.patcher.remove_callbacks_with_key(CallbacksMP.ON_DETACH, self._key)
                for name, parameter in self._meta.items():
                    self._put(name, parameter)

    def _config(self) -> tuple[dict[str, Any], str]:
        return config_from("transformer", self._shapes(), "the MODEL"), "the MODEL"

    def _shapes(self) -> dict[str, names.Shape]:
        return {ours: tuple(self._tensor(key).shape) for ours, key in decoder_keys(self.patcher.model).items()}

    def _tensor(self, key: str) -> torch.Tensor:
        import comfy.utils

        return comfy.utils.get_attr(self.patcher.model, key)

    def _merged(self, key: str) -> torch.Tensor:
        value = self._tensor(key)
        if key in self.patcher.patches and key not in self.patcher.backup:  # no room to merge in place: merge a copy
            value = self.patcher.patch_weight_to_device(key, device_to=self.device, return_weight=True)
        return value.detach().to(device=self.device, dtype=self.dtype)

    def _put(self, name: str, parameter: nn.Parameter) -> None:
        owner, _, leaf = name.rpartition(".")
        setattr(self.transformer.get_submodule(owner), leaf, parameter)


def _asks(player: Player) -> Callable[[Any, bool], None]:
    """Return what ComfyUI's manager calls when it has taken a model away: who plays on its tensors lets go of them."""
    who = weakref.ref(player)

    def ask(patcher: Any, unpatch_all: bool) -> None:
        if unpatch_all and (found := who()) is not None:
            with leaving():
                found.rest(is_idle if job_runs() else None)

    return ask


def model_id(patcher: Any) -> ModelId:
    """Name the weights of a MODEL, with whatever patches; it is another one after it was loaded anew."""
    return ModelId(f"{CORE}{id(patcher.model)}", "ComfyUI's MODEL")


def static(patcher: Any) -> Any:
    """Return the patcher, or ComfyUI's substitute for it whose weights stay where they were loaded."""
    return patcher.get_non_dynamic_delegate() if patcher.is_dynamic() else patcher


def decoder_keys(model: Any) -> dict[str, str]:
    """Map our parameter names to the patcher's keys, for a ComfyUI model's decoder."""
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
    given = [*_named(options), *_named(inner), *_named(patcher.wrappers), *_named(patcher.weight_wrapper_patches)]
    given += [name for name, patch in patcher.object_patches.items() if not _only_shifts(name, patch)]
    given += [name for name in ("injections", "hook_patches") if getattr(patcher, name)]
    if given:
        raise InputError(
            f"the MODEL carries {', '.join(sorted(given))}",
            "the stream runs its weights with LoRA and other weight patches, and no other patch",
            "remove the nodes that set them",
        )


def _named(options: Mapping[str, Any]) -> list[str]:
    """List the options that are set, at any depth."""
    return [
        name
        for name, value in options.items()
        if (_named(value) if isinstance(value, Mapping) else value not in (None, False, [], ()))
    ]


def _only_shifts(name: str, patch: Any) -> bool:
    """Return whether an object patch only replaces a flow model's sampling, time unscaled: the stream has its own
    schedule."""
    import comfy.model_sampling

    flow = isinstance(patch, comfy.model_sampling.CONST)
    return name == "model_sampling" and flow and getattr(patch, "multiplier", 1.0) == 1.0
