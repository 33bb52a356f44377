"""Small tables of numbers that go to the device every few ticks, each in one asynchronous copy."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

SPARE = 4  # pinned copies at first; the host is seldom further ahead of the device


class Pinned:
    """Pinned host memory like a tensor, and the event after its last copy to the device."""

    def __init__(self, like: Tensor) -> None:
        self.host = torch.empty(like.shape, dtype=like.dtype, pin_memory=True)
        self.cells: np.ndarray = self.host.numpy()
        self.copied = torch.cuda.Event()


class Upload:
    """A device tensor filled from pinned memory that no copy in flight reads.

    Args:
        target: the tensor; on the CPU it is filled at once.
        stream: the current stream at the time of each fill.

    Attributes:
        spare: pinned memory, what was used last at the end; empty on the CPU.
    """

    def __init__(self, target: Tensor, stream: torch.cuda.Stream | None) -> None:
        self.target, self._stream = target, stream
        self.spare = deque(Pinned(target) for _ in range(SPARE if target.is_cuda else 0))

    def put(self, numbers: Sequence[Any]) -> None:
        """Fill the target.

        Args:
            numbers: of the target's shape, as nested sequences or an array.
        """
        if not self.spare:
            self.target.copy_(torch.tensor(numbers, dtype=self.target.dtype))
            return
        if not self.spare[0].copied.query():
            self.spare.appendleft(Pinned(self.target))
        one = self.spare.popleft()
        one.cells[:] = np.asarray(numbers, one.cells.dtype).reshape(one.cells.shape)
        self.target.copy_(one.host, non_blocking=True)
        one.copied.record(self._stream)
        self.spare.append(one)
