"""Puts TensorRT engines under ComfyUI's memory management. Imported inside ComfyUI only."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import comfy.model_management
from comfy.model_patcher import ModelPatcher
from torch import nn

from ...engine_runtime.trt.loader import put_away, room_of

_patchers: weakref.WeakKeyDictionary[Any, EnginePatcher] = weakref.WeakKeyDictionary()  # weak, as the manager's are


class EnginePatcher(ModelPatcher):
    """An open engine as ComfyUI's memory manager sees it: wholly on the device, or closed until it is next used."""

    def __init__(self, engine: Any) -> None:
        offload = comfy.model_management.unet_offload_device()
        super().__init__(nn.Module(), engine.device, offload, size=room_of(engine))
        self.model.device = engine.device
        self.engine = weakref.ref(engine)
        self.open_again: Callable[[], None] | None = None

    def loaded_size(self) -> int:
        engine = self.engine()
        return 0 if engine is None or engine.executor.engine is None else self.size

    def partially_load(self, device_to: Any, extra_memory: float = 0, force_patch_weights: bool = False) -> int:
        before = self.loaded_size()
        if self.open_again is not None:
            self.open_again()
        return self.loaded_size() - before

    def partially_unload(self, device_to: Any, memory_to_free: float = 0, force_patch_weights: bool = False) -> int:
        return 0  # an engine cannot be unloaded in part

    def detach(self, unpatch_all: bool = True) -> Any:
        engine = self.engine()
        if unpatch_all and engine is not None:
            put_away(engine)
        return self.model


def bring(engine: Any, open_again: Callable[[], None]) -> None:
    """Load an engine through ComfyUI's manager: it frees memory, reopens a closed engine and marks it as used last."""
    if engine not in _patchers:
        _patchers[engine] = EnginePatcher(engine)
    patcher = _patchers[engine]
    patcher.open_again = open_again
    try:
        comfy.model_management.load_models_gpu([patcher])
    finally:
        patcher.open_again = None  # it holds the engine and would keep it alive
