"""Work that repeats, captured as CUDA graphs and replayed."""

from __future__ import annotations

import functools
import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import torch

from ..errors import EngineError
from ..registry import registry
from . import driver
from .memory import is_shortage
from .undisturbed import Neighbours, uncollected

log = logging.getLogger(__name__)
UNCAPTURED = (
    "Ticks are not replayed as CUDA graphs and cost more of the host, for PyTorch's memory comes from cudaMallocAsync; "
    "start ComfyUI with --disable-cuda-malloc to have them replayed."
)
MOST = 32  # scripts kept; the one that was not used for longest goes first
TRIES = 3  # captures that fail one after another before none is tried any more: another thread may have ended one
Step = Callable[[], Any]


class Pool:
    """A memory pool for the intermediate tensors of graphs that run one after another on one stream.

    It holds a graph of its own: once a pool has lost its last graph, PyTorch reuses its memory for nothing else. After
    a capture that was spoilt, it is another pool of PyTorch's.
    """

    def __init__(self) -> None:
        self._handle: Any = None
        self._graph: Step | None = None

    @property
    def handle(self) -> Any:
        """Return PyTorch's handle of the pool, which is made where there is none, on the current stream."""
        if self._graph is None or self._handle in registry.one(Spoilt).pools:
            handle, spare = torch.cuda.graph_pool_handle(), torch.zeros(1, device="cuda")
            self._graph, self._handle = captured(spare.zero_, handle), handle
        return self._handle


class OwnPools:
    """A memory pool for each graph alone: for bodies that take no memory from torch."""

    @property
    def handle(self) -> Any:
        """Return PyTorch's handle of a new pool."""
        return torch.cuda.graph_pool_handle()


class Capture:
    """A runner of work on the current stream: plain at the first sight of a key, replayed as CUDA graphs from the
    second on.

    A body reads and writes tensors that keep their addresses, never waits for the device, and makes the same calls
    whenever its key is the same. A part that cannot be captured goes through `outside`. On the CPU, with `on` false, or
    where the allocator is not `capturable`, every run is plain; so is one that would be captured while the `Neighbours`
    are at work.

    Args:
        most: number of scripts kept; the one unused for longest goes first.
        pool: shared by all that is captured for the stream; a new one by default.
        name: of the bodies, in log messages.
        release: given the steps that are replayed no more; the last run of their graphs may not be over. By default
            they are freed at once.

    Attributes:
        on: whether repeated work is captured; false once `TRIES` captures have failed one after another, or one for
            want of memory.
    """

    def __init__(
        self,
        device: torch.device,
        on: bool = True,
        most: int = MOST,
        pool: Pool | OwnPools | None = None,
        name: str = "ticks",
        release: Callable[..., None] = lambda *steps: None,
    ) -> None:
        self._name, self._most, self.pool, self._release = name, most, pool or Pool(), release
        self.on = on and device.type == "cuda" and capturable()
        self._scripts: OrderedDict[Hashable, list[Step] | None] = OrderedDict()  # None: seen once
        self._recording: _Recording | None = None  # while a body is being captured
        self._failures = 0  # since the last capture that did not fail

    def run(self, key: Hashable, body: Step) -> None:
        """Run a body.

        Args:
            key: all that decides which calls the body makes, and every object that must live as long as its graphs.
        """
        if not self.on:
            body()
            return
        script = self._scripts.get(key)
        if script is None and key in self._scripts:
            with registry.one(Neighbours).still() as still:
                script = self._scripts[key] = self._record(body) if still else None
        if script is None:
            body()
            self._scripts.setdefault(key)
        else:
            for step in script:
                step()
        self._scripts.move_to_end(key)
        if len(self._scripts) > self._most:
            _, unused = self._scripts.popitem(last=False)
            self._release(*(unused or ()))

    def replays(self, key: Hashable) -> bool:
        """Return true where the next run of this key is no plain one."""
        return self._scripts.get(key) is not None

    @property
    def replayed(self) -> list[Hashable]:
        """List the keys that are replayed, the one unused for longest first."""
        return [key for key, script in self._scripts.items() if script is not None]

    def clear(self) -> None:
        """Forget every key and release its graphs."""
        steps = [step for script in self._scripts.values() for step in script or ()]
        self._scripts.clear()
        self._release(*steps)

    def outside(self, call: Step) -> None:
        """Run a part of the body outside of any graph, now and at every replay; `call` must not hold this object's
        owner.
        """
        if self._recording is None:
            call()
        else:
            self._recording.outside(call)

    def _record(self, body: Step) -> list[Step] | None:
        """Capture a body without running it; returns its script.

        Where it cannot be captured, return None. After `TRIES` of them, or where memory stays short, capture nothing
        from then on.
        """
        for room in (False, True):
            try:
                if room:  # a plain run has left its own workspace behind
                    torch.cuda.empty_cache()
                self._recording = _Recording(self.pool.handle)
                script = self._recording.of(body)
                self._failures = 0
                return script
            except Exception as error:
                if not room and is_shortage(error):
                    continue
                self._failures += 1
                if self._failures < TRIES and not is_shortage(error):
                    log.debug("%s were not captured as CUDA graphs this time: %s", self._name, error)
                    return None
                log.warning("%s are not captured as CUDA graphs, and cost more of the host: %s", self._name, error)
            finally:
                self._recording = None
            break
        self.on = False
        self.clear()
        return None


class _Recording:
    """A capture of one body on the current stream: its graphs, and the calls between them.

    `torch.cuda.graph` is not used: it waits for the device and empties the allocator's cache, while music plays.

    Args:
        pool: handle of a `Pool`.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._steps: list[Step] = []
        self._graph: torch.cuda.CUDAGraph | None = None  # the open one

    def of(self, body: Step) -> list[Step]:
        """Capture a body without running it; returns the steps that replay it."""
        with uncollected():
            try:
                self._open()
                body()
                self._close()
            except BaseException:
                if self._graph is not None:
                    end(self._graph, self._pool)
                raise
        return self._steps

    def outside(self, call: Step) -> None:
        self._close()
        self._steps.append(call)
        self._open()

    def _open(self) -> None:
        self._graph = _graph()
        self._graph.capture_begin(self._pool, capture_error_mode="thread_local")  # other threads may go on allocating

    def _close(self) -> None:
        graph = self._graph
        assert graph is not None
        graph.capture_end()  # where this fails, the graph counts as open, and `end` puts right what is left of it
        self._graph = None
        _finish(graph)
        self._steps.append(graph.replay)


@functools.cache
def capturable() -> bool:
    """Return true where PyTorch's allocator of CUDA memory lets work be captured; says so once where not.

    The backend `cudaMallocAsync`, which ComfyUI chooses by default, gives a capture addresses that are backed at replay
    only: Triton refuses them, and to free them after a failed capture ends the process (seen with PyTorch 2.11).
    """
    native = torch.cuda.get_allocator_backend() != "cudaMallocAsync"
    if not native:
        log.warning(UNCAPTURED)
    return native


def captured(body: Step, pool: Any) -> Step:
    """Capture a body without running it, on the current stream; returns a call that replays it and holds the graph.

    Args:
        pool: handle of a `Pool`.
    """
    return _Recording(pool).of(body)[0]


def _graph() -> torch.cuda.CUDAGraph:
    """Make a graph, editable before it is instantiated where PyTorch and the driver allow that."""
    return torch.cuda.CUDAGraph(keep_graph=True) if _editable() else torch.cuda.CUDAGraph()


def _finish(graph: torch.cuda.CUDAGraph) -> None:
    """Make a graph of `_graph`, whose capture has ended, ready to be replayed."""
    if not _editable():
        return
    edits = registry.one(Edits)
    if edits.failed is None:
        try:
            driver.memsets_to_kernels(graph.raw_cuda_graph(), torch.cuda.current_device())
        except EngineError as error:  # the graph does what it did
            edits.failed = error
            log.warning("graphs keep their memsets, and cost more of the host: %s", error)
    graph.instantiate()


@functools.cache
def _editable() -> bool:
    """Return true where the bindings are there and PyTorch (2.8 or newer) keeps graphs for editing."""
    return not driver.missing() and hasattr(torch.cuda.CUDAGraph, "raw_cuda_graph")


class Edits:
    """Tells why no graph of this process is edited any more; None while they are."""

    failed: EngineError | None = None


class Spoilt:
    """Holds the captures that could not be ended, as after a wait for the device by another thread.

    PyTorch's allocator of pinned memory goes on asking such a graph, so it is never freed. PyTorch refuses its pool to
    any further capture (seen with PyTorch 2.11).
    """

    def __init__(self) -> None:
        self.graphs, self.pools = list[torch.cuda.CUDAGraph](), set[Any]()


def end(graph: torch.cuda.CUDAGraph, pool: Any) -> None:
    """End a failed capture into a pool, on the current stream. Raises nothing: the caller reports the failure."""
    try:
        graph.capture_end()
    except RuntimeError as error:
        log.debug("a failed capture ended with: %s", error)
        spoilt = registry.one(Spoilt)
        spoilt.graphs.append(graph)
        spoilt.pools.add(pool)
        # PyTorch still believes that it goes on: it would free nothing that another stream has used, nor the pool, ...
        try:
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
            torch._C._cuda_releasePool(torch.cuda.current_device(), pool)
        except (AttributeError, RuntimeError) as other:
            # an older PyTorch; or the capture failed before it took the pool, or after it gave it back: the graph then
            # lets go of the pool itself, and to do so twice would end the process
            log.debug("the pool of a failed capture was left as it is: %s", other)
        # ... and refuse to draw random numbers until a capture has ended well
        spare, well = torch.zeros(1, device="cuda"), torch.cuda.CUDAGraph()
        well.capture_begin(capture_error_mode="thread_local")
        spare.zero_()
        well.capture_end()
