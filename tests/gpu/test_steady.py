"""A steady tick asks CUDA for launches alone: it waits for nothing, takes no memory, and launches what others did."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from ostinato.engine_runtime.bench.calls import count_calls
from ostinato.engine_runtime.bench.case import Case
from ostinato.engine_runtime.bench.floor import Floor, Product
from ostinato.engine_runtime.bench.play import steady
from ostinato.engine_runtime.bench.soak import soak
from ostinato.engine_runtime.engines.compiled.plain import FP8, INT8
from ostinato.engine_runtime.engines.kinds import KINDS, make_engine
from ostinato.engine_runtime.errors import EngineError
from ostinato.engine_runtime.models.sized import sized_decoder

pytestmark = pytest.mark.gpu
STEPS, TICKS = 5, 100
LAYERS = 2  # of the real width

CASES = {
    "plain": Case(4, STEPS, 5.0, 64),
    "guided": Case(4, STEPS, 5.0, 64, "full"),
    "initialize": Case(4, STEPS, 5.0, 64, "initialize"),
    "every control": Case(4, STEPS, 5.0, 64, "full", controls=True),
}


@pytest.fixture(scope="module", params=KINDS)
def engine(request):
    transformer = sized_decoder("2b", torch.bfloat16, torch.device("cuda", 0), num_hidden_layers=LAYERS)
    try:
        return make_engine(request.param, transformer, "steady")
    except EngineError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", CASES)
def test_a_hundred_steady_ticks(engine, name):
    """Admission and hand-out are in them: a request takes a slot, and one is done, four times in five ticks."""
    with steady(engine, CASES[name], TICKS) as played:
        calls = count_calls(played, TICKS)
    assert len(calls.ticks) == TICKS and min(calls.launches) > 0
    assert calls.joins == 0, calls.per_tick()
    assert calls.allocations == 0, calls.per_tick()
    assert calls.launches[STEPS:] == calls.launches[:-STEPS], "a tick launches what it did a request before"


def test_ticks_in_which_nobody_comes_or_goes_launch_the_same(engine):
    """Of a hundred, at most sixteen do more: each of four slots is done twice, and taken again a tick later."""
    with steady(engine, Case(4, TICKS // 2, 5.0, 64), TICKS) as played:
        launches = Counter(count_calls(played, TICKS).launches)
    assert launches.most_common(1)[0][1] >= TICKS - 16, launches


def test_identical_arguments_are_identical_work(engine):
    works = set()
    for captured in (True, False, True):
        with steady(engine, CASES["guided"], STEPS, captured) as played:
            works.add(played.work)
    assert len(works) == 1


def test_the_ring_is_timed_by_the_device(engine):
    with steady(engine, CASES["plain"], TICKS) as played:
        laps = played.run(TICKS)
    assert laps.finished == [4 * TICKS // STEPS] and min(laps.ms) > 0
    assert played.first_s > 0


def test_the_floor_is_measured_over_cold_buffers():
    """No faster than any H100 or H200 could be, and float8 faster than bf16, which cuBLAS's int8 is not there."""
    device, found = torch.device("cuda", 0), [Product(3000, 12288, 2048, 1.0)]
    wide = Floor(device, torch.bfloat16).ms(found)
    assert found[0].flops / wide / 1e9 < 1000  # TFLOP/s
    if torch.cuda.get_device_capability(device) >= (8, 9):
        assert Floor(device, torch.bfloat16, FP8).ms(found) < wide
    assert wide / 2 < Floor(device, torch.bfloat16, INT8).ms(found) < 2 * wide


def test_a_short_soak_is_flat(engine):
    made = soak(engine, 160, 5.0, block=40)
    # of so few ticks the device itself still fills with the graphs of what comes for the first and second time, and
    # their times say nothing
    (tensors,) = (name for name, *_ in made.memory() if name.endswith("tensors on the device"))
    assert made.device_bytes is not None
    assert not [what for what in made.wrong if what.startswith((tensors, "memory of the process"))]
