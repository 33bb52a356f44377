"""The one stream that a device's ticks run on, and how other streams meet it: by events, never by waiting."""

from __future__ import annotations

import threading
import weakref
from contextlib import AbstractContextManager, nullcontext

import torch

from .capture import Pool


class Lane:
    """A CUDA stream of its own on a GPU; on the CPU every method does nothing.

    Work is handed in with `mark` (on the caller's stream) and `wait` (on the lane), and handed out with `done` and
    `take` (on the caller's stream). Whoever ticks holds `lock`. On the hot path events are recorded on streams by name:
    PyTorch takes 20 us to say which one is current.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None
        self.lock = threading.RLock()  # one tick at a time: an engine's output is overwritten by its next execute
        self._pool: weakref.ref[Pool] | None = None

    def pool(self) -> Pool:
        """For ticks captured on the lane: one that is made while another is there shares its memory."""
        found = None if self._pool is None else self._pool()
        if found is None:
            found = Pool()
            self._pool = weakref.ref(found)
        return found

    def use(self) -> AbstractContextManager:
        """Make the lane the current stream."""
        return nullcontext() if self.stream is None else torch.cuda.stream(self.stream)

    def mark(self) -> torch.cuda.Event | None:
        """An event behind everything that is enqueued on the current stream."""
        return None if self.stream is None else _behind(torch.cuda.current_stream(self.device))

    def done(self) -> torch.cuda.Event | None:
        """An event behind everything that is enqueued on the lane."""
        return None if self.stream is None else _behind(self.stream)

    def wait(self, event: torch.cuda.Event | None) -> None:
        """Order later work of the lane after `event`."""
        if self.stream is not None and event is not None:
            self.stream.wait_event(event)

    def keep(self, tensor: torch.Tensor) -> None:
        """Keep a tensor of another stream from being reused before the lane's work on it is done."""
        if self.stream is not None:
            tensor.record_stream(self.stream)

    def take(self, tensor: torch.Tensor, event: torch.cuda.Event | None) -> torch.Tensor:
        """Hand a tensor made on the lane to the current stream."""
        if self.stream is not None and event is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(event)
            tensor.record_stream(current)
        return tensor


def _behind(stream: torch.cuda.Stream) -> torch.cuda.Event:
    event = torch.cuda.Event()
    event.record(stream)
    return event
