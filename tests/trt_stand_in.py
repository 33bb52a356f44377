"""A TensorRT made of torch: this module stands where `tensorrt` would, with the part of it that the runtime uses.

Like the real one it returns False or None where it fails and tells the error recorder why, keeps shapes and addresses
until they are set again, holds profile bounds and the alignment of addresses, and reads and writes raw memory on the
very stream it is given. What it computes is an eager decoder or half of a VAE. On a GPU every execute poisons its
output first and may be delayed before it reads and before it writes. So it shows order and binding, not TensorRT's
numerics or speed.

Only names and parameters of the real bindings are public in its classes; a test compares them.
"""

from __future__ import annotations

import enum
import sys
import types
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from ostinato.engine_runtime.engines.eager import EagerEngine
from ostinato.engine_runtime.engines.profiles import Profile
from ostinato.engine_runtime.registry import registry
from ostinato.engine_runtime.trt.files.sidecar import Sidecar
from ostinato.engine_runtime.trt.library.flavor import DTYPES, Flavor
from ostinato.engine_runtime.trt.play.engine import TrtEngine
from ostinato.engine_runtime.trt.play.tensorrt import Loaded, TensorRT
from ostinato.engine_runtime.trt.play.vae import TrtVae
from torch import Tensor

from .helpers import spin
from .trt_plan import LIBRARY, PROFILE, VaeHalf, describe, describe_vae, memory, rows_of

__version__ = LIBRARY

DataType = enum.Enum("DataType", "FLOAT HALF INT8 INT32 BOOL UINT8 FP8 BF16 INT64 INT4 FP4 E8M0")
TensorIOMode = enum.Enum("TensorIOMode", "NONE INPUT OUTPUT")
TensorLocation = enum.Enum("TensorLocation", "DEVICE HOST")
ProfilingVerbosity = enum.Enum("ProfilingVerbosity", "LAYER_NAMES_ONLY NONE DETAILED")
ExecutionContextAllocationStrategy = enum.Enum(
    "ExecutionContextAllocationStrategy", "STATIC ON_PROFILE_CHANGE USER_MANAGED"
)
CudaGraphStrategy = enum.Enum("CudaGraphStrategy", "DISABLED WHOLE_GRAPH_CAPTURE")
DynamicShapesKernelSpecializationStrategy = enum.Enum("DynamicShapesKernelSpecializationStrategy", "LAZY EAGER NONE")
ErrorCodeTRT = enum.Enum(
    "ErrorCodeTRT", "SUCCESS UNSPECIFIED_ERROR INVALID_ARGUMENT FAILED_EXECUTION FAILED_ALLOCATION"
)


class ILogger:
    Severity = enum.Enum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE")

    def __init__(self) -> None: ...


class IErrorRecorder:
    def __init__(self) -> None: ...


@dataclass(eq=False)
class Plan:
    """What the bytes of a stand-in plan hold, and what a test sees of it.

    Attributes:
        decoder: computes the output.
        data: the bytes.
        faults: how often each call still fails, by the call's name.
        before, after: cycles that an execute waits before it reads and before it writes.
        bend: what becomes of the output.
        calls: how often each method was called.
        executes: profile, shapes and addresses of each execute so far.
        torn: contexts that were destroyed while they ran.
        workspace: bytes of a context.
    """

    decoder: EagerEngine | VaeHalf
    sidecar: Sidecar
    data: bytes
    faults: Counter[str] = field(default_factory=Counter)
    before: int = 0
    after: int = 0
    bend: Callable[[Tensor], Tensor] = lambda v: v
    calls: Counter[str] = field(default_factory=Counter)
    executes: list[dict[str, Any]] = field(default_factory=list)
    configs: list[Any] = field(default_factory=list)
    torn: int = 0
    workspace: int = 3 << 20
    recorder: Any = None

    @property
    def dtypes(self) -> dict[str, torch.dtype]:
        return {one["name"]: getattr(torch, one["dtype"]) for one in self.sidecar.io}

    @property
    def output(self) -> str:
        return self.sidecar.io[-1]["name"]

    def shape(self, shapes: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
        """Of the output."""
        if isinstance(self.decoder, VaeHalf):
            return self.decoder.shape(shapes)
        return shapes.get("hidden_states", (-1, -1, 64))

    def compute(self, bound: dict[str, Tensor]) -> Tensor:
        if isinstance(self.decoder, VaeHalf):
            return self.bend(self.decoder(bound))
        return self.bend(self.decoder(rows_of(bound, self.decoder.targets)))

    def fails(self, call: str, why: str = "", code: ErrorCodeTRT = ErrorCodeTRT.FAILED_EXECUTION) -> bool:
        """Count a call; whether it is one that shall fail, which the recorder is told."""
        self.calls[call] += 1
        if self.faults[call] <= 0:
            return False
        self.faults[call] -= 1
        self.say(code, why or f"the stand-in's {call} was told to fail")
        return True

    def say(self, code: ErrorCodeTRT, text: str) -> bool:
        """Tell the recorder; False, which is what a call that fails returns."""
        if self.recorder is not None:
            self.recorder.report_error(code, text)
        return False


PLANS: dict[bytes, Plan] = {}
NO_ROOM = (
    "[executionContext.cpp::initializeExecutionContext] Error Code 2: OutOfMemory (Requested size was 3145728 bytes.)"
)


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger
        self.error_recorder: Any = None
        self.engine_host_code_allowed = True  # the runtime must switch it off

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        self._logger.log(ILogger.Severity.INFO, f"Loaded engine size: {len(serialized_engine)}")
        plan = PLANS.get(bytes(serialized_engine))
        if plan is None or self.engine_host_code_allowed:
            why = "Serialization assertion header.magicTag == kEXPECTED_MAGIC_TAG failed."
            self.error_recorder.report_error(ErrorCodeTRT.UNSPECIFIED_ERROR, why)
            return None
        plan.recorder = self.error_recorder
        if plan.fails("deserialize_no_room", NO_ROOM, ErrorCodeTRT.FAILED_ALLOCATION):
            return None
        return None if plan.fails("deserialize_cuda_engine") else ICudaEngine(plan)


class IRuntimeConfig:
    def __init__(self) -> None:
        self.strategy: Any = None

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.strategy = strategy


class RtxRuntimeConfig(IRuntimeConfig):
    """TensorRT-RTX's has more."""

    cuda_graph_strategy = CudaGraphStrategy.DISABLED
    dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY
    cache: Any

    def create_runtime_cache(self) -> Any:
        return object()

    def set_runtime_cache(self, cache: Any) -> bool:
        self.cache = cache
        return True


class ICudaEngine:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.names = list(plan.dtypes)

    num_io_tensors = property(lambda self: len(self.names))
    num_optimization_profiles = property(lambda self: len(self._plan.sidecar.profiles))
    device_memory_size_v2 = property(lambda self: self._plan.workspace)
    refittable = property(lambda self: False)

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.OUTPUT if name == self._plan.output else TensorIOMode.INPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return next(DataType[one] for one, dtype in DTYPES.items() if dtype is self._plan.dtypes[name])

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.DEVICE

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        record = self._plan.sidecar.export
        dims = next(one["dims"] for one in (*record["inputs"], *record["outputs"]) if one["name"] == name)
        return tuple(d if isinstance(d, int) else -1 for d in dims)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        return list(self._plan.sidecar.profiles[profile_index].shapes(self._plan.sidecar.export["inputs"])[name])

    def create_runtime_config(self) -> IRuntimeConfig:
        self._plan.configs.append(
            RtxRuntimeConfig() if self._plan.sidecar.flavor == "tensorrt_rtx" else IRuntimeConfig()
        )
        return self._plan.configs[-1]

    def create_execution_context(self, runtime_config: IRuntimeConfig) -> IExecutionContext | None:
        assert runtime_config.strategy is ExecutionContextAllocationStrategy.STATIC
        if self._plan.fails("create_execution_context"):
            return None
        no_room = self._plan.fails("context_no_room", NO_ROOM, ErrorCodeTRT.FAILED_ALLOCATION)
        return None if no_room else IExecutionContext(self, self._plan)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine, plan: Plan) -> None:
        self._engine, self._plan = engine, plan
        self.active_optimization_profile = 0
        self.nvtx_verbosity = ProfilingVerbosity.DETAILED
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._views: dict[Any, Tensor] = {}
        self._done: torch.cuda.Event | None = None

    def __del__(self) -> None:
        if self._done is None or (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()):
            return  # collected while something else is captured, when no event may be asked
        if not self._done.query():
            self._plan.torn += 1

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        if self._plan.fails("set_optimization_profile_async"):
            return False
        self.active_optimization_profile, self._shapes = profile_index, {}
        return True

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        if self._plan.fails("set_input_shape"):
            return False
        low, _, high = self._engine.get_tensor_profile_shape(name, self.active_optimization_profile)
        if len(shape) != len(low) or not all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True)):
            return self._plan.say(
                ErrorCodeTRT.INVALID_ARGUMENT, f"{name} {shape} is outside of profile {low} to {high}"
            )
        self._shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name != self._plan.output:
            return self._shapes.get(name, self._engine.get_tensor_shape(name))
        return self._plan.shape(self._shapes)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if self._plan.fails("set_tensor_address"):
            return False
        if memory % 256:
            return self._plan.say(ErrorCodeTRT.INVALID_ARGUMENT, f"the address of {name} is not aligned to 256 bytes")
        self._addresses[name] = memory
        return True

    def infer_shapes(self) -> list[str]:
        if self._plan.fails("infer_shapes"):
            return ["hidden_states"]
        return self._missing()

    def _missing(self) -> list[str]:
        return [name for name in self._engine.names if name != self._plan.output and name not in self._shapes]

    def execute_async_v3(self, stream_handle: int) -> bool:
        if self._plan.fails("execute_async_v3"):
            return False
        if self._missing() or set(self._engine.names) - self._addresses.keys():
            return self._plan.say(ErrorCodeTRT.INVALID_ARGUMENT, "shapes or addresses are missing")
        self._plan.executes.append(
            {"profile": self.active_optimization_profile, "shapes": {**self._shapes}, "addresses": {**self._addresses}}
        )
        device = self._plan.decoder.device
        if device.type != "cuda":
            assert stream_handle == 0
            self._compute(device)
            return True
        assert stream_handle != 0, "an execute on the default stream"
        assert torch.cuda.current_device() == device.index, "an execute while another GPU is the current one"
        with torch.cuda.stream(torch.cuda.ExternalStream(stream_handle, device=device)):
            self._compute(device)
            if not torch.cuda.is_current_stream_capturing():
                self._done = torch.cuda.Event()
                self._done.record()
        return True

    def _view(self, *key: Any) -> Tensor:
        """Made in the first run, which is not captured; it owns nothing."""
        if key not in self._views:
            self._views[key] = memory(*key)
        return self._views[key]

    def _compute(self, device: torch.device) -> None:
        plan = self._plan
        shapes = {**self._shapes, plan.output: plan.shape(self._shapes)}
        bound = {name: self._view(self._addresses[name], shapes[name], plan.dtypes[name], device) for name in shapes}
        output = bound.pop(plan.output).fill_(torch.nan)
        spin(plan.before)
        computed = plan.compute(bound)
        spin(plan.after)
        output.copy_(computed)


@contextmanager
def loaded(library: TensorRT | None) -> Iterator[Loaded]:
    """Have this library in the process, or none yet; yields what holds it."""
    with registry.fresh(Loaded):
        held = registry.one(Loaded)
        held.library = library
        yield held


def make(
    decoder: EagerEngine, *profiles: Profile, lora: bool = False, rtx: bool = False, label: str = "stand-in"
) -> Plan:
    """A plan whose engine computes what an eager engine does."""
    data, sidecar = describe(decoder, profiles or (PROFILE,), lora, rtx, label)
    PLANS[data] = Plan(decoder, sidecar, data)
    return PLANS[data]


def make_vae(half: VaeHalf, *profiles: Profile, rtx: bool = False, label: str = "stand-in") -> Plan:
    """A plan whose engine computes what a half of the model does."""
    data, sidecar = describe_vae(half, profiles, rtx, label)
    PLANS[data] = Plan(half, sidecar, data)
    return PLANS[data]


def library(rtx: bool = False) -> TensorRT:
    """A runtime on this module; each has its own cache of engines."""
    module: Any = sys.modules[__name__]
    if rtx:
        module = types.SimpleNamespace(**{**vars(module), "IRuntimeConfig": RtxRuntimeConfig})
    return TensorRT(Flavor.of("tensorrt_rtx" if rtx else "tensorrt", module))


def load_vae(plan: Plan) -> TrtVae:
    """The engine of a VAE's plan, in a runtime of its own."""
    return library(plan.sidecar.flavor == "tensorrt_rtx").load_vae(plan.data, plan.sidecar, plan.decoder.device)


def load(plan: Plan, graphs: bool = True, **more: Any) -> TrtEngine:
    """The engine of a plan, in a runtime of its own."""
    return library(plan.sidecar.flavor == "tensorrt_rtx").load(
        plan.data, plan.sidecar, plan.decoder.device, graphs=graphs, **more
    )
