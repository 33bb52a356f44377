"""Threads that compute alone, for work on the CPU.

PyTorch shares one operation out over a team of threads and waits for all of them at its end. Where other programs want
the processors too, some of a team is not running at the moment, and every small operation waits for it: a tick of the
built-in model took 23 ms on two quiet cores, and on busy ones 63 ms with one thread and 1,369 with two. So whole pieces
of work (a row, a window, a tick) are given to threads that do each operation by themselves. Their bits do not depend on
the number of processors.

How many threads an operation takes belongs to the thread that calls it (OpenMP's and MKL's settings are of a thread).
`torch.set_num_threads` sets it there, and also what threads begin with that are new to PyTorch; that part is set back
at once, within microseconds: only a thread that computes its very first operation in that moment would keep one.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import copy_context
from typing import TypeVar

import torch
from torch import nn

from ..registry import registry

# Weights from which on a team is quicker on a quiet machine, and little slower on a busy one, for its operations are
# long: the built-in model has 9 million in its decoder, ACE-Step 1.5's smallest 1,575.
LARGE = 100_000_000
T = TypeVar("T")
_beginning = threading.Lock()  # while what new threads begin with is changed


class _Here(threading.local):
    """Holds what belongs to the calling thread.

    Attributes:
        usual: size of the team before the thread left it; 0 where it has not.
        workers: its own; None for the process's.
        in_turn: it does everything itself.
    """

    usual = 0
    workers: Workers | None = None
    in_turn = False


class Workers:
    """Threads that compute alone, as many as PyTorch's team has; they begin when they are needed.

    They have the priority of the thread that first needs them. `wide` work is that of large networks: a team does it.
    """

    def __init__(self) -> None:
        self.count = _here.usual or torch.get_num_threads()
        self._alone = ThreadPoolExecutor(self.count, "ostinato worker", leave_team)
        self._wide = ThreadPoolExecutor(self.count, "ostinato team")

    def run(self, body: Callable[[], T], wide: bool = False) -> T:
        """Run a body in a thread that computes alone, or in one with a team where it is `wide`; the calling one if
        that is such a thread.
        """
        if _here.in_turn or self.count == 1 or wide == (torch.get_num_threads() > 1):
            return body()
        future = (self._wide if wide else self._alone).submit(_as_here(body))
        try:
            return future.result()
        except BaseException:
            wait([future])  # an interrupt came: what the body works on is in use until it has ended
            raise

    def each(self, bodies: Sequence[Callable[[], T]]) -> list[T]:
        """Run bodies side by side, each alone, and return their results in order.

        Where one raises, no further one is begun, and the error is raised once all have ended.
        """
        if _here.in_turn or self.count == 1:
            return [self.run(body) for body in bodies]
        return self.run(lambda: self._shared(bodies))

    def close(self) -> None:
        """End the threads."""
        self._alone.shutdown()
        self._wide.shutdown()

    def _shared(self, bodies: Sequence[Callable[[], T]]) -> list[T]:
        """Work through bodies together with others that are free; it never waits for one that is not."""
        left, found = deque(enumerate(bodies)), dict[int, T]()
        lock = threading.Lock()

        def taken() -> tuple[int, Callable[[], T]] | None:
            with lock:
                return left.popleft() if left else None

        def work() -> None:
            try:
                while (one := taken()) is not None:
                    found[one[0]] = one[1]()
            except BaseException:
                with lock:
                    left.clear()
                raise

        helpers: list[Future[None]] = []
        try:
            helpers += (self._alone.submit(_as_here(work)) for _ in range(min(len(bodies), self.count) - 1))
            work()
        finally:
            begun = [helper for helper in helpers if not helper.cancel()]
            wait(begun)
        for helper in begun:
            helper.result()
        return [found[i] for i in range(len(bodies))]


def workers() -> Workers:
    """Return the calling thread's own workers, or the process's."""
    return _here.workers or registry.one(Workers)


def leave_team() -> None:
    """Have the calling thread compute alone from now on."""
    with _beginning:
        usual = _here.usual = torch.get_num_threads()
        left = threading.Event()

        def restore() -> None:
            left.wait()
            torch.set_num_threads(usual)

        restored = threading.Thread(target=restore)
        restored.start()
        torch.set_num_threads(1)
        left.set()
        restored.join()


@contextmanager
def own_workers() -> Iterator[None]:
    """Give the calling thread, which computes alone, workers of its own for the length of a block."""
    _here.workers = made = Workers()
    try:
        yield
    finally:
        _here.workers = None
        made.close()


@contextmanager
def in_turn() -> Iterator[None]:
    """Do all work of a block in the calling thread, one piece after the other: a profiler sees no other."""
    before, _here.in_turn = _here.in_turn, True
    try:
        yield
    finally:
        _here.in_turn = before


def is_large(network: nn.Module) -> bool:
    """Return whether a network's operations are long enough for a team."""
    return sum(tensor.numel() for tensor in network.parameters()) >= LARGE


def _as_here(body: Callable[[], T]) -> Callable[[], T]:
    """Have a body run elsewhere under this thread's modes of autograd, with its context variables and its workers."""
    context = copy_context()
    inference, grad, own = torch.is_inference_mode_enabled(), torch.is_grad_enabled(), _here.workers

    def run() -> T:
        _here.workers = own
        with torch.inference_mode(inference), torch.set_grad_enabled(grad):
            return context.run(body)

    return run


_here = _Here()
