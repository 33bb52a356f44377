"""Puts models and TensorRT engines under ComfyUI's memory management. Imported inside ComfyUI only.

ComfyUI's manager works in the thread of the queue, and takes weights away when it likes. Live sessions play in threads
of their own: each is asked to rest before the weights that it plays on are taken, and what is loaded already is not
brought again from there.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import comfy.model_management
from comfy.model_patcher import ModelPatcher
from torch import nn

from ...engine_runtime.device.player import PLAYER, Player
from ...engine_runtime.models import comfy_queue
from ...engine_runtime.models.comfy_queue import is_idle, job_runs, leaving
from ...engine_runtime.trt.loader import put_away, room_of

_patchers: weakref.WeakKeyDictionary[Any, EnginePatcher] = weakref.WeakKeyDictionary()  # weak, as the manager's are


class Played(ModelPatcher):
    """Weights that may be played on beside the queue."""

    def __init__(self, model: nn.Module, device: Any, size: int = 0) -> None:
        super().__init__(model, device, comfy.model_management.unet_offload_device(), size=size)
        self._players: weakref.WeakSet[Player] = weakref.WeakSet()

    def bring(self, **how: Any) -> None:
        """Load them, as `comfy_queue.bring` does; the player of this thread is asked to rest before they go."""
        if (player := PLAYER.get()) is not None:
            self._players.add(player)
        comfy_queue.bring(self, **how)

    def partially_unload(self, device_to: Any, memory_to_free: float = 0, force_patch_weights: bool = False) -> int:
        """Free nothing, so that the whole is taken away: the matrices of a layer share memory, which stays until the
        last of them goes, and what plays needs all of them.
        """
        return 0

    def detach(self, unpatch_all: bool = True) -> Any:
        with leaving():
            if unpatch_all:
                self._rest()
            return super().detach(unpatch_all)

    def _rest(self) -> None:
        """Ask who plays on them to rest: until the queue is empty where a job needs the memory, else until started."""
        players, self._players = list(self._players), weakref.WeakSet()
        for player in players:
            player.rest(is_idle if job_runs() else None)


class EnginePatcher(Played):
    """An open engine as ComfyUI's memory manager sees it: wholly on the device, or closed until it is next used."""

    def __init__(self, engine: Any) -> None:
        super().__init__(nn.Module(), engine.device, room_of(engine))
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

    def detach(self, unpatch_all: bool = True) -> Any:
        engine = self.engine()
        if unpatch_all and engine is not None:
            with leaving():
                self._rest()
                put_away(engine)
        return self.model


def bring(engine: Any, open_again: Callable[[], None]) -> None:
    """Load an engine through ComfyUI's manager: it frees memory, reopens a closed engine and marks it as used last."""
    if engine not in _patchers:
        _patchers[engine] = EnginePatcher(engine)
    patcher = _patchers[engine]
    patcher.open_again = open_again
    try:
        patcher.bring()
    finally:
        patcher.open_again = None  # it holds the engine and would keep it alive


def manage(parts: dict[str, nn.Module], device: Any) -> Callable[[], None]:
    """Put a model's parts under ComfyUI's memory management, which moves them to the device for use and away when asked
    to; returns the function that brings them.
    """
    patcher = Played(nn.ModuleDict(parts), device)
    return lambda: patcher.bring(force_full_load=True)
