"""The one TensorRT library of this process: loads plans, shares open engines, and frees memory when it is short."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from ...device.gpu import numbered, on
from ...errors import EngineError
from ...registry import registry
from ..files.sidecar import Sidecar
from ..library.flavor import Flavor, probe
from ..library.messages import Errors, checked, logger, recorder
from .context import check_io, make_context
from .engine import TrtEngine
from .executor import Executor
from .room import MakeRoom, Room
from .vae import TrtVae

if TYPE_CHECKING:
    import tensorrt as trt

Opened = TrtEngine | TrtVae
E = TypeVar("E", TrtEngine, TrtVae)
Switch = Callable[[TrtEngine, Callable[[bool], None]], None]  # calls back with whether the engine plays


@dataclass
class _Held:
    engine: Opened
    users: int


class TensorRT:
    """Loads plans. Thread-safe. Use `tensorrt()`: a second object would load a second library.

    A plan that is loaded twice is one engine with one context; it is closed when its last user releases it.

    Args:
        flavor: from `probe`.

    Attributes:
        runtime: the library's own; it runs no host code of a plan.
        open_engines: those that somebody uses, by library, hash of the plan, device and sole user.
    """

    def __init__(self, flavor: Flavor) -> None:
        self.flavor = flavor
        self.errors = Errors()
        self.opening = threading.RLock()  # one plan at a time; held for seconds, so no tick takes it
        self._lock = threading.RLock()
        self.open_engines: dict[tuple[str, str, str, str], _Held] = {}
        self._logger, self._recorder = logger(flavor), recorder(flavor, self.errors)  # the library holds no reference
        self.runtime: trt.Runtime = checked("Runtime", flavor.module.Runtime(self._logger), self.errors)
        self.runtime.error_recorder = self._recorder
        self.runtime.engine_host_code_allowed = False

    def header_problem(self, head: bytes) -> str | None:
        """Return what is wrong with the first bytes of a plan, or None; only TensorRT-RTX can tell before opening
        it."""
        if not self.flavor.validity:
            return None
        with self._lock:
            runtime: Any = self.runtime  # only TensorRT-RTX has these members
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
        return self._share(TrtEngine, data, sidecar, device, make_room, graphs, alone)

    def _share(
        self,
        kind: type[E],
        data: bytes,
        sidecar: Sidecar,
        device: torch.device,
        make_room: MakeRoom | None,
        graphs: bool,
        alone: str = "",
    ) -> E:
        """Take a share of an engine if it is open, else open it."""
        device = numbered(device)
        key = (self.flavor.name, sidecar.plan_sha256, str(device), alone)
        with self.opening:
            with self._lock:
                held = self.open_engines.get(key)
                if held is not None and isinstance(held.engine, kind):
                    held.users += 1
                    return held.engine
            engine = kind(self._open(data, sidecar, device, make_room, graphs), self.flavor, sidecar)
            with self._lock:
                self.open_engines[key] = _Held(engine, 1)
            return engine

    def load_vae(
        self, data: bytes, sidecar: Sidecar, device: torch.device, make_room: MakeRoom | None = None
    ) -> TrtVae:
        """Open the plan of one half of a VAE, or share it if it is open; arguments and errors as in `load`.

        No CUDA graph is captured, because its input has another address each time.
        """
        return self._share(TrtVae, data, sidecar, device, make_room, False)

    def renew(self, engine: Opened, data: bytes, make_room: MakeRoom | None = None) -> None:
        """Reopen an engine that was closed while callers share it; arguments and errors as in `load`.

        Args:
            data: of the same plan.
        """
        with self.opening:
            if engine.executor.engine is None:
                engine.executor = self._open(
                    data, engine.sidecar, engine.device, make_room, isinstance(engine, TrtEngine)
                )

    def release(self, engine: Opened) -> None:
        """Give back one share; the last one closes the engine once nothing runs. The engine may be closed already."""
        with self._lock:
            for key, held in list(self.open_engines.items()):
                if held.engine is engine:
                    held.users -= 1
                    if held.users == 0:
                        del self.open_engines[key]
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
        room = Room(self.errors, device, make_room)
        caches: list[Any] = []

        def make(engine: trt.ICudaEngine) -> trt.IExecutionContext:
            wanted = engine.device_memory_size_v2
            attempt = partial(make_context, engine, self.flavor, self.errors, graphs, caches)
            return room.found("create_execution_context", wanted, attempt)

        with on(device):
            engine: trt.ICudaEngine = room.found(
                "deserialize_cuda_engine", len(data), partial(self.runtime.deserialize_cuda_engine, data)
            )
            check_io(engine, sidecar)
            return Executor(engine, self.flavor, self.errors, device, make, graphs)


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
