"""The int8 kernels on a GPU: exact sums, the rounding of the CPU, tiles that no bit depends on, massive activations."""

import pytest
import torch
from ostinato.engine_runtime.engines.compiled import plain
from ostinato.engine_runtime.engines.compiled.plain import INT8, quantized
from ostinato.engine_runtime.engines.eager import EagerEngine
from ostinato.engine_runtime.engines.kinds import make_engine
from ostinato.engine_runtime.engines.prove import fill
from ostinato.engine_runtime.models.sized import sized_decoder

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda", 0)


@pytest.fixture(scope="module", autouse=True)
def kernels():
    pytest.importorskip("triton")
    if torch.cuda.is_available() and torch.cuda.get_device_capability() < (7, 5):
        pytest.skip("the int8 engine needs compute capability 7.5")


@pytest.fixture
def integer():
    from ostinato.engine_runtime.engines.compiled import integer

    return integer


def drawn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator(CUDA).manual_seed(seed), device=CUDA)


def operands(m, n, k):
    return quantized(drawn(0, m, k), INT8), quantized(drawn(1, n, k), INT8)


@pytest.mark.parametrize("sizes", [(1, 16, 16), (33, 48, 80), (750, 2048, 6144), (3000, 4096, 2048), (1, 64, 9728)])
def test_a_product_has_the_bits_of_the_cpu(integer, sizes):
    """Also of sums at their largest, and where the tiles reach beyond the matrices."""
    for (x, x_step), (w, w_step) in (operands(*sizes), largest(*sizes)):
        for dtype in (torch.float16, torch.bfloat16):
            got = integer.product((x, x_step), w, w_step, dtype)
            want = plain.scaled((x, x_step), w, w_step, dtype)
            assert torch.equal(got, want)


def largest(m, n, k):
    ones, signs = torch.full((m, k), 127, dtype=INT8, device=CUDA), torch.full((n, k), -127, dtype=INT8, device=CUDA)
    steps = [torch.full((size,), 1e-4, device=CUDA) for size in (m, n)]
    return (ones, steps[0]), (signs, steps[1])


def test_a_product_is_the_same_with_other_tiles(integer, monkeypatch):
    (x, x_step), (w, w_step) = operands(777, 2560, 2048)
    made = []
    for tiles in (integer.HOPPER, integer.OTHERS, integer.Tiles(64, 64, 32, 4, 2)):
        monkeypatch.setattr(integer, "tiles_of", lambda device, tiles=tiles: tiles)
        made.append(integer.product((x, x_step), w, w_step, torch.bfloat16))
    assert torch.equal(made[0], made[1]) and torch.equal(made[0], made[2])


@pytest.mark.parametrize("gated", [True, False], ids=["gated", "plain"])
def test_a_product_is_added_in_place(integer, gated):
    """Each row with the gate of its own, rounded once; nothing else is written."""
    (x, x_step), (w, w_step) = operands(3 * 250, 2048, 512)
    x = x.view(3, 250, 512), x_step.view(3, 250)
    gate = drawn(6, 3, 6, 2048).to(torch.bfloat16)[:, 2] if gated else None
    held = drawn(7, 3 * 250 + 1, 2048).to(torch.bfloat16)
    got, want, last = held[:-1].view(3, 250, 2048), held[:-1].view(3, 250, 2048).clone(), held[-1].clone()
    assert integer.added(got, x, w, w_step, gate) and plain.added(want, x, w, w_step, gate)
    torch.testing.assert_close(got, want, rtol=2**-7, atol=1e-6)  # the last bit of bfloat16
    assert torch.equal(held[-1], last)


@pytest.mark.parametrize("width", [128, 2048, 6144])
def test_rows_are_rounded_as_on_the_cpu(integer, width):
    """To the last bit but where a row's largest, divided by the GPU, lies between two whole numbers."""
    from ostinato.engine_runtime.engines.compiled import fused

    x = drawn(2, 2, 50, 2 * width).to(torch.bfloat16)
    x[0, 3] = 0
    channel = torch.exp2(drawn(3, width).round())
    weight, shift = drawn(4, 2 * width), drawn(5, 2, 2 * width)
    given = weight, 1e-6, INT8, None, None, (shift, shift)
    for got, want in (
        (integer.quantized(x, INT8), plain.quantized(x, INT8)),
        (fused.silu(x, INT8, channel), plain.silu(x, INT8, channel)),
        (fused.norm(x, *given), plain.norm(x, *given)),
    ):
        torch.testing.assert_close(got[1].flatten(), want[1].flatten(), rtol=1e-5, atol=1e-12)
        off = (got[0].int() - want[0].int()).abs()
        assert off.max() <= 1 and off.float().mean() < 1e-3


def test_massive_activations_are_within_the_budget():
    """At the widths of the 2B size, with all products in int8, where sharing their size with the weight is of use."""
    model = sized_decoder("2b-outliers", torch.bfloat16, CUDA, num_hidden_layers=8)
    engine, reference = make_engine("int8", model, "gpu-test"), EagerEngine(model, "gpu-test")
    engine.ready()
    ours, theirs = engine.rows(2, 500, 64), reference.rows(2, 500, 64)
    fill((ours, theirs), 2, 500, 64, engine.width, torch.bfloat16, 3)
    got, want = engine(ours).float(), reference(theirs).float()
    cosine = torch.nn.functional.cosine_similarity(got.flatten(), want.flatten(), 0)
    assert (got - want).norm() / want.norm() < 0.04 and cosine > 0.999 and not engine.kept_wide
