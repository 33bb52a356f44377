"""What running executes still use: TensorRT holds no reference to the memory it is given."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import Tensor


class Keeper:
    """Keeps memory until the event behind its last use has passed; on the CPU, where work is done at once, until told.

    Args:
        device: where the executes run.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._done = torch.cuda.Event() if device.type == "cuda" else None  # behind the last execute
        self._stream: torch.cuda.Stream | None = None  # that it ran on
        self._held: dict[str, Tensor] = {}  # what it uses, by the name it is bound to
        self._stale: list[Any] = []  # what it was the last to use
        self._retired: deque[tuple[torch.cuda.Event, list[Any]]] = deque()

    def enter(self) -> None:
        """Order the current stream after another that the last execute ran on, and let go of what is done with.

        After all of that stream's work, for what reads the last output there must come before the next execute too.
        """
        if self._done is not None:
            current = torch.cuda.current_stream(self._device)
            if self._stream is not None and current != self._stream:
                current.wait_stream(self._stream)
            self._stream = current
        self.release()

    def hold(self, name: str, tensor: Tensor) -> None:
        """Keep what the coming execute reads or writes, in place of what had this name; views share their storage."""
        old = self._held.get(name)
        if old is not None and old.untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr():
            self._stale.append(old)
        self._held[name] = tensor

    def later(self, *things: Any) -> None:
        """Let go of these once the last execute is over; the coming one does not use them."""
        self._stale += things

    def mark(self) -> None:
        """All that is held is in use until what is enqueued on the current stream is done."""
        self._set_aside()
        if self._done is not None:
            self._done.record(torch.cuda.current_stream(self._device))

    def retire(self, *things: Any) -> None:
        """Let go of all that is held, and of `things`, once the last execute is over."""
        self.later(*self._held.values(), *things)
        self._held.clear()
        self._set_aside()
        if self._done is not None and self._stream is not None:
            self._done.record(self._stream)

    def _set_aside(self) -> None:
        """Tie what is stale to the last execute's event, which from here on is recorded no more."""
        if self._stale and self._done is not None:
            self._retired.append((self._done, self._stale))
            self._done = torch.cuda.Event()
        self._stale = []

    def release(self) -> None:
        """Let go of what is done with. Does not wait."""
        while self._retired and self._retired[0][0].query():
            self._retired.popleft()

    def drain(self) -> None:
        """Wait on the host until every execute is over, and let go of everything. Not for use in a tick."""
        self.retire()
        if self._done is not None:
            self._done.synchronize()
        self._retired.clear()
