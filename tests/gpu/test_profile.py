"""Layer profiles of engines whose kernels no operator of torch launches: every kernel of a tick is in the table."""

import copy

import pytest
import torch
from ostinato.engine_runtime.engines.kinds import KINDS, make_engine
from ostinato.engine_runtime.errors import EngineError
from ostinato.engine_runtime.models.loading import load
from ostinato.engine_runtime.profile import probe
from ostinato.engine_runtime.profile.layers import Workload
from torch.autograd import DeviceType

CUDA = torch.device("cuda", 0)
TICKS = 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("guidance", ["off", "full"])
def test_every_kernel_of_a_tick_is_in_the_table(cache, monkeypatch, kind, guidance):
    seen, rows = [], probe._rows
    monkeypatch.setattr(probe, "_rows", lambda events, *rest: seen.extend(events) or rows(events, *rest))
    transformer = copy.deepcopy(load("random-base", CUDA, torch.float32).pipe.transformer).to(torch.bfloat16)
    try:
        engine = make_engine(kind, transformer, "profiled")
    except EngineError as error:
        pytest.skip(str(error))
    found = probe.profile_engine(engine, Workload(4, 5.0, 8, guidance, 64), TICKS)
    device = [event for event in seen if event.device_type == DeviceType.CUDA]
    ticks = [event.time_range for event in device if event.name == probe.TICK]
    kernels = [event.time_range for event in device if not event.is_user_annotation]
    inside = [k.elapsed_us() for k in kernels if any(t.start <= k.start and k.end <= t.end for t in ticks)]
    assert len(ticks) == TICKS and found.clock == "kernels"
    assert found.total_ms == pytest.approx(sum(inside) / 1e3 / TICKS, rel=1e-3)
    kinds = found.kinds()
    assert min(kinds[kind] for kind in ("attention", "matrix product", "normalization")) > 0
    if kind != "eager":
        calls = {x.name: x.calls for x in found.layers}
        assert calls[f"{probe.TICK}: attention_kernel"] == pytest.approx(2 * len(transformer.layers))
