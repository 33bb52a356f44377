"""Calls of the CUDA driver that PyTorch lacks: compiling CUDA C++, tensor maps for the copy engine, editing graphs.

They need `cuda.bindings`, which PyTorch for CUDA 13 installs. Check `missing` before calling any of them.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from ..errors import EngineError
from ..files import kept

BINDINGS = 13  # those of CUDA 12 have other signatures
SMALL = 1024  # bytes: a graph's memset up to here becomes a kernel; more is work for the copy engine
CLEAR = """
extern "C" __global__ void fill(unsigned char* at, unsigned bytes, unsigned value) {
  for (unsigned i = threadIdx.x; i < bytes; i += blockDim.x) at[i] = value;
}
"""


T = TypeVar("T", bound=Callable[..., Any])


def _typed(call: T) -> T:
    """Wrap a call so that what the bindings raise, as under a driver too old for the call, becomes an `EngineError`."""

    @functools.wraps(call)
    def typed(*args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except (AttributeError, ImportError, RuntimeError, TypeError, ValueError) as error:
            raise EngineError(
                f"CUDA's driver could not be called ({type(error).__name__}: {error})",
                f"the package cuda-bindings {BINDINGS} and a driver of its CUDA are needed",
                "install what PyTorch for that CUDA brings",
            ) from error

    return cast(T, typed)


@functools.cache
def missing() -> str:
    """Say for people why this module cannot be used; an empty text where it can."""
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    try:
        import cuda.bindings
        from cuda.bindings import driver, nvrtc

        if int(cuda.bindings.__version__.split(".")[0]) < BINDINGS:
            return f"the package cuda-bindings is {cuda.bindings.__version__}, and {BINDINGS} or newer is needed"
        _check(driver.cuDriverGetVersion())
        _check(nvrtc.nvrtcVersion())
    except (ImportError, RuntimeError, EngineError) as error:  # the libraries are loaded at the first call
        return f"the package cuda-bindings cannot be used ({error})"
    return ""


@dataclass(frozen=True)
class Kernel:
    """A compiled CUDA function.

    Attributes:
        function: the driver's handle.
        device: number of the CUDA device that it was loaded on.
        threads: per block.
        shared: bytes of dynamic shared memory per block.
    """

    function: Any
    device: int
    threads: int
    shared: int

    @_typed
    def launch(self, blocks: int, *arguments: Any) -> None:
        """Launch on its device's current stream.

        Args:
            arguments: integers (C's int), tensors and None (pointers), and maps from `tiles`.
        """
        driver, held = _driver(), [_value(a) for a in arguments]
        places = [int(a.getPtr()) if hasattr(a, "getPtr") else ctypes.addressof(a) for a in held]
        pointers = (ctypes.c_void_p * len(places))(*places)
        stream, at = torch.cuda.current_stream(self.device).cuda_stream, ctypes.addressof(pointers)
        with torch.cuda.device(self.device):
            _check(driver.cuLaunchKernel(self.function, blocks, 1, 1, self.threads, 1, 1, self.shared, stream, at, 0))

    @_typed
    def clusters(self, size: int) -> int:
        """Return how many clusters of `size` blocks its device can hold at once."""
        driver = _driver()
        config, shape = driver.CUlaunchConfig(), driver.CUlaunchAttribute()
        shape.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
        shape.value.clusterDim.x, shape.value.clusterDim.y, shape.value.clusterDim.z = size, 1, 1
        config.gridDimX, config.gridDimY, config.gridDimZ = size, 1, 1
        config.blockDimX, config.blockDimY, config.blockDimZ = self.threads, 1, 1
        config.sharedMemBytes, config.attrs, config.numAttrs = self.shared, [shape], 1
        with torch.cuda.device(self.device):
            return int(_check(driver.cuOccupancyMaxActiveClusters(self.function, config)))


def _value(argument: Any) -> Any:
    """Return what a kernel's argument is in C; a map as it is."""
    if isinstance(argument, int):
        return ctypes.c_int(argument)
    if argument is None or isinstance(argument, Tensor):
        return ctypes.c_void_p(None if argument is None else argument.data_ptr())
    return argument


@functools.cache
@_typed
def kernel(source: str, name: str, device: int, threads: int, shared: int = 0, options: Sequence[str] = ()) -> Kernel:
    """Compile a function for a device, in about half a second; the cache folder keeps the result.

    The device's context must be current in this thread, as after any work of PyTorch on it.

    Raises:
        EngineError: with the message of the compiler or the driver.
    """
    from cuda.bindings import nvrtc

    major, minor = torch.cuda.get_device_capability(device)
    flags = (f"--gpu-architecture=sm_{major}{minor}{'a' if major >= 9 else ''}", "-std=c++17", *options)
    # NVRTC does not say which release of a version it is; PyTorch brings its own
    all_of_it = source, name, flags, _check(nvrtc.nvrtcVersion()), torch.__version__
    place = f"kernels/{name}-{hashlib.sha256(repr(all_of_it).encode()).hexdigest()[:32]}.cubin"
    binary = kept(place, lambda: compiled(source, name, flags))
    driver = _driver()
    with torch.cuda.device(device):
        function = _check(driver.cuModuleGetFunction(_check(driver.cuModuleLoadData(binary)), name.encode()))
        attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        _check(driver.cuFuncSetAttribute(function, attribute, shared))
    return Kernel(function, device, threads, shared)


def compiled(source: str, name: str, flags: Sequence[str]) -> bytes:
    from cuda.bindings import nvrtc

    program = _check(nvrtc.nvrtcCreateProgram(source.encode(), name.encode(), 0, [], []))
    try:
        if int(nvrtc.nvrtcCompileProgram(program, len(flags), [flag.encode() for flag in flags])[0]):
            text = bytes(_check(nvrtc.nvrtcGetProgramLogSize(program)) + 1)
            nvrtc.nvrtcGetProgramLog(program, text)
            said = " ".join(text.rstrip(b"\0").decode(errors="replace").split())
            raise EngineError(
                f"the kernel {name} does not compile with {flags[0]}: {said[:500]}",
                "the CUDA that PyTorch brings must know this GPU",
                "install a newer PyTorch",
            )
        binary = bytes(_check(nvrtc.nvrtcGetCUBINSize(program)))
        _check(nvrtc.nvrtcGetCUBIN(program, binary))
        return binary
    finally:
        nvrtc.nvrtcDestroyProgram(program)


@_typed
def tiles(tensor: Tensor, rows: int, columns: int) -> Any:
    """Map a contiguous `[M, K]` of bfloat16, float16 or float8 in tiles for Hopper's copy engine (TMA), swizzled by the
    128 or 64 bytes of a tile's row.

    Beyond the tensor's edge a tile reads zeros and writes nothing.
    """
    driver = _driver()
    kinds = driver.CUtensorMapDataType
    kind = {
        torch.bfloat16: kinds.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        torch.float16: kinds.CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        torch.float8_e4m3fn: kinds.CU_TENSOR_MAP_DATA_TYPE_UINT8,
    }[tensor.dtype]
    m, k = tensor.shape
    return _check(
        driver.cuTensorMapEncodeTiled(
            kind,
            2,
            tensor.data_ptr(),
            [driver.cuuint64_t(k), driver.cuuint64_t(m)],
            [driver.cuuint64_t(k * tensor.element_size())],
            [driver.cuuint32_t(columns), driver.cuuint32_t(rows)],
            [driver.cuuint32_t(1), driver.cuuint32_t(1)],
            driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
            getattr(driver.CUtensorMapSwizzle, f"CU_TENSOR_MAP_SWIZZLE_{columns * tensor.element_size()}B"),
            driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    )


@_typed
def memsets_to_kernels(graph: int, device: int) -> int:
    """Replace each small memset node of a captured graph by a kernel node; returns how many there were.

    cuBLAS clears a few bytes before many products, and a node of another kind splits the launch of a graph. Measured on
    an H100, 148 of 520 nodes: 0.1 to 0.2 ms less per tick of 21 ms, and 0.4 to 0.8 ms less on the host.

    Args:
        graph: a `cudaGraph_t` that has not been instantiated.
    """
    driver, count = _driver(), 0
    handle = driver.CUgraph(graph)
    _, total = _check(driver.cuGraphGetNodes(handle, 0))
    for node in _check(driver.cuGraphGetNodes(handle, total))[0]:
        if _check(driver.cuGraphNodeGetType(node)) != driver.CUgraphNodeType.CU_GRAPH_NODE_TYPE_MEMSET:
            continue
        memset = _check(driver.cuGraphMemsetNodeGetParams(node))
        if memset.elementSize == 1 and memset.height == 1 and memset.width <= SMALL:
            _replaced(handle, node, memset, kernel(CLEAR, "fill", device, 32))
            count += 1
    return count


def _replaced(graph: Any, node: Any, memset: Any, fill: Kernel) -> None:
    driver = _driver()
    before = _neighbours(driver.cuGraphNodeGetDependencies, node)
    after = _neighbours(driver.cuGraphNodeGetDependentNodes, node)
    values = (ctypes.c_uint64(int(memset.dst)), ctypes.c_uint32(memset.width), ctypes.c_uint32(memset.value))
    pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
    launch = driver.CUDA_KERNEL_NODE_PARAMS()
    launch.func, launch.kernelParams = fill.function, ctypes.addressof(pointers)
    launch.gridDimX = launch.gridDimY = launch.gridDimZ = 1
    launch.blockDimX, launch.blockDimY, launch.blockDimZ, launch.sharedMemBytes = fill.threads, 1, 1, 0
    new = _check(driver.cuGraphAddKernelNode(graph, before, len(before), launch))
    try:
        if after:
            _check(driver.cuGraphAddDependencies(graph, [new] * len(after), after, None, len(after)))
        _check(driver.cuGraphDestroyNode(node))
    except BaseException:  # it must not clear those bytes a second time, whenever it likes
        driver.cuGraphDestroyNode(new)
        raise


def _neighbours(get: Any, node: Any) -> list[Any]:
    """List the nodes at the other end of a node's edges.

    Args:
        get: a driver call that returns its status, the nodes, the edges' data and their count.
    """
    most = 64  # PyTorch captures one stream: nearly always one
    nodes, _, count = _check(get(node, most))
    if count == most:
        raise EngineError(f"a node of a graph has {most} edges or more", "a few are expected", "report it")
    return list(nodes[:count])


def _driver() -> Any:
    from cuda.bindings import driver

    return driver


def _check(result: tuple[Any, ...]) -> Any:
    """Return the result of a driver call without its status.

    Raises:
        EngineError: where the status is not success.
    """
    status, *rest = result
    if int(status):
        raise EngineError(f"CUDA's driver answered {status!r}", "it must accept what it is given", "report it")
    return rest[0] if len(rest) == 1 else tuple(rest)
