"""Small tables of numbers that go to the device again and again, each in one asynchronous copy."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

SPARE = 4  # pinned copies at first; the host is seldom further ahead of the device


class Upload:
    """Fills a device tensor from pinned memory that no copy in flight reads.

    Args:
        target: on the CPU it is filled at once.
        stream: the one that is current when it is filled.
    """

    def __init__(self, target: Tensor, stream: torch.cuda.Stream | None) -> None:
        self._target, self._stream = target, stream
        self._spare = deque(self._made() for _ in range(SPARE)) if target.is_cuda else None

    def put(self, numbers: Sequence[Any]) -> None:
        """Numbers of the target's shape, nested as `numpy` takes them."""
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
