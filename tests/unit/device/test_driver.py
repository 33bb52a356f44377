"""What is done where CUDA's driver cannot be called, or not all of it."""

import ctypes
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from ostinato.engine_runtime.device import driver
from ostinato.engine_runtime.engines.compiled import hopper
from ostinato.engine_runtime.errors import EngineError


@pytest.fixture
def calls(monkeypatch):
    """`calls(_driver=..., kernel=..., missing=...)` stands in for these of the driver's functions."""

    def enter(**functions):
        for name, one in functions.items():
            monkeypatch.setattr(driver, name, one)

    return enter


def bindings(cuda, monkeypatch, version="13.0.3", load=lambda: (0, 13000), **compiler):
    """Stand in for the package, with these functions of its compiler."""
    package = SimpleNamespace(__version__=version)
    package.driver = SimpleNamespace(cuDriverGetVersion=load)
    package.nvrtc = SimpleNamespace(nvrtcVersion=lambda: (0, 13, 0), **compiler)
    cuda(is_available=lambda: True)
    monkeypatch.setitem(sys.modules, "cuda", SimpleNamespace(bindings=package))
    for name, module in (("", package), (".driver", package.driver), (".nvrtc", package.nvrtc)):
        monkeypatch.setitem(sys.modules, f"cuda.bindings{name}", module)


def unloaded():
    raise RuntimeError("Failed to dlopen libcuda.so.1")


def test_what_is_missing_is_said(cuda, monkeypatch):
    missing = driver.missing.__wrapped__
    bindings(cuda, monkeypatch)
    assert missing() == ""
    bindings(cuda, monkeypatch, "12.9.4")
    assert "12.9.4" in missing()
    bindings(cuda, monkeypatch, load=unloaded)
    assert "Failed to dlopen" in missing()
    bindings(cuda, monkeypatch, load=lambda: (35, 0))
    assert "35" in missing()
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    assert "cuda-bindings" in missing()
    cuda(is_available=lambda: False)
    assert "no CUDA device" in missing()


def test_what_the_bindings_raise_is_an_error_of_ours(calls):
    def old():
        raise AttributeError("no cuGraphGetNodes")

    calls(_driver=old)
    for call in (lambda: driver.memsets_to_kernels(1, 0), lambda: driver.tiles(torch.zeros(4, 8), 4, 8)):
        with pytest.raises(EngineError, match=r"no cuGraphGetNodes.*cuda-bindings 13"):
            call()


class Driver:
    """A graph of nodes by name: what lies before each, and what is memset."""

    def __init__(self, before, memsets, edges_fail=False):
        self.before, self.memsets, self.edges_fail = before, memsets, edges_fail
        self.CUgraphNodeType = SimpleNamespace(CU_GRAPH_NODE_TYPE_MEMSET="memset")
        self.CUgraph, self.CUDA_KERNEL_NODE_PARAMS = (lambda graph: graph), SimpleNamespace

    def cuGraphGetNodes(self, graph, count):
        return 0, list(self.before)[:count], len(self.before)

    def cuGraphNodeGetType(self, node):
        return 0, "memset" if node in self.memsets else "kernel"

    def cuGraphMemsetNodeGetParams(self, node):
        return 0, self.memsets[node]

    def cuGraphNodeGetDependencies(self, node, most):
        return 0, [*self.before[node], *[None] * most][:most], None, min(most, len(self.before[node]))

    def cuGraphNodeGetDependentNodes(self, node, most):
        after = [other for other, nodes in self.before.items() if node in nodes]
        return 0, [*after, *[None] * most][:most], None, min(most, len(after))

    def cuGraphAddKernelNode(self, graph, before, count, launch):
        name = f"fill {len(self.before)}"
        assert len(before) == count and launch.kernelParams
        shape = (
            launch.gridDimX,
            launch.gridDimY,
            launch.gridDimZ,
            launch.blockDimX,
            launch.blockDimY,
            launch.blockDimZ,
        )
        assert shape == (1, 1, 1, 32, 1, 1) and launch.sharedMemBytes == 0  # the kernel strides by one block's threads
        self.before[name] = list(before)
        return 0, name

    def cuGraphAddDependencies(self, graph, source, target, data, count):
        if self.edges_fail:
            return (1,)
        for a, b in zip(source, target, strict=True):
            self.before[b].append(a)
        return (0,)

    def cuGraphDestroyNode(self, node):
        del self.before[node]
        for nodes in self.before.values():
            nodes[:] = [other for other in nodes if other != node]
        return (0,)


def edited(calls, fake):
    calls(_driver=lambda: fake, kernel=lambda *_: driver.Kernel("fill", 0, 32, 0))
    return driver.memsets_to_kernels(1, 0)


def memset(width, size=1, height=1):
    return SimpleNamespace(elementSize=size, width=width, height=height, dst=64, value=0)


def test_a_small_memset_gives_its_place_to_a_kernel(calls):
    before = {"a": [], "m": ["a"], "b": ["m"], "c": ["m", "a"], "n": ["c"], "w": ["n"], "h": ["w"]}
    memsets = {"m": memset(4), "n": memset(driver.SMALL + 1), "w": memset(4, size=2), "h": memset(4, height=2)}
    fake = Driver(before, memsets)
    assert edited(calls, fake) == 1
    assert fake.before == {
        **{"a": [], "b": ["fill 7"], "c": ["a", "fill 7"], "n": ["c"], "w": ["n"], "h": ["w"]},
        "fill 7": ["a"],
    }


def test_an_edit_that_fails_leaves_the_graph_as_it_was(calls):
    fake = Driver({"a": [], "m": ["a"], "b": ["m"]}, {"m": memset(4)}, edges_fail=True)
    with pytest.raises(EngineError):
        edited(calls, fake)
    assert fake.before == {"a": [], "m": ["a"], "b": ["m"]}


def test_more_edges_than_are_read_are_refused(calls):
    before = {**{f"{i}": [] for i in range(70)}, "m": [f"{i}" for i in range(70)]}
    with pytest.raises(EngineError, match="64 edges"):
        edited(calls, Driver(before, {"m": memset(4)}))


@pytest.mark.parametrize("clusters", [0, EngineError("no compiler", "one is needed", "install it")])
def test_the_gates_product_goes_without_the_kernel(cuda, calls, caplog, clusters):
    def kernel(*_):
        if isinstance(clusters, EngineError):
            raise clusters
        return SimpleNamespace(clusters=lambda size: clusters)

    cuda(get_device_capability=lambda device: (9, 0))
    calls(missing=lambda: "", kernel=kernel)
    hopper.product_kernel.cache_clear()
    x, weight = torch.ones(4, 64, dtype=torch.bfloat16), torch.ones(256, 64, dtype=torch.bfloat16)
    assert hopper.swiglu(x, weight) is None and hopper.swiglu(x, weight) is None
    assert len(caplog.records) == 1 and "slower" in caplog.text
    hopper.product_kernel.cache_clear()


class Kinds(SimpleNamespace):
    """Members of an enum by name, whichever is asked for."""

    def __getattr__(self, name):
        return name


class Reader:
    """Reads a tensor map, and the shape of a launch, as the driver does."""

    CUtensorMapDataType = CUtensorMapInterleave = CUtensorMapSwizzle = CUtensorMapL2promotion = Kinds()
    CUtensorMapFloatOOBfill = CUlaunchAttributeID = Kinds()
    cuuint64_t = cuuint32_t = int
    CUlaunchConfig = SimpleNamespace
    asked = None

    def CUlaunchAttribute(self):
        return SimpleNamespace(value=SimpleNamespace(clusterDim=SimpleNamespace()))

    def cuOccupancyMaxActiveClusters(self, function, config):
        assert len(config.attrs) == config.numAttrs
        self.asked = function, config
        return 0, 66

    def cuTensorMapEncodeTiled(self, kind, rank, at, sizes, strides, box, steps, *how):
        assert rank == len(sizes) == len(strides) + 1 == len(box) == len(steps)
        width = 1 if kind.endswith("UINT8") else 2
        assert f"CU_TENSOR_MAP_SWIZZLE_{box[0] * width}B" in how and strides[0] % 16 == 0

        def tile(row, column):
            """Read the bytes of the tile whose first element this is; what lies outside is 0."""

            def byte(m, k, i):
                inside = m < sizes[1] and k < sizes[0]
                return ctypes.c_uint8.from_address(at + m * strides[0] + k * width + i).value if inside else 0

            rows = range(row, row + box[1] * steps[1], steps[1])
            columns = range(column, column + box[0] * steps[0], steps[0])
            return [[byte(m, k, i) for k in columns for i in range(width)] for m in rows]

        return 0, tile


@pytest.mark.parametrize("dtype, columns", [(torch.bfloat16, 64), (torch.float16, 32), (torch.float8_e4m3fn, 128)])
def test_a_tile_is_a_part_of_the_tensor(calls, dtype, columns):
    calls(_driver=Reader)
    tensor = torch.randn(6, 144).to(dtype)
    tile = driver.tiles(tensor, 4, columns)

    def part(row, column):
        whole = torch.zeros(16, 512, dtype=dtype)
        whole[:6, :144] = tensor
        return whole[row : row + 4, column : column + columns].contiguous().view(torch.uint8)

    for place in ((0, 0), (1, 16), (4, 0), (0, 112)):
        assert tile(*place) == part(*place).tolist()


def test_clusters_are_asked_for_with_the_kernels_threads_and_memory(cuda, calls):
    reader = Reader()
    cuda(device=lambda number: nullcontext())
    calls(_driver=lambda: reader)
    assert driver.Kernel("product", 1, 384, 200_000).clusters(4) == 66
    function, asked = reader.asked
    assert function == "product" and asked.sharedMemBytes == 200_000
    assert (asked.gridDimX, asked.gridDimY, asked.gridDimZ) == (4, 1, 1)
    assert (asked.blockDimX, asked.blockDimY, asked.blockDimZ) == (384, 1, 1)
    (attribute,) = asked.attrs
    assert attribute.id == "CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION"
    shape = attribute.value.clusterDim
    assert (shape.x, shape.y, shape.z) == (4, 1, 1)


def compiler(status, text=b"", binary=b"cubin"):
    """Functions of NVRTC for a program that ends with a status, and the calls of them."""
    done = []

    def create(source, name, count, headers, names):
        assert count == len(headers) == len(names)
        done.append(("create", name))
        return 0, "program"

    def build(program, count, flags):
        assert count == len(flags)
        return (status,)

    def fill(made):
        def call(program, buffer):
            memory = (ctypes.c_char * len(buffer)).from_address(id(buffer) + bytes.__basicsize__ - 1)
            memory[: len(made)] = made
            return (0,)

        return call

    return done, {
        "nvrtcCreateProgram": create,
        "nvrtcCompileProgram": build,
        "nvrtcGetProgramLogSize": lambda program: (0, len(text)),
        "nvrtcGetProgramLog": fill(text),
        "nvrtcGetCUBINSize": lambda program: (0, len(binary)),
        "nvrtcGetCUBIN": fill(binary),
        "nvrtcDestroyProgram": lambda program: done.append(("destroy", program)) or (0,),
    }


def test_a_kernel_is_compiled_and_loaded(cuda, calls, monkeypatch, places, tmp_path):
    places(cache=tmp_path)
    done, functions = compiler(0)
    bindings(cuda, monkeypatch, **functions)
    cuda(get_device_capability=lambda device: (9, 0), device=lambda number: nullcontext())
    calls(
        _driver=lambda: SimpleNamespace(
            cuModuleLoadData=lambda binary: (0, binary),
            cuModuleGetFunction=lambda module, name: (0, (module, name)),
            CUfunction_attribute=Kinds(),
            cuFuncSetAttribute=lambda function, attribute, value: (0,),
        )
    )
    assert driver.kernel("a source", "fill", 1, 32, 64) == driver.Kernel((b"cubin", b"fill"), 1, 32, 64)
    assert done == [("create", b"fill"), ("destroy", "program")]


def test_what_the_compiler_says_is_told(cuda, monkeypatch):
    done, functions = compiler(6, b"fill.cu(3): error:\n expected a semicolon")
    bindings(cuda, monkeypatch, **functions)
    with pytest.raises(EngineError, match=r"kernel fill does not compile with -sm_90: .* expected a semicolon"):
        driver.compiled("a source", "fill", ["-sm_90"])
    assert done[-1] == ("destroy", "program")
