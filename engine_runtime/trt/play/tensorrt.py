"""The one TensorRT library of this process: loads plans, shares open engines, and frees memory when it is short."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from ...errors import EngineError, MemoryShortage
from ...registry import registry
from ..files.sidecar import Sidecar
from ..library.flavor import Flavor, probe, to_torch
from ..library.messages import Errors, checked, logger, recorder
from .engine import TrtEngine
from .executor import Executor
from .vae import TrtVae

if TYPE_CHECKING:
    import tensorrt as trt

T = TypeVar("T")
MakeRoom = Callable[[int], None]  # frees that many bytes on the device
Switch = Callable[[TrtEngine, Callable[[bool], None]], None]  # calls back with whether the engine plays
MB = 1 << 20


@dataclass
class _Held:
    engine: TrtEngine
    users: int


class TensorRT:
    """Loads plans. Thread-safe. Use `tensorrt()`: a second object would load a second library.

    A plan that is loaded twice is one engine with one context; it is closed when its last user releases it.

    Args:
        flavor: from `probe`.
    """

    def __init__(self, flavor: Flavor) -> None:
        self.flavor = flavor
        self.errors = Errors()
        self.opening = threading.RLock()  # one plan at a time; held for seconds, so no tick takes it
        self._lock = threading.RLock()
        self._engines: dict[tuple[str, str, str, str], _Held] = {}
        self._logger, self._recorder = logger(flavor), recorder(flavor, self.errors)  # the library holds no reference
        self._runtime: trt.Runtime = checked("Runtime", flavor.module.Runtime(self._logger), self.errors)
        self._runtime.error_recorder = self._recorder
        self._runtime.engine_host_code_allowed = False

    def header_problem(self, head: bytes) -> str | None:
        """Return what is wrong with the first bytes of a plan, or None; only TensorRT-RTX can tell before opening
        it."""
        if not self.flavor.validity:
            return None
        with self._lock:
            runtime: Any = self._runtime  # only TensorRT-RTX has these members
            validity, why = runtime.get_engine_validity(head[: runtime.engine_header_size])
            said = self.errors.text()
            self.errors.clear()
        if validity != self.flavor.module.EngineValidity.INVALID:
            return None
        kinds = self.flavor.module.EngineInvalidityDiagnostics.__members__
        names = [name.lower().replace("_", " ") for name, one in kinds.items() if int(one) & int(why)]
        return "; ".join(part for part in (", ".join(names), said) if part) or "invalid"

    def load(
        self,
        data: bytes,
        sidecar: Sidecar,
        device: torch.device,
        make_room: MakeRoom | None = None,
        graphs: bool = True,
        alone: str = "",
    ) -> TrtEngine:
        """Open a plan, or share the engine if it is open.

        Args:
            data: from `plan.read_plan`: the bytes that were hashed.
            sidecar: from there too.
            device: a CUDA device.
            make_room: called once to free memory on the device when there is none; for example ComfyUI's `free_memory`.
            graphs: whether CUDA graphs may be captured.
            alone: key of the one caller that may share it, because its weights will change; empty shares it with all.

        Raises:
            EngineError: when the library refuses the plan, or when the plan is not what its sidecar says.
            MemoryShortage: when there is still no room, with how much is missing.
        """
        device = torch.device("cuda", torch.cuda.current_device()) if device == torch.device("cuda") else device
        key = (self.flavor.name, sidecar.plan_sha256, str(device), alone)
        with self.opening:
            found = self._shared(key)
            if found is not None:
                return found
            engine = TrtEngine(self._open(data, sidecar, device, make_room, graphs), self.flavor, sidecar)
            with self._lock:
                self._engines[key] = _Held(engine, 1)
            return engine

    def _shared(self, key: tuple[str, str, str, str]) -> TrtEngine | None:
        """Take a share of an engine if it is open, else return None."""
        with self._lock:
            held = self._engines.get(key)
            if held is None:
                return None
            held.users += 1
            return held.engine

    def load_vae(
        self, data: bytes, sidecar: Sidecar, device: torch.device, make_room: MakeRoom | None = None
    ) -> TrtVae:
        """Open the plan of one half of a VAE, for this caller alone; arguments and errors as in `load`.

        No CUDA graph is captured, because its input has another address each time.
        """
        with self.opening:
            return TrtVae(self._open(data, sidecar, device, make_room, False), self.flavor, sidecar)

    def renew(self, engine: TrtEngine, data: bytes, make_room: MakeRoom | None = None) -> None:
        """Reopen an engine that was closed while callers share it; arguments and errors as in `load`.

        Args:
            data: of the same plan.
        """
        with self.opening:
            if engine.executor.engine is None:
                engine.executor = self._open(data, engine.sidecar, engine.device, make_room, True)

    def release(self, engine: TrtEngine) -> None:
        """Give back one share; the last one closes the engine once nothing runs. The engine may be closed already."""
        with self._lock:
            for key, held in list(self._engines.items()):
                if held.engine is engine:
                    held.users -= 1
                    if held.users == 0:
                        del self._engines[key]
                        engine.close()

    def swap(self, old: TrtEngine, load: Callable[[], TrtEngine], switch: Switch) -> TrtEngine:
        """Load a new engine beside the old, let a stage switch between two ticks, then free the one that is not used.

        On a failure before the switch the old engine stays as it was, and the error is raised.

        Args:
            old: its share is released at the end.
            load: returns the new one, ready and checked.
            switch: `Stage.swap`.
        """
        new = load()
        try:
            new.ready()
            switch(new, lambda plays: self.release(old if plays else new))
        except BaseException:
            self.release(new)
            raise
        return new

    def _open(
        self, data: bytes, sidecar: Sidecar, device: torch.device, make_room: MakeRoom | None, graphs: bool
    ) -> Executor:
        if sidecar.flavor != self.flavor.name:
            raise EngineError(
                f"the engine is of {sidecar.flavor}",
                f"this process runs {self.flavor.title}",
                "restart, or use another",
            )
        room = _Room(self.errors, device, make_room)
        caches: list[Any] = []

        def make(engine: trt.ICudaEngine) -> trt.IExecutionContext:
            wanted = engine.device_memory_size_v2
            attempt = partial(_context, engine, self.flavor, self.errors, graphs, caches)
            return room.found("create_execution_context", wanted, attempt)

        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            engine: trt.ICudaEngine = room.found(
                "deserialize_cuda_engine", len(data), partial(self._runtime.deserialize_cuda_engine, data)
            )
            check_io(engine, sidecar)
            return Executor(engine, self.flavor, self.errors, device, make, graphs)


class _Room:
    """Frees memory on the device once where an allocation fails."""

    def __init__(self, errors: Errors, device: torch.device, make_room: MakeRoom | None) -> None:
        self._errors, self._device, self._make_room = errors, device, make_room

    def found(self, what: str, wanted: int, attempt: Callable[[], T | None]) -> T:
        """Return what `attempt` makes; it returns None on failure.

        Raises:
            MemoryShortage: when there is no room the second time either.
            EngineError: when it failed for another reason.
        """
        self._errors.clear()
        made = attempt()
        if made is None and self._errors.shortage:
            self._ask(wanted)
            self._errors.clear()
            made = attempt()
        if made is None and self._errors.shortage:
            raise self._shortage(what, wanted)
        return checked(what, made, self._errors)

    def _ask(self, wanted: int) -> None:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()  # TensorRT cannot use memory that torch caches
        if self._make_room is not None:
            self._make_room(wanted)

    def _shortage(self, what: str, wanted: int) -> MemoryShortage:
        free, text = free_bytes(self._device), self._errors.text()
        self._errors.clear()
        missing = f", {(wanted - free) / MB:.0f} MB are missing" if free is not None and free < wanted else ""
        known = f" and {free / MB:.0f} MB are free{missing}" if free is not None else ""
        part = "weights" if what == "deserialize_cuda_engine" else "workspace"
        return MemoryShortage(
            f"the engine's {part} needs {wanted / MB:.0f} MB on {self._device}{known} ({text})",
            "it must fit beside what is loaded",
            "unload other models, or build an engine with fewer rows or seconds at most",
        )


def free_bytes(device: torch.device) -> int | None:
    """Return the free bytes of a CUDA device; None for another device."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def _context(
    engine: trt.ICudaEngine, flavor: Flavor, errors: Errors, graphs: bool, caches: list[Any]
) -> trt.IExecutionContext | None:
    """Make an execution context whose workspace is allocated once, for the largest profile."""
    module = flavor.module
    config: trt.IRuntimeConfig = checked("create_runtime_config", engine.create_runtime_config(), errors)
    config.set_execution_context_allocation_strategy(module.ExecutionContextAllocationStrategy.STATIC)
    _tune(config, flavor, errors, graphs, caches)
    context: trt.IExecutionContext | None = engine.create_execution_context(config)
    if context is not None:
        context.nvtx_verbosity = module.ProfilingVerbosity.NONE  # detailed ranges cost time at every execute
    return context


def _tune(config: Any, flavor: Flavor, errors: Errors, graphs: bool, caches: list[Any]) -> None:
    """Set the options that only TensorRT-RTX has.

    Kernels are compiled when a shape first occurs, not replaced while it plays. They are cached for the life of the
    process only: a stored cache would be one more piece of native code to trust.
    """
    module = flavor.module
    if flavor.own_graphs:
        off, on = module.CudaGraphStrategy.DISABLED, module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        config.cuda_graph_strategy = on if graphs else off
    if flavor.specialization:
        eager = module.DynamicShapesKernelSpecializationStrategy.EAGER
        config.dynamic_shapes_kernel_specialization_strategy = eager
    if flavor.runtime_cache:
        if not caches:
            caches.append(checked("create_runtime_cache", config.create_runtime_cache(), errors))
        checked("set_runtime_cache", config.set_runtime_cache(caches[0]), errors)


def check_io(engine: trt.ICudaEngine, sidecar: Sidecar) -> None:
    """Raise `EngineError` where the opened engine differs from its sidecar: I/O, dtypes, memory locations, profiles."""
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    said = {one["name"]: (one["mode"], one["dtype"]) for one in sidecar.io}
    found = {
        name: (
            engine.get_tensor_mode(name).name.lower(),
            str(to_torch(engine.get_tensor_dtype(name))).removeprefix("torch."),
        )
        for name in names
    }
    if found != said:
        odd = sorted(name for name in found.keys() | said.keys() if found.get(name) != said.get(name))
        raise _other(f"its tensors {', '.join(odd)} are not the sidecar's", sidecar)
    if host := [name for name in names if engine.get_tensor_location(name).name != "DEVICE"]:
        raise _other(f"{', '.join(host)} must lie in the host's memory", sidecar)
    if engine.num_optimization_profiles != len(sidecar.profiles):
        raise _other(f"it has {engine.num_optimization_profiles} profiles", sidecar)
    for i, profile in enumerate(sidecar.profiles):
        for name, shapes in profile.shapes(sidecar.export["inputs"]).items():
            have = tuple(tuple(shape) for shape in engine.get_tensor_profile_shape(name, i))
            if have != shapes:
                raise _other(f"profile {i} takes {name} as {have}, not {shapes}", sidecar)


def _other(what: str, sidecar: Sidecar) -> EngineError:
    return EngineError(
        f"the opened engine {sidecar.spec.name} is not what its sidecar says: {what}",
        "both must come from one build",
        f"run {sidecar.command()}",
    )


class Loaded:
    """The library that this process has loaded, once there is one."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.library: TensorRT | None = None


def tensorrt(name: str) -> TensorRT:
    """Return the library of this process; the first call imports it and decides on the flavor.

    Raises:
        EngineError: when the library cannot be used (see `probe`), or when the other flavor is loaded already.
    """
    loaded = registry.one(Loaded)
    with loaded.lock:
        library = loaded.library = loaded.library or TensorRT(probe(name))
    if library.flavor.name != name:
        raise EngineError(
            f"this process runs {library.flavor.title}",
            f"a process holds one TensorRT, and {name} would be the second",
            f"restart, or use an engine of {library.flavor.name}",
        )
    return library
