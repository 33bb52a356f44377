"""The one stream that a device's ticks run on. Other streams meet it through events, never by a host wait."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch

from .capture import Pool
from .workers import workers

T = TypeVar("T")


class Lane:
    """A CUDA stream of its own on a GPU; on the CPU its methods but `run` do nothing.

    Work is handed in with `mark` (on the caller's stream) and `wait` (on the lane), and handed out with `done` and
    `take` (on the caller's stream). Whoever ticks holds `lock`. The hot path names the stream that records an event:
    asking PyTorch for the current one takes 20 us.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None
        self.lock = threading.RLock()  # one tick at a time: an engine's output is overwritten by its next execute
        self._pool: weakref.ref[Pool] | None = None

    def pool(self) -> Pool:
        """Return the memory pool of ticks captured on the lane; all that are alive at one time share it."""
        found = None if self._pool is None else self._pool()
        if found is None:
            found = Pool()
            self._pool = weakref.ref(found)
        return found

    def use(self) -> AbstractContextManager:
        """Make the lane the current stream."""
        return nullcontext() if self.stream is None else torch.cuda.stream(self.stream)

    def run(self, body: Callable[[], T]) -> T:
        """Run a body on the lane; on the CPU in a thread that computes alone, while the calling one waits."""
        if self.stream is None:
            return workers().run(body)
        with torch.cuda.stream(self.stream):
            return body()

    def mark(self) -> torch.cuda.Event | None:
        """Record an event after all work enqueued on the current stream."""
        return None if self.stream is None else _behind(torch.cuda.current_stream(self.device))

    def done(self) -> torch.cuda.Event | None:
        """Record an event after all work enqueued on the lane."""
        return None if self.stream is None else _behind(self.stream)

    def wait(self, event: torch.cuda.Event | None) -> None:
        """Make later work of the lane wait for `event`."""
        if self.stream is not None and event is not None:
            self.stream.wait_event(event)

    def keep(self, tensor: torch.Tensor) -> None:
        """Keep another stream's tensor from being reused before the lane's work on it is done."""
        if self.stream is not None:
            tensor.record_stream(self.stream)

    def take(self, tensor: torch.Tensor, event: torch.cuda.Event | None) -> torch.Tensor:
        """Hand a tensor made on the lane to the current stream, after `event`."""
        if self.stream is not None and event is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(event)
            tensor.record_stream(current)
        return tensor


def _behind(stream: torch.cuda.Stream) -> torch.cuda.Event:
    event = torch.cuda.Event()
    event.record(stream)
    return event
