"""Layer times from the library's own profiler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ...engines.contract import Engine, Rows
from ...errors import EngineError
from ..library.flavor import Flavor
from .executor import Executor


class LayerTimes:
    """An `engines.contract.OwnProfiler`, attached to an executor's context until that is made anew.

    It plays in the engine's place: the context reports after each execute, for which the host waits.

    Args:
        engine: what it stands for.
        executor: of the engine; graphs that were captured without the profiler are dropped.
        flavor: its library.

    Attributes:
        times: name and milliseconds of every layer of every execute that was heard.
    """

    def __init__(self, engine: Engine, executor: Executor, flavor: Flavor) -> None:
        self._engine, self._executor = engine, executor
        self._hears, self.times = False, list[tuple[str, float]]()
        self._profiler = _profiler(flavor, self._add)  # the library holds no reference
        with executor.paused():
            context = executor.context
            context.profiler, context.enqueue_emits_profile = self._profiler, False

    @property
    def engine(self) -> Any:
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def __call__(self, rows: Rows) -> Tensor:
        velocity = self._engine(rows)
        self._executor.drain()
        if not self._executor.context.report_to_profiler():
            raise EngineError(
                "TensorRT reported no layer times", "its profiler hears of every execute", "profile without CUDA graphs"
            )
        return velocity

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Keep the times of the executes inside the block."""
        self._hears = True
        try:
            yield
        finally:
            self._hears = False

    def _add(self, name: str, ms: float) -> None:
        if self._hears:
            self.times.append((name, ms))


def _profiler(flavor: Flavor, add: Callable[[str, float], None]) -> Any:
    """Make an `IProfiler` that calls `add`."""

    class Profiler(flavor.module.IProfiler):  # type: ignore[name-defined]  # found at run time
        def __init__(self) -> None:
            flavor.module.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            add(layer_name, ms)

    return Profiler()
