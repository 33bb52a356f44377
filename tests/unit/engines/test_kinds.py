"""Whether a kind of engine can play here: what a machine or a model lacks, and the check before it plays."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from ostinato.engine_runtime.engines.compiled import needs, plain
from ostinato.engine_runtime.engines.compiled.engine import CompiledEngine
from ostinato.engine_runtime.engines.compiled.plain import quantized
from ostinato.engine_runtime.engines.compiled.weights import Narrow
from ostinato.engine_runtime.engines.eager import EagerEngine
from ostinato.engine_runtime.engines.kinds import KINDS, make_engine
from ostinato.engine_runtime.engines.profiles import Profile, Span
from ostinato.engine_runtime.engines.prove import prove
from ostinato.engine_runtime.errors import EngineError, InputError, MemoryShortage
from ostinato.engine_runtime.models.engines import torch_engine
from ostinato.engine_runtime.models.loading import load
from ostinato.nodes.engine import Engine

CPU = torch.device("cpu")


def on_gpu(transformer, dtype):
    """What is asked of the model where it is on a GPU."""
    return SimpleNamespace(
        device=torch.device("cuda", 0), dtype=dtype, layers=transformer.layers, config=transformer.config
    )


@pytest.mark.parametrize("kind", KINDS[1:])
def test_what_a_machine_lacks_is_named(transformer, kind, cuda):
    with pytest.raises(EngineError, match=f"the {kind} engine was asked for on cpu"):
        make_engine(kind, transformer, "unit-test")
    cuda(get_device_capability=lambda device: (7, 0), get_device_name=lambda device: "Old GPU")
    with pytest.raises(EngineError, match=r"Old GPU has compute capability 7.0; the \w+ engine needs (7\.5|8\.9)"):
        needs.operations(on_gpu(transformer, torch.bfloat16), kind)
    cuda(get_device_capability=lambda device: (9, 0))
    with pytest.raises(EngineError, match="the weights are torch.float32; .* engine takes bfloat16"):
        needs.operations(on_gpu(transformer, torch.float32), kind)

    def absent():
        raise ModuleNotFoundError("No module named 'triton'")

    with pytest.raises(EngineError, match=r"needs Triton, .*\(No module named 'triton'\).*triton-windows"):
        needs.operations(on_gpu(transformer, torch.bfloat16), kind, absent)


class Fused:
    """Kernels of a machine that has no compiler for them."""

    triton = SimpleNamespace(__version__="3.6.0")

    @staticmethod
    def silu(h, narrow, channel):
        raise RuntimeError("Failed to find C compiler")


def test_a_kernel_that_cannot_be_made_is_named(transformer, cuda):
    cuda(get_device_capability=lambda device: (9, 0))
    with pytest.raises(EngineError, match=r"cannot make its kernels here \(Failed to find C compiler\)"):
        needs.check_kernels("compiled", Fused, CPU, torch.bfloat16)
    with pytest.raises(EngineError, match="the compiled engine cannot make its kernels here"):
        needs.operations(on_gpu(transformer, torch.bfloat16), "compiled", lambda: Fused)


@pytest.mark.parametrize("sizes", [{"head_dim": 24}, {"num_attention_heads": 6}, {"attention_bias": True}])
def test_a_model_of_other_sizes_is_refused(transformer, sizes):
    other = type(transformer)(**{**transformer.config, **sizes})
    with pytest.raises(EngineError, match="head widths of 16 to 128"):
        needs.check_sizes("compiled", other)
    needs.check_sizes("compiled", transformer)


def test_another_kind_is_refused(transformer):
    with pytest.raises(InputError, match="the kind of engine is 'fast'; allowed are eager, compiled, fp8"):
        make_engine("fast", transformer, "unit-test")


def test_no_room_is_said(transformer, monkeypatch):
    engine = CompiledEngine(copy.deepcopy(transformer), "unit-test")

    def full():
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(engine.decoder, "bind", full)
    with pytest.raises(MemoryShortage, match="found no room for its weights"):
        engine.ready()


@pytest.mark.parametrize("kind", KINDS[1:])
def test_the_node_plays_eager_and_says_why(base, kind, caplog):
    engine, info = Engine.execute(base, kind, 8).args
    assert isinstance(engine, EagerEngine) and engine.limits.batch == 8
    assert f"{kind} does not run here: the {kind} engine was asked for on cpu" in info
    assert "eager plays instead" in caplog.text


def test_the_node_plays_eager_where_memory_is_short(base, caplog):
    words = "no memory is free on cuda:0", "the weights must fit", "unload other models"
    rooms = iter([MemoryShortage(*words), None])

    def ready():
        if (error := next(rooms)) is not None:
            raise error

    engine, info = Engine.execute(replace(base, ready=ready), "fp8", 8).args
    assert isinstance(engine, EagerEngine) and "no memory is free" in info and "eager plays instead" in caplog.text


def broken_silu(h, narrow, channel=None):
    """The gate is left out."""
    up = h.chunk(2, -1)[1]
    return (up, None) if narrow is None else quantized(up / channel, narrow)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_an_engine_is_proven_before_it_plays(cache, kind):
    """With the operations of the CPU in place of the kernels; then with weights that are not the model's."""
    model = load("random-base", torch.device("cpu"), torch.bfloat16)
    engine = torch_engine(model, kind, 4, plain)
    assert "within" in engine.summary() and engine.recipe["kind"] == kind and engine.decoder.bound is None
    parts = {"silu": staticmethod(broken_silu), "gated": staticmethod(lambda *_: None)}
    broken = type("Broken", (), {**vars(plain), **parts})
    with pytest.raises(EngineError, match="the engine is not the reference"):
        torch_engine(model, kind, 4, broken)


def test_float8_has_a_tolerance_of_its_own(base):
    """Twice that of bfloat16, whatever the weights are."""

    class Off(CompiledEngine):
        """As far from the reference as that."""

        error = 0.09

        def __call__(self, rows):
            return reference(rows) * (1 + self.error)

    assert "within" in torch_engine(base, "fp8", 4, plain).summary()
    reference = EagerEngine(base.pipe.transformer, "unit-test")
    off, least = Off(base.pipe.transformer, "unit-test", narrow=Narrow()), Profile(*[Span(2, 2, 2)] * 3)
    assert "within 0.09 " in prove(off, reference, least, 0, products=off.products).summary()
    with pytest.raises(EngineError, match=r"allowed is a relative difference of 0.002"):
        prove(off, reference, least, 0)
    off.error = 0.15
    with pytest.raises(EngineError, match=r"allowed is a relative difference of 0.12"):
        prove(off, reference, least, 0, products=off.products)
