"""What goes around PyTorch: kernels of our own CUDA C++, and graphs that are edited before they are replayed."""

import pytest
import torch
from ostinato.engine_runtime.device import capture, driver
from ostinato.engine_runtime.engines.compiled import hopper
from ostinato.engine_runtime.engines.compiled.plain import FP8, quantized
from torch.nn import functional

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(bool(driver.missing()), reason=f"no driver to call: {driver.missing()}"),
]


@pytest.fixture
def hopper_gpu():
    if torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("the kernel is for compute capability 9.0")


def drawn(*shape, dtype=torch.bfloat16, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to("cuda", dtype)


def poisoned(*shape, dtype):
    """Leave NaN where the next tensor of this shape will lie."""
    torch.full(shape, torch.nan, dtype=dtype, device="cuda")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("m, inner, k", [(1, 128, 64), (130, 384, 72), (257, 128, 2048), (3000, 6144, 2048)])
def test_the_gates_product(hopper_gpu, m, inner, k, dtype):
    x, weight = drawn(m, k, dtype=dtype), drawn(2 * inner, k, dtype=dtype, seed=1) * k**-0.5
    poisoned(m, inner, dtype=dtype)
    got = hopper.swiglu(x, weight).float()
    gate, up = (x.double() @ weight.double().t()).chunk(2, -1)
    want = (functional.silu(gate) * up).float()
    assert ((got - want).norm() / want.norm()).item() < (3e-3 if dtype == torch.bfloat16 else 4e-4)


def quantized_pair(m, n, k, seed=0):
    return quantized(drawn(m, k, seed=seed), FP8), quantized(drawn(n, k, seed=seed + 1) * k**-0.5, FP8)


def exact(x, weight):
    """The product of what float8 kept, in float64."""
    (x, step), (w, scale) = x, weight
    return (x.double() * step.double()[..., None]) @ (w.double() * scale.double()[:, None]).t()


@pytest.mark.parametrize("m, inner, k", [(1, 128, 128), (130, 384, 80), (257, 128, 2048), (3000, 6144, 2048)])
def test_the_gates_product_in_float8(hopper_gpu, m, inner, k):
    x, weight = quantized_pair(m, 2 * inner, k)
    gate, up = exact(x, weight).chunk(2, -1)
    want = functional.silu(gate) * up
    limit = (want.abs().amax(-1) * 3 / 448).float()
    values, step = hopper.gated(x, *weight, limit)
    assert values.dtype is torch.float8_e4m3fn and step is limit
    got = values.double() * limit.double()[:, None]
    assert ((got - want).norm() / want.norm()).item() < 0.03
    rounded = (want / limit[:, None]).float().to(values.dtype).double() * limit[:, None]
    assert ((got - rounded).norm() / want.norm()).item() < 0.015  # float8's own rounding, but at its edges


def test_float8_rows_depend_on_themselves_alone(hopper_gpu):
    x, weight = quantized_pair(3000, 2 * 2048, 2048)
    limit = torch.full((3000,), 0.05, device="cuda")
    whole = hopper.gated(x, *weight, limit)[0].float()
    for start, count in ((0, 1), (100, 750), (1700, 1300), (751, 1)):
        part = slice(start, start + count)
        own = x[0][part].contiguous(), x[1][part].contiguous()
        assert torch.equal(hopper.gated(own, *weight, limit[part].contiguous())[0].float(), whole[part])


def test_large_values_make_no_nan(hopper_gpu):
    x, weight = drawn(130, 64), drawn(256, 64, seed=1) * 40
    got, (gate, up) = hopper.swiglu(x, weight).float(), (x.float() @ weight.float().t()).chunk(2, -1)
    assert gate.abs().max() > 500 and got.isfinite().all()
    torch.testing.assert_close(got, functional.silu(gate) * up, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_row_depends_on_itself_alone(hopper_gpu, dtype):
    x, weight = drawn(3000, 2048, dtype=dtype), drawn(2 * 6144, 2048, dtype=dtype, seed=1) * 0.02
    whole = hopper.swiglu(x, weight)
    for start, count in ((0, 1), (100, 750), (1700, 1300), (751, 1)):
        assert torch.equal(hopper.swiglu(x[start : start + count].contiguous(), weight), whole[start : start + count])


def test_a_kernel_is_compiled_once_on_a_machine(monkeypatch, places, tmp_path):
    places(cache=tmp_path)
    torch.zeros(1, device="cuda")
    made = driver.compiled
    compiled, make = [], driver.kernel.__wrapped__
    monkeypatch.setattr(driver, "compiled", lambda *given: compiled.append(given[1]) or made(*given))
    for _ in range(2):
        make(driver.CLEAR, "fill", 0, 32)
    assert compiled == ["fill"]
    (kept,) = (tmp_path / "kernels").iterdir()
    kept.write_bytes(kept.read_bytes()[:-8])
    make(driver.CLEAR, "fill", 0, 32)
    make(driver.CLEAR + "// another", "fill", 0, 32)
    assert compiled == ["fill"] * 3


def test_what_the_kernel_does_not_take(hopper_gpu):
    assert hopper.swiglu(drawn(4, 64), drawn(2 * 64, 64)) is None
    assert hopper.swiglu(drawn(4, 64, dtype=torch.float32), drawn(256, 64, dtype=torch.float32)) is None
    assert hopper.swiglu(drawn(4, 68), drawn(256, 68)) is None
    x, weight = quantized_pair(4, 128, 128)
    assert hopper.gated(x, *weight, x[1]) is None  # an inner width of 64
    assert hopper.gated((drawn(4, 128), x[1]), *weight, x[1]) is None


@pytest.mark.parametrize("count", [1, 4, 100, driver.SMALL])
def test_a_small_memset_is_a_kernel_in_a_graph(count):
    from cuda.bindings import driver as cuda

    x, y = (torch.zeros(2 * count, dtype=torch.uint8, device="cuda") for _ in range(2))

    def body():
        x.add_(5)
        stream = torch.cuda.current_stream().cuda_stream
        assert cuda.cuMemsetD8Async(x.data_ptr(), 7, count, stream)[0] == cuda.CUresult.CUDA_SUCCESS
        y.copy_(x)

    side, pool = torch.cuda.Stream(), capture.Pool()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        replay = capture.captured(body, pool.handle)
        for _ in range(3):
            replay()
    side.synchronize()
    assert y[:count].eq(7).all() and y[count:].eq(15).all()
    nodes = cuda.cuGraphGetNodes(cuda.CUgraph(replay.__self__.raw_cuda_graph()), 16)[1]
    kinds = [cuda.cuGraphNodeGetType(node)[1] for node in nodes if int(node)]
    assert kinds and cuda.CUgraphNodeType.CU_GRAPH_NODE_TYPE_MEMSET not in kinds


def test_a_large_memset_stays():
    from cuda.bindings import driver as cuda

    x = torch.zeros(4 * driver.SMALL, dtype=torch.uint8, device="cuda")
    side, pool = torch.cuda.Stream(), capture.Pool()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        replay = capture.captured(
            lambda: cuda.cuMemsetD8Async(x.data_ptr(), 7, x.numel(), side.cuda_stream), pool.handle
        )
        replay()
    side.synchronize()
    assert x.eq(7).all()


def test_what_does_not_compile_says_why():
    with pytest.raises(driver.EngineError, match="undefined"):
        driver.kernel('extern "C" __global__ void broken() { undefined(); }', "broken", 0, 32)
