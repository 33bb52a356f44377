"""Small tables of numbers that go to the device every few ticks, each in one asynchronous copy."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

SPARE = 4  # pinned copies at first; the host is seldom further ahead of the device


class Upload:
    """A device tensor filled from pinned memory that no copy in flight reads.

    Args:
        target: the tensor; on the CPU it is filled at once.
        stream: the current stream at the time of each fill.
    """

    def __init__(self, target: Tensor, stream: torch.cuda.Stream | None) -> None:
        self._target, self._stream = target, stream
        self._spare = deque(self._made() for _ in range(SPARE)) if target.is_cuda else None

    def put(self, numbers: Sequence[Any]) -> None:
        """Fill the target.

        Args:
            numbers: of the target's shape, as nested sequences or an array.
        """
        if self._spare is None:
            self._target.copy_(torch.tensor(numbers, dtype=self._target.dtype))
            return
        if not self._spare[0][-1].query():
            self._spare.appendleft(self._made())
        host, cells, copied = self._spare.popleft()
        cells[:] = np.asarray(numbers, cells.dtype).reshape(cells.shape)
        self._target.copy_(host, non_blocking=True)
        copied.record(self._stream)
        self._spare.append((host, cells, copied))

    def _made(self) -> tuple[Tensor, np.ndarray, torch.cuda.Event]:
        host = torch.empty(self._target.shape, dtype=self._target.dtype, pin_memory=True)
        return host, host.numpy(), torch.cuda.Event()
