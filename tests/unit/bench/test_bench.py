"""The benchmark: what it plays, what it reports, and what two reports say of each other."""

from __future__ import annotations

import json
import math
import random
import weakref
from collections import Counter
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import AceStepTransformer1DModel
from ostinato.cli.main import app
from ostinato.engine_runtime.bench import report
from ostinato.engine_runtime.bench import soak as soak_module
from ostinato.engine_runtime.bench.calls import TICK, sorted_out
from ostinato.engine_runtime.bench.case import Case, grid
from ostinato.engine_runtime.bench.floor import Floor, Product, products
from ostinato.engine_runtime.bench.play import POOL, Work, steady
from ostinato.engine_runtime.bench.run import Bench, Plan, run
from ostinato.engine_runtime.bench.soak import GROWTH, USED, Soak, soak
from ostinato.engine_runtime.bench.subject import SHAPES, Source, opened, references, source_for
from ostinato.engine_runtime.controls.knobs import KNOBS
from ostinato.engine_runtime.engines.eager import EagerEngine
from ostinato.engine_runtime.errors import EngineError, InputError
from ostinato.engine_runtime.models.engines import eager_engine
from ostinato.engine_runtime.models.sized import SIZES, sized_decoder
from ostinato.engine_runtime.plots.bench import SIZE, plot_floor
from ostinato.engine_runtime.stream.sessions import runtime
from torch import nn
from torch.autograd import DeviceType
from typer.testing import CliRunner

from ...engine_files import made_up, put
from ...helpers import StandIn

CPU = torch.device("cpu")
SMALL = Case(depth=2, steps=2, seconds=1.0, tokens=4)
MOMENT = 1e-3  # seconds that a product is timed for: no test is about how fast they are


@pytest.fixture(scope="module")
def engine(turbo):
    return eager_engine(turbo)


@pytest.fixture(scope="module")
def tiny(cache):
    return Source(None, "tiny", CPU, torch.float32)


@pytest.fixture(scope="module")
def found(tiny):
    """A run on the CPU: two cases, and a reference beside them."""
    cases = grid((1, 2), (1.0,), ("off",), steps=2, tokens=4)
    return run(Plan(("eager",), cases, 3, ("eager",), "ostinato bench", MOMENT), tiny)


def changed(run, ms=None, **changes):
    """A run with other figures in its only result."""
    one = {**run["results"][0], **changes}
    if ms is not None:
        one |= {"tick_ms": {**one["tick_ms"], "median": ms}, "rounds_ms": [0.99 * ms, 1.01 * ms]}
    return {**run, "results": [one]}


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


# --- the floor -------------------------------------------------------------------------------------------------------


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


# --- two runs --------------------------------------------------------------------------------------------------------


def test_a_case_is_slower_only_where_all_rounds_are(found):
    run = changed(found, 10.0)
    verdicts = {ms: report.compare(run, changed(found, ms))[0].verdict for ms in (9.0, 9.85, 10.0, 10.15, 11.0)}
    assert verdicts == {9.0: "faster", 9.85: "same", 10.0: "same", 10.15: "same", 11.0: "slower"}
    (pair,) = report.compare(run, changed(found, 11.0))
    assert pair.ratio == pytest.approx(1.1) and pair.low == pytest.approx(1.1 * 0.99 / 1.01)
    assert pair.high == pytest.approx(1.1 * 1.01 / 0.99) and pair.same_work
    assert "1.100 (1.078 to 1.122)  slower" in pair.text() and json.dumps(pair.as_json())


@pytest.mark.parametrize(("ms", "verdict"), [(9.7, "faster"), (9.81, "same"), (10.19, "same"), (10.3, "slower")])
def test_a_change_of_less_than_two_in_a_hundred_is_none(found, ms, verdict):
    """However sharply the rounds of two runs divide."""
    before, after = (
        changed(found, rounds_ms=[median, median], tick_ms={**found["results"][0]["tick_ms"], "median": median})
        for median in (10.0, ms)
    )
    assert report.compare(before, after)[0].verdict == verdict


def test_runs_pair_by_their_arguments(found):
    other = {**found, "results": found["results"][::-1]}
    assert [pair.ratio for pair in report.compare(found, other)] == [1.0, 1.0]
    assert len(report.compare(found, changed(found))) == 1
    assert report.compare(found, changed(found, work="another"))[0].text().endswith(", other latents")
    for name in ("tokens", "engine", "dcw", "sessions", "ahead"):
        with pytest.raises(InputError, match="no case in common"):
            report.compare(changed(found), changed(found, **{name: "another"}))


def test_runs_of_different_devices_are_refused_unless_forced(found):
    other = {**found, "gpu": "A GPU"}
    with pytest.raises(InputError, match="a CPU and A GPU"):
        report.compare(found, other)
    assert len(report.compare(found, other, force=True)) == 2


def write(folder, text):
    path = folder / "mine.json"
    path.write_text(text)
    return path


BROKEN = {
    "a list": lambda d: [d],
    "no versions": lambda d: {k: v for k, v in d.items() if k != "versions"},
    "results of another kind": lambda d: {**d, "results": {}},
    "a result of another kind": lambda d: {**d, "results": ["x"]},
    "a result without a time": lambda d: changed(d, tick_ms={"median": 1.0}),
    "a text for a time": lambda d: changed(d, tick_ms={**d["results"][0]["tick_ms"], "p95": "fast"}),
    "not a number": lambda d: changed(d, math.nan),
    "a case there is not": lambda d: changed(d, cfg="some"),
    "no joins": lambda d: {**d, "results": [{k: v for k, v in d["results"][0].items() if k != "joins_per_tick"}]},
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_run_is_refused(found, what, tmp_path):
    for text in (json.dumps(BROKEN[what](found)), "{"):
        with pytest.raises(InputError, match="mine.json is no.*ostinato bench --json"):
            report.load(write(tmp_path, text))


def test_the_picture_has_a_dot_for_every_time(found):
    picture = plot_floor(found)
    assert picture.size == SIZE and picture.tobytes() != plot_floor(changed(found, 1e3)).tobytes()
    assert plot_floor(changed(found, references={})).tobytes() != plot_floor(changed(found)).tobytes()
    for odd in (changed(found, floor_ms=None), changed(found, 0.0), {**found, "results": []}):
        assert plot_floor(odd).size == SIZE


# --- soak ------------------------------------------------------------------------------------------------------------


def test_a_soak_ends_with_the_work_it_began_with():
    """By the seeds of the requests and the knobs that were turned; what lies between is other work."""
    ticks = []

    def on_tick(done, total):
        assert (done, total) == (len(ticks) + 1, 190)
        (name,) = runtime().names
        session = runtime().session(name)
        seeds = [request.sampling.seed for request in session.queued]
        ticks.append((session.config.depth, str(session.knobs.dcw_mode), seeds))

    made = soak(StandIn(), 190, 1.0, seed=3, on_tick=on_tick, block=30)
    assert len(ticks) == made.ticks == 190
    warm, first, second, between, _, again, last = (
        ticks[a:b] for a, b in pairwise((0, 30, 60, 90, 120, 130, 160, 190))
    )
    assert warm == first == again != second == last != between
    assert made.finished > 30 and made.dropped == 0
    assert [len(made.first_ms), len(made.between_ms), len(made.last_ms)] == [2, 2, 2] and min(made.first_ms) > 0
    assert made.device_bytes is made.device_used is None and not runtime().names
    json.dumps(made.as_json())


def test_every_knob_can_be_turned_in_a_soak():
    player = SimpleNamespace(_random=random.Random(0), frames=25)
    player.generator = partial(soak_module.Player.generator, player)
    for knob in KNOBS.values():
        for _ in range(20):
            knob.check(soak_module.Player.value(player, knob))


def test_a_soak_says_what_is_not_flat():
    flat = {"engine": "x", "ticks": 1, "finished": 1, "dropped": 0, "first_ms": (1.0, 2.0, 3.0), "between_ms": (9.0,)}
    well = {**flat, "last_ms": (2.0, 2.1, 3.1)}  # one of three was slow
    assert Soak(**well, device_bytes=(5, 5 + GROWTH), device_used=(0, USED), host_bytes=None).wrong == []
    grown = Soak(
        **{**flat, "last_ms": (1.2, 2.3, 3.0)},
        device_bytes=(0, 2 * GROWTH),
        device_used=(0, 2 * USED),
        host_bytes=(0, 9 * USED),
    )
    assert len(grown.wrong) == 4 and grown.text().count("NOT FLAT") == 4
    assert "15 % more at the end" in grown.wrong[-1] and "9.00 between" in grown.text()


# --- command line ----------------------------------------------------------------------------------------------------

RUN = CliRunner()
FEW = ["--seconds", "1", "--steps", "2", "--tokens", "4", "--ticks", "2", "--device", "cpu"]


def test_the_command_writes_json_shows_it_and_compares(cache, tmp_path):
    kept = tmp_path / "kept.json"
    done = RUN.invoke(app, ["bench", "--depth", "1,2", *FEW, "--keep", str(kept), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(kept.read_text()) == json.loads(done.stdout)
    made = report.load(kept)
    assert [one["depth"] for one in made["results"]] == [1, 2]
    given = "--engine eager --depth 1,2 --steps 2 --seconds 1 --tokens 4 --cfg off --every 1 --sessions 1 --ahead 2"
    assert made["command"] == f"ostinato bench {given} --ticks 2 --device cpu --precision auto --json"
    file, slow, plot = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "a.png"
    file.write_text(done.stdout)
    shown = RUN.invoke(app, ["bench", "show", str(file), "--plot", str(plot)])
    assert shown.exit_code == 0 and report.table(made) in shown.stdout
    assert plot.read_bytes().startswith(b"\x89PNG")
    same = RUN.invoke(app, ["bench", "compare", str(file), str(file)])
    assert same.exit_code == 0 and same.stdout.count(" same ") == 2
    slow.write_text(json.dumps(changed(made, 1e4)))
    worse = RUN.invoke(app, ["bench", "compare", str(file), str(slow), "--json"])
    assert worse.exit_code == 1 and json.loads(worse.stdout)[0]["verdict"] == "slower"
    slow.write_text(json.dumps({**made, "gpu": "A GPU"}))
    assert RUN.invoke(app, ["bench", "compare", str(file), str(slow)]).exit_code == 2
    assert RUN.invoke(app, ["bench", "compare", str(file), str(slow), "--force"]).exit_code == 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--engine", "warp"], "the engine is 'warp'; allowed are eager, compiled, fp8"),
        (["--size", "3b"], "the size is '3b'"),
        (["--size", "2b", "--model", "tiny"], "one of them is allowed"),
        (["--depth", "1,many"], "depth is '1,many'"),
        (["--depth", ""], "depth is ''"),
        (["--depth", "9"], "depth is 9"),
        (["--engine", ","], "nothing to measure"),
        (["--cfg", ""], "nothing to measure"),
        (["--cfg", "some"], "the guidance is 'some'"),
        (["--reference", "magic"], "the reference is 'magic'"),
        (["--ticks", "0"], "ticks is 0"),
        (["--precision", "int8"], "the precision is 'int8'"),
        (["--device", "moon"], "the device is 'moon'"),
    ],
)
def test_the_command_refuses_with_one_sentence(cache, options, told):
    done = RUN.invoke(app, ["bench", *FEW, *options])
    assert done.exit_code == 2 and told in done.stderr.splitlines()[-1] and not done.stdout


def test_a_plan_that_cannot_be_opened_is_told(cache, tmp_path):
    plan = put(tmp_path, *made_up("one"))
    done = RUN.invoke(app, ["profile", "--engine", str(plan), *FEW])
    assert done.exit_code == 1 and done.stderr.startswith("ostinato: ") and "Traceback" not in done.output


def test_the_soak_command_exits_with_1_where_it_is_not_flat(cache, monkeypatch):
    made = {
        "engine": "x",
        "ticks": 1,
        "finished": 1,
        "dropped": 0,
        "device_bytes": None,
        "device_used": None,
    }
    for last, code in ((1.0, 0), (2.0, 1)):
        told = Soak(**made, first_ms=(1.0,), between_ms=(), last_ms=(last,), host_bytes=None)
        monkeypatch.setattr(soak_module, "soak", lambda *a, told=told: told)
        done = RUN.invoke(app, ["bench", "soak", "--json"])
        assert done.exit_code == code and json.loads(done.stdout)["drift"] == last - 1.0


def test_a_run_that_ends_early_has_kept_what_it_measured(tiny):
    seen = []

    def tell(what):
        if "--depth 2" in what:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cases = grid((1, 2), (1.0,), ("off",), steps=2, tokens=4)
        run(Plan(("eager",), cases, 2, span=MOMENT), tiny, tell, lambda found: seen.append(len(found["results"])))
    assert seen == [1]


# --- what is committed -----------------------------------------------------------------------------------------------

RESULTS = sorted((Path(__file__).resolve().parents[3] / "engine_runtime" / "bench" / "results").glob("*/*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_committed_result_is_read_as_the_command_wrote_it(path):
    text = path.read_text(encoding="utf-8")
    if '"results"' not in text:
        assert json.loads(text)["engine"]
        return
    run = report.load(path)
    assert len(report.table(run).splitlines()) == 3 + len(run["results"]) and run["gpu"]


def test_results_are_committed():
    assert RESULTS
