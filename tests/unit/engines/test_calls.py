"""The Python functions that a pass calls: each costs a tick's time wherever passes are not replayed as graphs."""

import cProfile
import pstats

import pytest
from ostinato.engine_runtime.engines.compiled.engine import CompiledEngine
from ostinato.engine_runtime.engines.compiled.plain import FP8
from ostinato.engine_runtime.engines.compiled.weights import Narrow
from ostinato.engine_runtime.engines.prove import fill


@pytest.mark.parametrize("narrow", [None, Narrow(FP8)])
def test_a_pass_does_not_look_through_the_model(base, narrow):
    """Diffusers walks all modules for a model's dtype: 97 times a tick of the 2B size took 190 ms on an H100's host."""
    engine = CompiledEngine(base.pipe.transformer, "unit-test", narrow=narrow)
    engine.ready()
    rows = engine.rows(2, 50, 16)
    fill((rows,), 2, 50, 16, engine.width, engine.dtype, 0)
    engine(rows)
    with cProfile.Profile() as profile:
        engine(rows)
    called = {function for _, _, function in pstats.Stats(profile).stats}
    assert "_velocity" in called and not called & {"named_modules", "modules", "named_parameters", "parameters"}
