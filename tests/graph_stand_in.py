"""CUDA graphs for tests without a GPU: each records what its body notes, and notes it again when it is replayed."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from ostinato.engine_runtime.device import capture

CUDA = torch.device("cuda", 0)


class Graph:
    """Stands in for `torch.cuda.CUDAGraph`."""

    now: ClassVar[Graph | None] = None  # the one that captures
    made: ClassVar[list[Graph]] = []

    def __init__(self) -> None:
        self.pool: Any = None
        self.noted: list[Callable[[], None]] = []
        self.ended = False
        Graph.made.append(self)

    def capture_begin(self, pool: Any = None, capture_error_mode: str | None = None) -> None:
        assert Graph.now is None and capture_error_mode == "thread_local" and not gc.isenabled()
        Graph.now, self.pool = self, pool

    def capture_end(self) -> None:
        assert Graph.now is self
        Graph.now, self.ended = None, True

    def replay(self) -> None:
        assert self.ended
        for note in self.noted:
            note()


class Notes:
    """`notes(n)` is noted in `done` at once, or at every replay of the graph that captures now."""

    def __init__(self) -> None:
        self.done: list[Any] = []

    def __call__(self, n: Any) -> None:
        if Graph.now is None:
            self.done.append(n)
        else:
            Graph.now.noted.append(lambda: self.done.append(n))


def noting(patch: pytest.MonkeyPatch) -> Notes:
    """Put the stand-in in CUDA's place."""
    zeros = torch.zeros
    patch.setattr(torch.cuda, "CUDAGraph", Graph)
    patch.setattr(capture, "_editable", lambda: False)
    patch.setattr(capture, "capturable", lambda: True)
    patch.setattr(torch.cuda, "graph_pool_handle", object)
    patch.setattr(torch.cuda, "empty_cache", lambda: None)
    patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: Graph.now is not None)
    patch.setattr(torch, "zeros", lambda *size, device=None, **more: zeros(*size, **more))
    Graph.now = None
    Graph.made.clear()
    gc.enable()
    return Notes()
