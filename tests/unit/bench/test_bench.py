"""The benchmark: what it plays, and what it reports."""

from __future__ import annotations

import json
import math
import weakref
from types import SimpleNamespace

import pytest
import torch
from ostinato.engine_runtime.bench import report
from ostinato.engine_runtime.bench.calls import TICK, sorted_out
from ostinato.engine_runtime.bench.case import Case, grid
from ostinato.engine_runtime.bench.play import POOL, Work, steady
from ostinato.engine_runtime.bench.run import Bench, Plan, run
from ostinato.engine_runtime.bench.subject import Source, references
from ostinato.engine_runtime.controls.knobs import KNOBS
from ostinato.engine_runtime.engines.eager import EagerEngine
from ostinato.engine_runtime.errors import EngineError, InputError
from ostinato.engine_runtime.stream.sessions import runtime
from torch.autograd import DeviceType

from ...helpers import StandIn
from .runs import CPU, MOMENT, SMALL, write

# --- what is played --------------------------------------------------------------------------------------------------

CASES = {
    "plain": SMALL,
    "guided": Case(2, 3, 1.0, 4, "full"),
    "initialize": Case(2, 3, 1.0, 4, "initialize"),
    "self": Case(3, 2, 1.0, 4, "self"),
    "more slots than steps": Case(4, 1, 1.0, 4),
    "dcw": Case(2, 2, 1.0, 4, dcw=True),
    "every control": Case(3, 2, 1.0, 4, "full", controls=True),
    "sessions": Case(2, 4, 1.0, 4, sessions=3),
}


@pytest.mark.parametrize("name", CASES)
def test_the_ring_is_full_at_every_tick_and_its_slots_are_apart(name):
    case, seen = CASES[name], []
    with steady(StandIn(), case, 4 * case.steps) as played:
        tick = played.drive.stage.tick
        plain = tick.run

        def looked(plan, *rest):
            assert len(plan) == case.slots and all(move.scalars.t > move.scalars.t_next for move in plan)
            seen.append([slot.step for slot in played.drive.stage.ring.slots])
            return plain(plan, *rest)

        tick.run = looked
        laps = played.run(4 * case.steps)
        assert len(laps.ms) == len(laps.host_ms) == len(seen) == 4 * case.steps
        assert {len(set(steps)) for steps in seen} == {min(case.slots, case.steps)}
        assert laps.finished == [4 * case.depth] * case.sessions, "every slot as often as every other"
        assert not any(session.stats().dropped for session in played.drive.sessions)
        with pytest.raises(ValueError, match="1 ticks more"):
            played.run(1)
    assert not runtime().names


def test_identical_arguments_are_identical_work(engine):
    """And other arguments are other work."""

    def work(case, captured=True):
        with steady(engine, case, 2, captured) as played:
            return played.work

    assert work(SMALL) == work(SMALL) == work(SMALL, captured=False)
    others = [Case(2, 2, 1.0, 4, "full"), Case(2, 2, 1.0, 5), Case(2, 2, 1.0, 4, dcw=True), Case(2, 3, 1.0, 4)]
    assert len({work(SMALL), *map(work, others)}) == 5


def test_every_control_is_on():
    work = Work(StandIn(), Case(2, 2, 1.0, 4, "full", controls=True))
    assert {name for name in KNOBS if KNOBS[name].is_neutral(getattr(work.knobs, name))} == set()
    assert {name for name in KNOBS if KNOBS[name].default is None and getattr(work.knobs, name) is None} == {"blend"}
    asked = [work.request(i) for i in range(4)]
    assert [r.sampling.solver for r in asked] == ["sde", "ode"] * 2
    assert all(r.masked and r.target and r.guidance.mode == "full" for r in asked)


def test_requests_share_their_tensors_on_the_device():
    work = Work(StandIn(), SMALL)
    a, b, c = work.request(0), work.request(POOL), work.request(1)
    assert a.noise is b.noise and a.condition is b.condition and a.sampling.seed != b.sampling.seed
    assert not torch.equal(a.noise, c.noise) and not torch.equal(a.condition.tokens, c.condition.tokens)


def test_a_latent_without_numbers_is_an_error():
    class Nothing(StandIn):
        def __call__(self, rows):
            return torch.full_like(rows.hidden_states, torch.nan)

    with pytest.raises(EngineError, match="NaN"), steady(Nothing(), SMALL, 2):
        pass
    assert not runtime().names


@pytest.mark.parametrize(
    "wrong",
    [
        {"cfg": "some"},
        {"seconds": 0.0},
        {"seconds": math.nan},
        {"tokens": 0},
        {"sessions": 0},
        {"ahead": 0},
        {"depth": 9},
        {"steps": 0},
    ],
)
def test_a_case_out_of_range_is_refused(wrong):
    with pytest.raises(InputError):
        Case(**wrong)


@pytest.mark.parametrize("wrong", [{"tokens": 9999}, {"seconds": 601}, {"depth": 8, "sessions": 3}])
def test_a_case_that_does_not_fit_is_refused(engine, wrong):
    with pytest.raises(InputError), steady(engine, Case(**{"seconds": 1.0, **wrong}), 1):
        pass
    assert not runtime().names


# --- the report ------------------------------------------------------------------------------------------------------


def test_the_json_has_the_fields_that_it_must(found, tmp_path):
    assert tuple(found)[:5] == ("gpu", "command", "versions", "floor_ms", "results")
    assert found["gpu"] is None and found["versions"]["torch"] == torch.__version__
    for one, depth in zip(found["results"], (1, 2), strict=True):
        first = "size engine precision depth steps seconds cfg dcw tick_ms latents_per_s realtime joins_per_tick"
        assert list(one)[:15] == [*first.split(), "launches_per_tick", "peak_bytes", "reference_ratio"]
        assert (one["size"], one["engine"], one["precision"], one["depth"]) == ("tiny", "eager", "fp32", depth)
        tick = one["tick_ms"]
        assert list(tick) == ["median", "p95", "p99", "host"]
        assert 0 < tick["host"] <= tick["p95"] <= tick["p99"] and tick["median"] <= tick["p95"]
        assert one["joins_per_tick"] is one["launches_per_tick"] is one["peak_bytes"] is None, "there is no GPU"
        assert one["ticks"] == 2 * 4, "two rounds of three ticks, rounded up to whole requests"
        assert one["latents_per_s"] == pytest.approx(1e3 * depth / 2 / one["mean_ms"]), "a full ring"
        assert one["realtime"] == pytest.approx(one["latents_per_s"]), "of one second each"
        assert one["floor_ms"] > 0 and one["time_to_first_s"] > 0
        beside = one["references"]["eager"]
        assert one["reference_ratio"] == beside["ratio"] == pytest.approx(beside["tick_ms"]["median"] / tick["median"])
    assert found["floor_ms"] == found["results"][0]["floor_ms"]
    assert report.load(write(tmp_path, json.dumps(found))) == found
    text = report.table(found)
    assert len(text.splitlines()) == 5 and "x eager" in text and "tiny eager fp32" in text


def test_references_take_turns_with_the_engine(tiny, engine):
    """A B A B, the reference without CUDA graphs."""
    order = []

    class Noted(Bench):
        def timed(self, engine, case, times, captured):
            order.append((engine is self.engine, captured))
            return super().timed(engine, case, times, captured)

    plan = Plan(("eager",), (SMALL,), 2, ("eager",), span=MOMENT)
    Noted(plan, tiny, "eager", engine, references(plan.references, tiny), 0).measure(SMALL)
    assert order == [(True, True), (False, False)] * 2


@pytest.mark.parametrize(
    ("depth", "steps", "want"), [(2, 4, [False, True, False, True]), (1, 3, [False, True, True]), (4, 4, [False] * 4)]
)
def test_ticks_in_which_somebody_takes_a_slot_are_not_quiet(tiny, depth, steps, want):
    case = Case(depth, steps, 1.0, 4)
    with steady(EagerEngine(tiny.transformer(), "x"), case, steps) as played:
        found = played.run(steps).quiet
    assert found in [want[i:] + want[:i] for i in range(steps)]


def test_one_engine_is_gone_before_the_next_is_opened(cache):
    seen, alive = [], []

    class Watched(Source):
        """Looks for the transformers it gave out before."""

        def transformer(self):
            alive.append(sum(one() is not None for one in seen))
            made = super().transformer()
            seen.append(weakref.ref(made))
            return made

    run(Plan(("eager", "eager"), (SMALL,), 2, span=MOMENT), Watched(None, "tiny", CPU, torch.float32))
    assert alive == [0, 0]


def test_calls_are_counted_after_the_times(tiny):
    """A GPU's run adds them to what it has timed; on the CPU there are none."""
    case, engine = SMALL, EagerEngine(tiny.transformer(), "x")
    bench = Bench(Plan(("eager",), (case,), 2, span=MOMENT), tiny, "eager", engine, {}, 0)
    timed, calls = bench.measure(case), bench.calls(case)
    assert all(timed[name] is None for name in calls)
    assert calls["joins_per_tick"] == calls["launches_per_tick"] == 0 and calls["calls_per_tick"] == {}


def test_what_a_tick_calls_is_counted_by_name():
    """Inside the ticks only, whatever thread or module called; and copies that are not from pinned memory."""

    def event(name, start, end=None, device=DeviceType.CPU):
        return SimpleNamespace(name=name, device_type=device, time_range=SimpleNamespace(start=start, end=end or start))

    names = ["cudaLaunchKernel", "cuLaunchKernelEx", "cudaGraphLaunch", "cudaMemcpyAsync", "cudaEventRecord"]
    ticks = [event(TICK, 0, 10), event(TICK, 20, 30)]
    first = [event(name, i) for i, name in enumerate(names)]
    second = [event(name, 21) for name in ("cudaLaunchKernelExC", "cudaStreamSynchronize", "cudaMemcpy", "cudaMalloc")]
    second += [event(name, 30) for name in ("cudaStreamWaitEvent", "cuMemcpyHtoDAsync_v2", "cudaHostAlloc")]
    outside = [event(name, 15) for name in ("cudaEventSynchronize", "cudaFree", "cudaLaunchKernel")]
    kernels = [event(name, 5, device=DeviceType.CUDA) for name in ("gemm", "norm", "Memcpy HtoD (Pageable -> Device)")]
    calls = sorted_out([*outside, *second, *kernels, *reversed(first), *reversed(ticks), event("aten::mm", 3)])
    assert calls.launches == [3, 1] and calls.joins == 3 and calls.allocations == 2
    assert (calls.kernels, calls.pageable) == (2, 1)
    assert calls.per_tick()["cudaMemcpyAsync"] == 0.5 and "cudaFree" not in calls.per_tick()


def test_a_run_that_ends_early_has_kept_what_it_measured(tiny):
    seen = []

    def tell(what):
        if "--depth 2" in what:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cases = grid((1, 2), (1.0,), ("off",), steps=2, tokens=4)
        run(Plan(("eager",), cases, 2, span=MOMENT), tiny, tell, lambda found: seen.append(len(found["results"])))
    assert seen == [1]
