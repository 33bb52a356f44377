"""The floor under a tick, and the weights and references that it is compared with."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest
import torch
from diffusers import AceStepTransformer1DModel
from ostinato.engine_runtime.bench.case import Case
from ostinato.engine_runtime.bench.floor import Floor, Product, products
from ostinato.engine_runtime.bench.play import steady
from ostinato.engine_runtime.bench.subject import SHAPES, opened, references, source_for
from ostinato.engine_runtime.engines.eager import EagerEngine
from ostinato.engine_runtime.errors import InputError
from ostinato.engine_runtime.models.sized import SIZES, sized_decoder
from torch import nn

from ...engine_files import made_up, put
from .runs import CPU, MOMENT, SMALL


def test_the_floor_is_every_matrix_product_of_the_reference(tiny):
    """Against the layers of the reference itself, as they are called."""
    flops = Counter()

    def count(name, module, given, y):
        x = given[0]
        if isinstance(module, nn.ConvTranspose1d):
            flops[name] += 2 * x.numel() * module.weight[0].numel()
        else:
            flops[name] += 2 * y.numel() * module.weight[0].numel()

    engine = EagerEngine(tiny.transformer(), "x")
    for name, module in engine.decoder.named_modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.ConvTranspose1d) and "time_embed" not in name:
            module.register_forward_hook(partial(count, name))
    rows = engine.rows(3, 26, 64)
    fed = rows.hidden_states, rows.timestep, rows.encoder_hidden_states, rows.encoder_attention_mask
    engine.decoder(*fed, rows.context_latents)
    assert sum(flops.values()) == sum(p.flops for p in products(tiny.config, Case(3, 1, 1.04, 64)))


def test_the_floor_of_the_real_size():
    """8.475 TFLOP of a tick of four, with the keys and values of half a condition."""
    config = {**SIZES["2b"], "in_channels": 192, "audio_acoustic_hidden_dim": 64, "patch_size": 2}
    one = products(config, Case())
    assert sum(p.flops for p in one) == pytest.approx(8.475e12, rel=1e-3)
    full = products(config, Case(cfg="full"))
    assert sum(p.flops for p in full) == pytest.approx(2 * sum(p.flops for p in one), rel=2e-3)
    assert products(config, Case(cfg="self")) == one
    once = products(config, Case(depth=4, steps=8, cfg="initialize"))
    assert sum(p.flops for p in once) == pytest.approx(sum(p.flops for p in one) * (1 + 1 / 8), rel=2e-3)
    third = products(config, Case(depth=4, steps=8, cfg="full", every=3))
    assert sum(p.flops for p in third) == pytest.approx(sum(p.flops for p in one) * (1 + 3 / 8), rel=2e-3)


def test_a_product_is_measured_once():
    floor = Floor(CPU, torch.float32, span=MOMENT)
    one = floor.ms([Product(64, 64, 64, 1.0)])
    assert one > 0 and floor.ms([Product(64, 64, 64, 6.0, layer=False)]) == pytest.approx(6 * one)


# --- engines and weights ---------------------------------------------------------------------------------------------


def test_random_weights_come_from_a_seed():
    def first(**changes):
        made = sized_decoder("2b", torch.bfloat16, CPU, **{"num_hidden_layers": 0, **changes})
        return made.condition_embedder.weight

    weight = first()
    assert torch.equal(weight, first()) and not torch.equal(weight, first(seed=1))
    assert weight.dtype == torch.bfloat16 and not weight.requires_grad
    assert float(weight.float().var()) == pytest.approx(1 / 2048, rel=0.01)
    with pytest.raises(InputError, match="the size is '3b'"):
        sized_decoder("3b", torch.bfloat16, CPU)


@pytest.mark.parametrize(("size", "billions"), [("2b", 1.575), ("xl", 4.169)])
def test_the_sizes_are_the_real_ones(size, billions):
    with torch.device("meta"):
        made = AceStepTransformer1DModel(**SIZES[size])
    assert sum(p.numel() for p in made.parameters()) / 1e9 == pytest.approx(billions, abs=5e-4)
    assert made.condition_embedder.in_features == 2048


def test_each_engine_has_weights_of_its_own(tiny):
    with opened("eager", tiny) as one, opened("eager", tiny) as two:
        a, b = (next(e.decoder.parameters()) for e in (one, two))
        assert torch.equal(a, b) and a.data_ptr() != b.data_ptr()


def test_the_compiled_reference_is_the_reference(tiny):
    """Traced whole, for every shape; what `torch.compile` makes of the trace is its own affair."""
    works = []
    with torch._dynamo.config.patch("cache_size_limit", SHAPES):  # the reference sets it
        both = references(("eager", "compile"), tiny, backend="eager", fullgraph=True)
        for engine, captured in both.values():
            assert not captured
            with steady(engine, SMALL, 2) as played:
                works.append(played.work)
    assert works[0] == works[1] and both["compile"].engine.name.startswith("compile, ")
    assert both["compile"].engine.decoder.model is both["eager"].engine.decoder.model, "one set of weights"


def test_a_reference_may_be_replayed_as_graphs(tiny):
    plain, graph = references(("eager", "eager-graph"), tiny).values()
    assert graph.captured and not plain.captured and plain.engine is graph.engine


def test_the_source_of_a_plan_is_what_it_was_built_from(cache, tmp_path):
    plan = put(tmp_path, *made_up("one"))
    assert source_for(("eager", str(plan)), None, None, CPU, torch.float32).name == "random"
    _, sidecar = made_up("two")
    spec = sidecar.spec.__class__("two", "tensorrt_rtx", sidecar.profiles, onnx=str(tmp_path / "two.onnx"))
    exported = put(tmp_path, *made_up("two", spec=spec))
    with pytest.raises(InputError, match="give --model or --size"):
        source_for((str(exported),), None, None, CPU, torch.float32)
