"""CUDA graphs of one execution context, for a TensorRT that does not capture them itself."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch

from ...device.capture import Step, captured
from ...device.gpu import capturing
from ...errors import EngineError
from ..library.messages import LOG

MOST = 32  # graphs kept; a ring needs one for each pass, and one for each row that it decodes alone


class Graphs:
    """Replays launches with the same shapes, addresses and profile.

    A context must run once with its shapes before it is captured, so the first launch of a key runs plainly and the
    second captures. The caller calls `drop` when shapes, profile or weights change.

    Args:
        allowed: False never captures.
    """

    def __init__(self, allowed: bool) -> None:
        self._allowed = allowed
        self._seen: set[Hashable] = set()
        self._captured: dict[Hashable, Step] = {}

    @property
    def full(self) -> bool:
        """Return whether as many keys were seen as are kept, as when adapters change at every tick; then call
        `drop`."""
        return len(self._seen) >= MOST

    def launch(self, key: Hashable, enqueue: Callable[[], None]) -> None:
        """Enqueue on the current stream, by a graph where there is one."""
        if self._allowed and capturing():  # the caller's graph includes it
            enqueue()
            return
        if self._allowed and key in self._seen and key not in self._captured:
            self._capture(key, enqueue)
        if key in self._captured:
            self._captured[key]()
        else:
            enqueue()
            self._seen.add(key)

    def drop(self) -> list[Step]:
        """Forget all graphs and return them: they may still be running, so keep them until they are done."""
        graphs = list(self._captured.values())
        self._captured.clear()
        self._seen.clear()
        return graphs

    def _capture(self, key: Hashable, enqueue: Callable[[], None]) -> None:
        try:
            self._captured[key] = captured(enqueue, torch.cuda.graph_pool_handle())
        except (RuntimeError, EngineError) as error:
            self._allowed = False
            LOG.warning("no CUDA graph of the engine: %s", error)
