"""Frees memory on the device where TensorRT finds none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from ...errors import MemoryShortage
from ..library.messages import Errors, checked

T = TypeVar("T")
MakeRoom = Callable[[int], None]  # frees that many bytes on the device
MB = 1 << 20


class Room:
    """Frees memory on the device once where an allocation fails."""

    def __init__(self, errors: Errors, device: torch.device, make_room: MakeRoom | None) -> None:
        self._errors, self._device, self._make_room = errors, device, make_room

    def found(self, what: str, wanted: int, attempt: Callable[[], T | None]) -> T:
        """Return what `attempt` makes; it returns None on failure.

        Raises:
            MemoryShortage: when there is no room the second time either.
            EngineError: when it failed for another reason.
        """
        self._errors.clear()
        made = attempt()
        if made is None and self._errors.shortage:
            self._ask(wanted)
            self._errors.clear()
            made = attempt()
        if made is None and self._errors.shortage:
            raise self._shortage(what, wanted)
        return checked(what, made, self._errors)

    def _ask(self, wanted: int) -> None:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()  # TensorRT cannot use memory that torch caches
        if self._make_room is not None:
            self._make_room(wanted)

    def _shortage(self, what: str, wanted: int) -> MemoryShortage:
        free, text = free_bytes(self._device), self._errors.text()
        self._errors.clear()
        missing = f", {(wanted - free) / MB:.0f} MB are missing" if free is not None and free < wanted else ""
        known = f" and {free / MB:.0f} MB are free{missing}" if free is not None else ""
        part = "weights" if what == "deserialize_cuda_engine" else "workspace"
        return MemoryShortage(
            f"the engine's {part} needs {wanted / MB:.0f} MB on {self._device}{known} ({text})",
            "it must fit beside what is loaded",
            "unload other models, or build an engine with fewer rows or seconds at most",
        )


def free_bytes(device: torch.device) -> int | None:
    """Return the free bytes of a CUDA device; None for another device."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
