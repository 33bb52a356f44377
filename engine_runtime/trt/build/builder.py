"""Builds a plan from an exported graph with Polygraphy. Runs in a child process: a process can load one TensorRT
only."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import EngineBuildError
from ...files import check_regular
from ...machine import driver_cuda
from ..files.spec import BuildSpec
from ..library.preflight import check_library, clause

log = logging.getLogger(__name__)
Progress = Callable[[float], None]  # 0 to 1

_DTYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT64": "int64", "INT32": "int32"}
_DTYPES |= {"INT8": "int8", "UINT8": "uint8", "BOOL": "bool", "FP8": "float8_e4m3fn"}


@dataclass(frozen=True, eq=False)
class Built:
    """A plan in memory, and the sidecar's facts about its build.

    Attributes:
        plan: the library's own buffer.
        library: its full version, which is the bindings' too.
        target: as in `Sidecar.target`.
    """

    plan: memoryview
    library: str
    target: dict[str, Any]
    flags: dict[str, Any]
    io: tuple[dict[str, str], ...]
    seconds: float


def build(
    onnx: Path,
    record: Mapping[str, Any],
    spec: BuildSpec,
    cache: Path | None = None,
    progress: Progress = lambda _: None,
) -> Built:
    """Build one plan.

    Attention is built fused. No fused kernel takes float32, so there, and where the fused build fails, TensorRT may
    split attention into its parts.

    Args:
        onnx: the graph; its external data lies beside it.
        record: the export record.
        spec: what to build.
        cache: timing cache, read and written; not used by TensorRT-RTX, which times nothing at build.
        progress: called with the share done, 0 to 1.

    Raises:
        EngineBuildError: with TensorRT's own last errors.
    """
    if spec.flavor == "tensorrt_rtx":
        os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1"  # read once, at Polygraphy's first import
    if cache is not None and cache.exists():
        check_regular(cache)  # Polygraphy would block on a FIFO
    maker = _Maker(check_library(spec.flavor), onnx, record, spec, cache if spec.flavor == "tensorrt" else None)
    start = time.monotonic()
    try:
        made = maker.attempt(spec.kind == "decoder" and spec.precision == "fp32", progress)
    except _Failed as failure:
        if spec.kind != "decoder" or spec.precision == "fp32":
            raise failure.error() from failure
        log.warning("the build with fused attention failed (%s); again with attention taken apart", failure)
        try:
            made = maker.attempt(True, progress)
        except _Failed as again:
            raise again.error() from again
    plan, target, flags, io = made
    return Built(plan, str(maker.module.__version__), target, flags, io, time.monotonic() - start)


class _Failed(Exception):
    """A build that TensorRT refused, with its messages."""

    def error(self) -> EngineBuildError:
        return EngineBuildError(
            f"TensorRT could not build the engine: {clause(str(self))}",
            "the graph, the profile and the GPU must be ones that this release takes",
            "try a smaller profile or another release of the library, and report this message if it stays",
        )


@dataclass(frozen=True, eq=False)
class _Maker:
    """One build's inputs; `attempt` may run more than once."""

    module: Any
    onnx: Path
    record: Mapping[str, Any]
    spec: BuildSpec
    cache: Path | None

    def attempt(self, decomposable: bool, progress: Progress) -> tuple[memoryview, dict, dict, tuple]:
        """Build once; returns (plan, target, flags, io). Raises `_Failed`."""
        from polygraphy.backend import trt as polygraphy_trt
        from polygraphy.exception import PolygraphyException

        with _listening() as said:
            try:
                builder, network, parser = polygraphy_trt.NetworkFromOnnxPath(str(self.onnx), strongly_typed=True)()
                if decomposable:
                    network = _decomposable(polygraphy_trt, builder, network, parser)
                io = _io(network)
                config = self._config(polygraphy_trt, progress)(builder, network)
                target = _set_target(self.module, config)
                plan = polygraphy_trt.EngineBytesFromNetwork(
                    (builder, network), lambda *_: config, save_timing_cache=str(self.cache) if self.cache else None
                )()
                return memoryview(plan), target, self._flags(config, decomposable), io
            except PolygraphyException as error:
                raise _Failed("; ".join(dict.fromkeys(said[-4:])) or str(error)) from error

    def _config(self, polygraphy_trt: Any, progress: Progress) -> Any:
        profiles = []
        for profile in self.spec.profiles:
            made = polygraphy_trt.Profile()
            for name, (low, best, high) in profile.shapes(self.record["inputs"]).items():
                made.add(name, min=low, opt=best, max=high)
            profiles.append(made)
        known = self.cache is not None and self.cache.exists()
        return polygraphy_trt.CreateConfig(
            tf32=self.spec.tf32,
            profiles=profiles,
            refittable=self.spec.refittable,
            max_aux_streams=0,  # a single stream can be captured, and leaves room for the VAE beside it
            load_timing_cache=str(self.cache) if known else None,
            progress_monitor=_monitor(self.module, progress),
        )

    def _flags(self, config: Any, decomposable: bool) -> dict[str, Any]:
        flag = self.module.BuilderFlag
        return {
            "strongly_typed": True,
            "tf32": bool(config.get_flag(flag.TF32)),
            "refit": bool(config.get_flag(flag.REFIT)),
            "decomposable_attention": decomposable,
            "optimization_level": int(config.builder_optimization_level),
            "profiling_verbosity": config.profiling_verbosity.name,
            "max_aux_streams": int(config.max_aux_streams),
        }


def _decomposable(polygraphy_trt: Any, builder: Any, network: Any, parser: Any) -> Any:
    mark = getattr(polygraphy_trt, "SetDecomposableAttentions", None)
    if mark is None:
        raise EngineBuildError(
            "this Polygraphy cannot let TensorRT take attention apart",
            "a float32 decoder needs that",
            "run: python -m pip install --upgrade polygraphy",
        )
    return mark((builder, network, parser))()[1]


def _set_target(module: Any, config: Any) -> dict[str, Any]:
    """Set where the engine will run; for TensorRT-RTX every capability it knows from Ampere (8.0) on, as bfloat16
    needs."""
    if not hasattr(module, "ComputeCapability"):
        return this_gpu()
    numbers = {n: int(n[2:]) for n in module.ComputeCapability.__members__ if n[2:].isdigit()}
    names = sorted((name for name, number in numbers.items() if number >= 80), key=numbers.__getitem__)
    config.num_compute_capabilities = len(names)
    for i, name in enumerate(names):
        if config.set_compute_capability(getattr(module.ComputeCapability, name), i) is False:
            raise EngineBuildError(
                f"TensorRT-RTX refuses the target {name}", "its own list names it", "update tensorrt-rtx"
            )
    return {"compute_capabilities": [list(divmod(numbers[name], 10)) for name in names]}


def this_gpu() -> dict[str, Any]:
    """Return `Sidecar.target` for the current CUDA device. Raises `EngineBuildError` without one."""
    import torch

    from ...device.gpu import current

    if not torch.cuda.is_available():
        raise EngineBuildError(
            "this PyTorch sees no CUDA device", "TensorRT builds on the GPU it builds for", "use --flavor rtx"
        )
    driver, device = driver_cuda(), current()
    return {
        "sm": list(torch.cuda.get_device_capability(device)),
        "device": torch.cuda.get_device_name(device),
        "driver": ".".join(map(str, driver)) if driver else "",
        "cuda": str(torch.version.cuda or ""),
    }


def _io(network: Any) -> tuple[dict[str, str], ...]:
    found = [("input", network.get_input(i)) for i in range(network.num_inputs)]
    found += [("output", network.get_output(i)) for i in range(network.num_outputs)]
    return tuple({"name": t.name, "mode": mode, "dtype": _DTYPES[t.dtype.name]} for mode, t in found)


class _Listener(logging.Handler):
    """Collects the errors that TensorRT and Polygraphy log."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = re.sub(r"^\[.\] ", "", " ".join(record.getMessage().split()))
        if not text.startswith("Invalid Engine"):  # Polygraphy's own last line, which adds nothing
            self.said.append(text[:400])


@contextmanager
def _listening() -> Iterator[list[str]]:
    """Collect errors from Polygraphy's log, which includes TensorRT's, and yield their list."""
    from polygraphy.logger import G_LOGGER

    listener, logger = _Listener(), logging.getLogger("Polygraphy")
    G_LOGGER.use_python_logging_system = True
    G_LOGGER.module_severity = G_LOGGER.WARNING
    logger.addHandler(listener)
    try:
        yield listener.said
    finally:
        logger.removeHandler(listener)


class Fraction:
    """Turns the progress of nested phases into one number that never falls."""

    def __init__(self, tell: Progress) -> None:
        self.tell, self.best = tell, 0.0
        self.phases: dict[str, list[Any]] = {}  # name -> [parent, steps, done]

    def start(self, name: str, parent: str | None, steps: int) -> None:
        self.phases[name] = [parent, max(steps, 1), 0]

    def step(self, name: str, index: int) -> None:
        if name in self.phases:
            self.phases[name][2] = index + 1
            self._say()

    def finish(self, name: str) -> None:
        self.phases.pop(name, None)

    def _say(self) -> None:
        root = next((name for name, (parent, _, _) in self.phases.items() if parent not in self.phases), None)
        value = min(self._of(root), 1.0) if root is not None else 0.0
        if value > self.best:
            self.best = value
            self.tell(value)

    def _of(self, name: str) -> float:
        _, steps, done = self.phases[name]
        inner = [self._of(child) for child, (parent, _, _) in self.phases.items() if parent == name]
        return (done + min(max(inner, default=0.0), 1.0)) / steps


def _monitor(module: Any, tell: Progress) -> Any:
    fraction = Fraction(tell)

    class Monitor(module.IProgressMonitor):
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            fraction.start(name, parent, steps)

        def step_complete(self, name: str, step: int) -> bool:
            fraction.step(name, step)
            return True

        def phase_finish(self, name: str) -> None:
            fraction.finish(name)

    return Monitor()
