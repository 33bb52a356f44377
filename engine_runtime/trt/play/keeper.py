"""Keeps alive the memory of running executes: TensorRT holds no reference to it."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import Tensor


class Keeper:
    """Holds memory until the event after its last use has passed; on the CPU, where work is synchronous, until
    `retire`.

    Args:
        device: where the executes run.

    Attributes:
        retired: what is released once its event has passed, the oldest first.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._done = torch.cuda.Event() if device.type == "cuda" else None  # recorded after the last execute
        self._stream: torch.cuda.Stream | None = None  # of the last execute
        self._held: dict[str, Tensor] = {}  # in use, by the name it is bound to
        self._stale: list[Any] = []  # last used by the last execute
        self.retired: deque[tuple[torch.cuda.Event, list[Any]]] = deque()

    def enter(self) -> None:
        """Make the current stream wait for the last execute's stream where they differ, and release finished memory.

        It waits for all work of that stream, because whatever reads the last output there must finish before the next
        execute.
        """
        if self._done is not None:
            current = torch.cuda.current_stream(self._device)
            if self._stream is not None and current != self._stream:
                current.wait_stream(self._stream)
            self._stream = current
        self.release()

    def hold(self, name: str, tensor: Tensor) -> None:
        """Keep a tensor that the coming execute uses, in place of the one of this name; views share their storage."""
        old = self._held.get(name)
        if old is not None and old.untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr():
            self._stale.append(old)
        self._held[name] = tensor

    def later(self, *things: Any) -> None:
        """Release these once the last execute is over; the coming one does not use them."""
        self._stale += things

    def mark(self) -> None:
        """Mark all held memory as in use until the work enqueued on the current stream is done."""
        self._set_aside()
        if self._done is not None:
            self._done.record(torch.cuda.current_stream(self._device))

    def retire(self) -> None:
        """Release all held memory once the last execute is over."""
        self.later(*self._held.values())
        self._held.clear()
        self._set_aside()
        if self._done is not None and self._stream is not None:
            self._done.record(self._stream)

    def _set_aside(self) -> None:
        """Tie stale memory to the last execute's event, which is not recorded again; later executes get a new one."""
        if self._stale and self._done is not None:
            self.retired.append((self._done, self._stale))
            self._done = torch.cuda.Event()
        self._stale = []

    def release(self) -> None:
        """Drop memory whose event has passed. Does not wait."""
        while self.retired and self.retired[0][0].query():
            self.retired.popleft()

    def drain(self) -> None:
        """Wait on the host until every execute is over, and release everything. Not for use in a tick."""
        self.retire()
        if self._done is not None:
            self._done.synchronize()
        self.retired.clear()
