"""Products in 8 bits on the CPU: their rounding, exact sums, what stays wide, large channels, old GPUs."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from ostinato.engine_runtime.engines.compiled import choice, needs, plain, weights
from ostinato.engine_runtime.engines.compiled.engine import CompiledEngine
from ostinato.engine_runtime.engines.compiled.plain import FP8, INT8, LARGEST, NARROW, quantized
from ostinato.engine_runtime.engines.compiled.weights import Narrow
from ostinato.engine_runtime.engines.prove import fill
from ostinato.engine_runtime.errors import EngineError
from ostinato.engine_runtime.models.sized import sized_decoder

from ...helpers import drawn

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def transformer(base):
    return base.pipe.transformer


def relative(got, want):
    return ((got - want).norm() / want.norm()).item()


@pytest.mark.parametrize("dtype", LARGEST)
def test_rows_are_rounded_to_the_nearest(dtype):
    """Each by its own step; a row of zeros stays so."""
    x = torch.cat([drawn(0, 7, 48) * torch.logspace(-4, 4, 7)[:, None], torch.zeros(1, 48)])
    values, step = quantized(x, dtype)
    grid = torch.arange(-127, 128).float() if dtype == INT8 else torch.arange(256).to(torch.uint8).view(FP8).float()
    nearest = (grid[grid.isfinite()] - x[:7, :, None] / step[:7, None, None]).abs().amin(-1)
    got = (values.float()[:7] - x[:7] / step[:7, None]).abs()
    torch.testing.assert_close(got, nearest, atol=1e-4, rtol=1e-5)
    assert values[:7].float().abs().amax(1).eq(LARGEST[dtype]).all() and values[7].float().eq(0).all()


def test_an_int8_product_is_exact_to_its_last_sum():
    """A sum of 9728 products of the largest numbers, of which float32 would lose the end."""
    x, w = torch.full((1, 9728), 127, dtype=INT8), torch.full((2, 9728), 127, dtype=INT8)
    w[0, 0], w[1, 0] = 126, 125
    one = torch.ones(1)
    got = plain.scaled((x, one), w, torch.ones(2), torch.float64)
    want = torch.tensor([127 * (127 * 9728 - 1), 127 * (127 * 9728 - 2)])
    assert torch.equal(got[0], want.float().double()) and got[0, 0] != got[0, 1]


@pytest.fixture(scope="module", params=NARROW)
def measured(request):
    """An engine with outliers in a part of its layers, none of its products in 8 bits, and what a choice does to it."""
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = sized_decoder("2b-outliers", torch.float32, CPU, num_hidden_layers=3, head_dim=32, **sizes)
    engine = CompiledEngine(model, "unit-test", narrow=choice.none_of(len(model.layers), NARROW[request.param]))
    engine.ready()

    def played(engine):
        rows = engine.rows(2, 250, 64)
        fill((rows,), 2, 250, 64, engine.width, engine.dtype, choice.SEED)
        return engine(rows)

    def error(chosen):
        return relative(played(CompiledEngine(copy.deepcopy(model), "unit-test", narrow=chosen)), played(engine))

    return engine, error


def test_what_8_bits_harm_most_for_its_size_stays_wide(measured):
    """With budgets that a part of the products fits in."""
    engine, error = measured
    whole = error(Narrow(engine.products))
    for share in (0.9, 0.7, 0.5):
        chosen = choice.choose(engine, share * whole)
        assert 0 < len(chosen.wide) < 18 and error(chosen) < 1.15 * share * whole
    name = {FP8: "float8", INT8: "int8"}[engine.products]
    assert f"not in {name}" in chosen.summary() and len(chosen.digest) == 16
    assert len(choice.choose(engine, 0.0).wide) > 15
    all_in = choice.choose(engine, 1.0)
    assert not all_in.wide and not all_in.summary() and not all_in.digest and all_in.dtype == engine.products


def test_a_large_channel_leaves_room_for_the_others(measured, monkeypatch):
    """Without the channels' powers of two int8 loses all that is beside them."""
    engine, error = measured
    whole = error(Narrow(engine.products))
    monkeypatch.setattr(weights, "_channels", lambda largest: torch.ones_like(largest))
    assert error(Narrow(engine.products)) > {FP8: 0.9, INT8: 3}[engine.products] * whole


@pytest.mark.parametrize("kind", ["compiled", "int8"])
def test_turing_takes_float16_and_a_triton_that_knows_it(kind, cuda):
    gpu = torch.device("cuda", 0)
    cuda(get_device_capability=lambda device: (7, 5), get_device_name=lambda device: "T4")
    with pytest.raises(EngineError, match=r"the weights are torch.bfloat16; the \w+ engine takes float16 on T4"):
        needs.check_device(kind, gpu, torch.bfloat16)
    needs.check_device(kind, gpu, torch.float16)
    with pytest.raises(EngineError, match=r"Triton 3.3.0 makes no kernels for T4; .*Triton 3.2.*PyTorch 2.6"):
        needs.check_triton(kind, gpu, "3.3.0")
    needs.check_triton(kind, gpu, "3.2.0+git1")
    cuda(get_device_capability=lambda device: (8, 0))
    needs.check_triton(kind, gpu, "3.9.0")


def test_the_triton_that_is_there_is_asked(cuda):
    fused = SimpleNamespace(triton=SimpleNamespace(__version__="3.6.0"))
    cuda(get_device_capability=lambda device: (7, 5), get_device_name=lambda device: "T4")
    with pytest.raises(EngineError, match="Triton 3.6.0 makes no kernels for T4"):
        needs.check_kernels("int8", fused, CPU, torch.float16)
