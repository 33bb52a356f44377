"""One execution context: sets profile, shapes and addresses when they change, and checks every return value.

Only `drain`, `paused`, `shed` and `close` wait for the device. Everything runs on torch's current stream, which must
not be the default one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...device.capture import Capture, OwnPools
from ...device.gpu import capturing, on
from ...errors import EngineError
from ..library.flavor import Flavor, to_torch
from ..library.messages import Errors, checked, failed
from .keeper import Keeper

if TYPE_CHECKING:
    import tensorrt as trt

ALIGNMENT = 256  # bytes, required of every address by `set_tensor_address` (NvInferRuntime.h)


def aligned(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Allocate `[count]` uninitialised at an aligned address. CUDA's allocator aligns by itself, the CPU's does not."""
    raw = torch.empty(count * dtype.itemsize + ALIGNMENT, dtype=torch.uint8, device=device)
    start = -raw.data_ptr() % ALIGNMENT
    return raw[start : start + count * dtype.itemsize].view(dtype)


class Executor:
    """Runs a deserialised engine.

    Inputs are bound where they lie. One with an unaligned address is copied first, on the same stream, into a buffer
    that stays: of the resident rows these are parts of `timestep` (4 bytes a row) and of `encoder_attention_mask` (L
    bytes a row); rows of the other inputs are multiples of 256 bytes at even T and the model's own width. Outputs lie
    in buffers that the next run overwrites.

    Args:
        engine: the `ICudaEngine`.
        flavor: its library.
        errors: those that the library reports.
        device: where it runs; the CPU only for a stand-in.
        make: creates the execution context; called again after `shed`.
        graphs: whether CUDA graphs may be captured.

    Attributes:
        keeper: of the memory that running executes use.
        buffers: flat, by name, of the largest size so far: outputs, and copies of inputs.
        capture: of executes with the same profile, shapes and addresses; the caller's own capture includes them as
            they are. A context must have run once with its shapes, so it is the second execute that is captured.
    """

    def __init__(
        self,
        engine: trt.ICudaEngine,
        flavor: Flavor,
        errors: Errors,
        device: torch.device,
        make: Callable[[trt.ICudaEngine], trt.IExecutionContext],
        graphs: bool = True,
    ) -> None:
        self.engine: trt.ICudaEngine | None = engine
        self.device = device
        self.lock = threading.RLock()
        self.dtypes: dict[str, torch.dtype] = {}
        self.outputs: list[str] = []
        for i in range(engine.num_io_tensors):
            name = engine.get_tensor_name(i)
            self.dtypes[name] = to_torch(engine.get_tensor_dtype(name))
            if engine.get_tensor_mode(name) == flavor.module.TensorIOMode.OUTPUT:
                self.outputs.append(name)
        self._errors, self._make = errors, make
        self.keeper = Keeper(device)
        self.capture = Capture(
            device,
            graphs and not flavor.own_graphs,
            pool=OwnPools(),  # the library's workspace is its own
            name="executes of the engine",
            release=self.keeper.later,
        )
        self._context: trt.IExecutionContext | None = None
        self.buffers: dict[str, Tensor] = {}
        self._forget()

    def _forget(self) -> None:
        """Forget what is set on the context, so that the next run sets all of it."""
        self._profile: int | None = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._results: dict[str, tuple[int, ...]] = {}  # shapes of the outputs
        self._addresses: dict[str, int] = {}
        self.capture.clear()
        self.keeper.retire()

    @property
    def inputs(self) -> list[str]:
        return [name for name in self.dtypes if name not in self.outputs]

    @property
    def context(self) -> trt.IExecutionContext:
        """Return the context; it is made at first use, and again after `shed`.

        Raises:
            EngineError: after `close`.
        """
        with self.lock:
            if self.engine is None:
                raise EngineError("the engine is closed", "only an open one plays", "load it again")
            if self._context is None:
                with on(self.device):
                    self._context = self._make(self.engine)
            return self._context

    def run(self, inputs: Mapping[str, Tensor], profile: int) -> dict[str, Tensor]:
        """Enqueue one execute on the current stream.

        Args:
            inputs: every input of the engine, contiguous, in its dtype, on its device.
            profile: index of one that covers their shapes.

        Returns:
            The outputs by name, in buffers that the next run overwrites.

        Raises:
            EngineError: for inputs of another dtype, device or layout, the default stream, or a call that failed. The
                next run sets everything again.
        """
        # the buffers outlive the caller's inference mode; the library runs on the current device
        with self.lock, on(self.device), torch.inference_mode(False), torch.no_grad():
            context, stream = self.context, self._stream()
            self._check(inputs)
            self.keeper.enter()
            try:
                self._fit(context, inputs, profile, stream)
                outputs = {name: self._buffer(name, shape) for name, shape in self._results.items()}
                self._bind(context, inputs, outputs)
                self._launch(context, stream)
            except BaseException:
                self.keeper.mark()
                self._forget()
                raise
            self.keeper.mark()
            return outputs

    def _stream(self) -> int:
        if self.device.type != "cuda":
            return 0
        stream = torch.cuda.current_stream(self.device).cuda_stream
        if stream == 0:
            raise EngineError(
                "the engine was called on CUDA's default stream",
                "TensorRT would wait for the whole device there",
                "call it inside the lane's `use()`",
            )
        return stream

    def _check(self, inputs: Mapping[str, Tensor]) -> None:
        """Raise `EngineError` for an input that would need a cast or a copy."""
        for name in self.inputs:
            tensor = inputs.get(name)
            if tensor is None:
                raise EngineError(f"the input {name} is missing", f"needed are {', '.join(self.inputs)}", "give it")
            if tensor.dtype != self.dtypes[name] or tensor.device != self.device or not tensor.is_contiguous():
                raise EngineError(
                    f"the input {name} is {tensor.dtype} on {tensor.device}, strides {tensor.stride()}",
                    f"it must be {self.dtypes[name]} on {self.device}, contiguous",
                    "make the rows with the engine's own `rows`",
                )

    def _fit(self, context: trt.IExecutionContext, inputs: Mapping[str, Tensor], profile: int, stream: int) -> None:
        """Set the profile and the input shapes where they change."""
        shapes = {name: tuple(inputs[name].shape) for name in self.inputs}
        if profile == self._profile and shapes == self._shapes:
            return
        self.capture.clear()
        if profile != self._profile:  # setting it also clears the shapes
            done = context.set_optimization_profile_async(profile, stream)
            checked(f"set_optimization_profile_async({profile})", done, self._errors)
            self._profile, self._shapes, self._addresses = profile, {}, {}
        for name, shape in shapes.items():
            if self._shapes.get(name) != shape:
                done = context.set_input_shape(name, shape)
                checked(f"set_input_shape({name}, {list(shape)})", done, self._errors)
        if missing := self._call("infer_shapes", context.infer_shapes):
            raise failed("infer_shapes", self._errors, f"not known are {', '.join(missing)}")
        self._results = {name: tuple(context.get_tensor_shape(name)) for name in self.outputs}
        for name, shape in self._results.items():
            if min(shape, default=0) < 1:
                raise failed("get_tensor_shape", self._errors, f"{name} has shape {list(shape)}")
        self._shapes = shapes

    def _buffer(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Return the head of a buffer, which grows for a larger shape."""
        count = torch.Size(shape).numel()
        flat = self.buffers.get(name)
        if flat is None or flat.numel() < count:
            flat = self.buffers[name] = aligned(count, self.dtypes[name], self.device)
        return flat[:count].view(shape)

    def _bind(
        self, context: trt.IExecutionContext, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]
    ) -> None:
        """Copy unaligned inputs and set changed addresses; every tensor is kept until the run is over."""
        for name in self.dtypes:
            tensor = outputs[name] if name in outputs else inputs[name]
            self.keeper.hold(name, tensor)
            if tensor.data_ptr() % ALIGNMENT:
                tensor = self._buffer(name, tuple(tensor.shape)).copy_(tensor, non_blocking=True)
                self.keeper.hold(f"copy of {name}", tensor)
            address = tensor.data_ptr()
            if self._addresses.get(name) != address:
                done = context.set_tensor_address(name, address)
                checked(f"set_tensor_address({name})", done, self._errors)
                self._addresses[name] = address

    def _launch(self, context: trt.IExecutionContext, stream: int) -> None:
        def enqueue() -> None:
            done = self._call("execute_async_v3", lambda: context.execute_async_v3(stream))
            checked("execute_async_v3", done, self._errors)

        if self.capture.on and capturing():
            enqueue()
        else:
            self.capture.run((stream, *self._addresses.values()), enqueue)

    def _call(self, what: str, call: Callable[[], Any]) -> Any:
        """Call the library; turns a RuntimeError, which some calls raise instead of returning False, into an
        `EngineError`."""
        try:
            return call()
        except RuntimeError as error:
            raise failed(what, self._errors, str(error)) from error

    def settle(self) -> None:
        """Release inputs, and graphs over them, once their last run is over. Does not wait."""
        with self.lock:
            self.capture.clear()
            self.keeper.retire()
            self.keeper.release()

    def drain(self) -> None:
        """Wait until every run is over."""
        with self.lock:
            self.keeper.drain()

    @contextmanager
    def paused(self) -> Iterator[trt.ICudaEngine]:
        """Yield the engine with nothing running, to change its weights; captured graphs and bindings are dropped."""
        with self.lock:
            self._forget()
            self.keeper.drain()
            if self.engine is None:
                raise EngineError("the engine is closed", "only an open one can be changed", "load it again")
            yield self.engine

    def shed(self) -> None:
        """Wait for every run, then free the workspace and all buffers; the next run allocates them again."""
        with self.lock, on(self.device):
            self._forget()
            self.keeper.drain()
            self._context = None
            self.buffers.clear()

    def close(self) -> None:
        """Free what `shed` frees, and the engine with its weights. Closing twice is allowed."""
        with self.lock, on(self.device):
            self.shed()
            self.engine = None
