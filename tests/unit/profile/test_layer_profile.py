"""Layer profiles: every millisecond is accounted for, opaque regions are flagged, and two tables can be compared."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ostinato.cli.main import app
from ostinato.engine_runtime.engines.profiles import Profile, Span
from ostinato.engine_runtime.errors import InputError, OstinatoError
from ostinato.engine_runtime.models.engines import eager_engine
from ostinato.engine_runtime.plots.profile import plot_profile
from ostinato.engine_runtime.profile import probe
from ostinato.engine_runtime.profile.kinds import of_kernel, of_layer, of_operator
from ostinato.engine_runtime.profile.layers import KINDS, OPAQUE, LayerProfile, LayerTime, Workload, diff, load
from ostinato.engine_runtime.profile.probe import BETWEEN, TICK, WARM, profile_engine
from ostinato.engine_runtime.stream.sessions import runtime
from torch.autograd import DeviceType
from typer.testing import CliRunner

from ... import trt_stand_in as stand_in
from ...bindings import RELEASES, parameters
from ...helpers import StandIn

SMALL = Workload(depth=1, seconds=1.0, steps=3, guidance="off", tokens=8)


@pytest.fixture(scope="module")
def measured(turbo):
    """A profile, torch's own total of its ticks, the order in which it was made, and what was told meanwhile."""
    seen = SimpleNamespace(order=[], told=[], total=0.0, engine=eager_engine(turbo))
    timed, named, rows = probe._timed, probe._named, probe._rows

    def spy(events, cuda, ticks):
        seen.total = sum(e.cpu_time_total for e in events if e.name == TICK) / 1e3 / ticks
        return rows(events, cuda, ticks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "_timed", lambda *a: seen.order.append("timed") or timed(*a))
        patch.setattr(probe, "_named", lambda *a: seen.order.append("hooks") or named(*a))
        patch.setattr(probe, "_rows", spy)
        seen.found = profile_engine(seen.engine, SMALL, 3, lambda *t: seen.told.append(t))
    return seen


@pytest.fixture(scope="module")
def found(measured):
    return measured.found


def made(engine="one", tick=10.0, **kinds):
    layers = tuple(
        LayerTime(f"layers.{i}.{kind}", kind.replace("_", " "), ms, 1.0) for kind, ms in kinds.items() for i in (0, 1)
    )
    return LayerProfile(engine, "CPU", "host", SMALL, 3, tick, 2 * tick, layers)


# --- torch -----------------------------------------------------------------------------------------------------------


def test_the_kinds_account_for_the_profiled_ticks(measured, found):
    """Against the profiler's own total of the ticks, and nearly all of the wall time of a profiled tick."""
    assert sum(found.kinds().values()) == pytest.approx(measured.total, rel=1e-6)
    assert found.total_ms == pytest.approx(measured.total, rel=1e-6)
    assert 0.8 * found.profiled_ms < found.total_ms <= 1.01 * found.profiled_ms


def test_the_layers_of_the_decoder_are_there_with_their_calls(found):
    """A slot is one row: one call a tick of every layer."""
    groups = {x.name: x for x in found.grouped()}
    for name, kind in (
        ("layers.*.self_attn.to_q: linear", "matrix product"),
        ("layers.*.mlp.down_proj: linear", "matrix product"),
        ("layers.*.self_attn: scaled_dot_product_attention", "attention"),
        ("layers.*.cross_attn: scaled_dot_product_attention", "attention"),
        ("layers.*.mlp: silu", "pointwise"),
        ("layers.*.self_attn.norm_q: rsqrt", "normalization"),
    ):
        assert groups[name].kind == kind and groups[name].calls == pytest.approx(3), name
    assert {x.name for x in found.layers} >= {f"layers.{i}.mlp.up_proj: linear" for i in range(3)} | {BETWEEN}
    assert any(x.name.startswith(f"{TICK}: ") for x in found.layers), "what the tick does itself"
    assert set(found.kinds()) <= set(KINDS) and OPAQUE not in found.kinds()


def test_guided_ticks_decode_twice_the_rows(base):
    """Each row is decoded by itself on a CPU."""
    found = profile_engine(eager_engine(base), Workload(2, 1.0, 3, "full", 8), ticks=1)
    calls = {x.name: x.calls for x in found.grouped()}
    assert calls["layers.*.mlp.up_proj: linear"] == pytest.approx(4 * 3)


def test_the_wall_time_is_taken_before_anything_is_profiled(measured, found):
    assert measured.order == ["timed", "hooks", "timed"]
    assert found.tick_ms > 0 and found.slowdown == found.profiled_ms / found.tick_ms
    assert measured.told == [(i, 12) for i in range(1, 13)], "progress, warm-up and all"


def test_nothing_is_left_behind(measured):
    """No hook on the model, no session."""
    hooks = [m for m in measured.engine.decoder.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert not hooks and not runtime().names


def test_an_engine_that_fails_leaves_nothing_behind_either(turbo):
    engine = eager_engine(turbo)

    def stop(done, total):
        if done > 2 * WARM + 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        profile_engine(engine, SMALL, ticks=2, on_tick=stop)
    assert not any(m._forward_hooks for m in engine.decoder.modules()) and not runtime().names


def test_any_engine_has_a_table():
    """One without a decoder of modules: its operators stand under the tick."""
    found = profile_engine(StandIn(), SMALL, ticks=2)
    assert found.kinds()["pointwise"] > 0
    assert {x.name.split(":")[0] for x in found.layers} == {TICK, BETWEEN}


@pytest.mark.parametrize(
    ("workload", "ticks"),
    [
        (Workload(9, 1.0), 1),
        (Workload(2, -1.0), 1),
        (Workload(2, 1.0, steps=0), 1),
        (Workload(2, 1.0, guidance="self"), 1),
        (Workload(2, 1.0, tokens=9999), 1),
        (SMALL, 0),
    ],
)
def test_a_workload_out_of_range_is_refused(turbo, workload, ticks):
    with pytest.raises(InputError):
        profile_engine(eager_engine(turbo), workload, ticks)
    assert not runtime().names


OPERATORS = {
    "aten::addmm_": "matrix product",
    "aten::linear": "matrix product",
    "aten::bmm": "matrix product",
    "aten::conv1d": "matrix product",
    "aten::conv_transpose1d": "matrix product",
    "aten::_scaled_mm": "matrix product",
    "aten::_scaled_dot_product_flash_attention": "attention",
    "aten::rms_norm": "normalization",
    "aten::linalg_vector_norm": "normalization",
    "aten::normal_": "other",
    "aten::silu": "pointwise",
    "aten::add_": "pointwise",
    "aten::where": "pointwise",
    "aten::copy_": "reformat",
    "aten::cat": "reformat",
    "aten::as_strided": "other",
    "triton::mine": "other",
}


@pytest.mark.parametrize("name", OPERATORS)
def test_kinds_of_operators(name):
    assert of_operator(name, "layers.0.mlp") == OPERATORS[name]


def test_a_norm_that_is_written_out_is_a_norm():
    assert of_operator("aten::mul", "layers.0.self_attn_norm") == "normalization"
    assert of_operator("aten::mul", "layers.0.self_attn") == "pointwise"


KERNELS = {
    "attention_kernel": "attention",
    "product_kernel": "matrix product",
    "swiglu": "matrix product",
    "norm_kernel": "normalization",
    "keys_kernel": "normalization",
    "condition_kernel": "normalization",
    "silu_kernel": "pointwise",
    "rows_kernel": "pointwise",
    "Memcpy HtoD (Pinned -> Device)": "reformat",
    "Memset (Device)": "reformat",
    "void their_norm_kernel<float>(float*)": "other",
}


@pytest.mark.parametrize("name", KERNELS)
def test_kinds_of_kernels(name):
    assert of_kernel(name) == KERNELS[name]


def test_every_kernel_that_the_package_writes_has_a_kind():
    sources = sorted((Path(probe.__file__).parents[1] / "engines" / "compiled").glob("*"))
    text = "".join(path.read_text() for path in sources if path.suffix in (".py", ".cu"))
    found = re.findall(r"@triton\.jit[^\n]*\ndef (\w+_kernel)\(|__global__ void[^{]*\s(\w+)\(", text)
    assert {triton or cuda for triton, cuda in found} == {name for name in KERNELS if " " not in name}


def event(name, number, *children, device=DeviceType.CPU, us=0.0, annotation=False):
    """One of torch's profiler's, with its own, wrong, sum of what it launched."""
    return SimpleNamespace(
        name=name,
        id=number,
        cpu_children=list(children),
        device_type=device,
        time_range=SimpleNamespace(elapsed_us=lambda: us),
        is_user_annotation=annotation,
        device_time_total=1e6,
    )


def test_kernels_belong_to_the_call_that_launched_them():
    """Numbers as torch gives them: a kernel has that of its launch, and an operator may have it too."""
    kernel = partial(event, device=DeviceType.CUDA)
    product = event("aten::linear", 3, event("aten::mm", 4, event("cuLaunchKernelEx", 7), event("cudaMemsetAsync", 8)))
    norm = event("layers.0.norm", 9, event("aten::mul", 10, event("cudaLaunchKernel", 11)), annotation=True)
    mine = [event("cuLaunchKernelEx", number) for number in (3, 12)]
    calls = [event("cudaMemcpyAsync", 13), event("cudaEventRecord", 14, us=70.0)]
    others = [event("aten::view", 11), event("cutlass::mm", 3), event("Lazy Function Loading", 12)]
    tick = event(TICK, 1, product, *mine, norm, *calls, *others, annotation=True)
    device = [
        kernel(TICK, 1, us=9e6, annotation=True),
        kernel("layers.0.norm", 14, us=9e6, annotation=True),
        kernel("nvjet", 7, us=4000.0),
        kernel("Memset (Device)", 8, us=100.0),
        kernel("elementwise", 11, us=500.0),
        kernel("attention_kernel", 3, us=2000.0),
        kernel("attention_kernel", 12, us=2000.0),
        kernel("Memcpy HtoD (Pinned -> Device)", 13, us=50.0),
        kernel("another's, outside of the tick", 99, us=7e6),
    ]
    found = {x.name: (x.kind, x.ms, x.calls) for x in probe._rows([tick, *calls, *device], cuda=True, ticks=1)}
    assert found == {
        "tick: linear": ("matrix product", 4.1, 1.0),
        "tick: attention_kernel": ("attention", 4.0, 2.0),
        "layers.0.norm: mul": ("normalization", 0.5, 1.0),
        "tick: Memcpy HtoD (Pinned -> Device)": ("reformat", 0.05, 1.0),
    }


# --- TensorRT --------------------------------------------------------------------------------------------------------

LAYERS = {
    "{ForeignNode[node_cat_4...node_transpose_3]}": OPAQUE,
    "{ForeignNode[transformer.layers.0.self_attn.to_q.weight...MatMul_17]}": OPAQUE,
    "__myl_FcMulAdd_myl0_12": "matrix product",
    "__mye_gemm_0": "matrix product",
    "_gemm_mha_v2_myl0_3": "attention",
    "__myl_AddMulMeanAddSqrtDivMul_myl0_7": "normalization",
    "__myl_SiluMul_myl0_9": "pointwise",
    "__myl_Move_myl0_2": "reformat",
    "__myl_bb0_31": OPAQUE,
    "Reformatting CopyNode for Input Tensor 0 to node_conv": "reformat",
    "node_MatMul_311": "matrix product",
    "node_Attention_4": "attention",
    "node_RMSNormalization_9": "normalization",
    "PWN(node_Sigmoid_3, node_Mul_8)": "pointwise",
    "node_Transpose_4": "reformat",
    "(Unnamed Layer* 12) [Shuffle]": "reformat",
    "something new": "other",
}


@pytest.mark.parametrize("name", LAYERS)
def test_kinds_of_tensorrt_layers(name):
    assert of_layer(name) == LAYERS[name]


class Context(stand_in.IExecutionContext):
    """With its profiler: it hears of the last execute, once that is over, and only when it is asked to."""

    profiler = None
    enqueue_emits_profile = True
    launched = drained = False

    def execute_async_v3(self, stream_handle):
        self.launched, self.drained = True, False
        return super().execute_async_v3(stream_handle)

    def report_to_profiler(self):
        if self._plan.fails("report_to_profiler") or self.profiler is None or self.enqueue_emits_profile:
            return False
        assert self.launched and self.drained
        self.launched = False
        for name, ms in (("{ForeignNode[a...b]}", 4.0), ("node_MatMul_1", 2.0), ("node_MatMul_1", 1.0)):
            self.profiler.report_layer_time(name, ms)
        return True


class IProfiler:
    def __init__(self):
        self.made = True


@pytest.fixture
def trt_engine(turbo, monkeypatch):
    """The real `TrtEngine` on the stand-in: 6 rows in one execute."""
    monkeypatch.setattr(stand_in, "IExecutionContext", Context)
    monkeypatch.setattr(stand_in, "IProfiler", IProfiler, raising=False)
    plan = stand_in.make(eager_engine(turbo), Profile(Span(1, 4, 6), Span(2, 20, 40), Span(1, 64, 512)))
    engine = stand_in.load(plan)
    drain = engine.executor.drain

    def drained():
        drain()
        engine.executor.context.drained = True

    engine.executor.drain = drained
    return plan, engine


def test_tensorrts_own_profiler_is_asked_after_every_execute(trt_engine):
    """Two executes a tick: 5 negative rows do not fit beside the positive ones. Warm-up is not counted."""
    plan, engine = trt_engine
    before = engine.executor.context
    found = profile_engine(engine, Workload(5, 1.0, 3, "full", 8), ticks=2)
    assert found.clock == "TensorRT" and found.engine == engine.name
    assert found.kinds() == {"matrix product": 6.0, OPAQUE: 8.0}
    assert {x.name: (x.ms, x.calls) for x in found.layers} == {
        "{ForeignNode[a...b]}": (8.0, 2.0),
        "node_MatMul_1": (6.0, 4.0),
    }
    assert "opaque" in found.text()
    assert len(plan.executes) == 2 * 2 * (WARM + 2), "as many without the profiler as with it"
    assert engine.executor.context is not before and engine.executor.context.profiler is None


def test_a_profiler_that_reports_nothing_is_an_error(trt_engine):
    plan, engine = trt_engine
    plan.faults["report_to_profiler"] = 1
    with pytest.raises(OstinatoError, match="reported no layer times"):
        profile_engine(engine, SMALL, ticks=1)
    assert engine.executor.context.profiler is None and not runtime().names
    assert profile_engine(engine, SMALL, ticks=1).total_ms == 7.0


@pytest.mark.parametrize("release", RELEASES)
def test_the_real_library_has_these_members(release):
    context = RELEASES[release]["classes"]["IExecutionContext"]
    assert context["profiler"]["set"] and context["enqueue_emits_profile"]["set"]
    assert [parameters(s) for s in context["report_to_profiler"]] == [[]]
    told = RELEASES[release]["classes"]["IProfiler"]["report_layer_time"]
    assert [parameters(s) for s in told] == [["layer_name", "ms"]]


# --- tables ----------------------------------------------------------------------------------------------------------


def test_a_profile_goes_through_json(found):
    assert LayerProfile.from_json(json.loads(json.dumps(found.as_json()))) == found


BROKEN = {
    "nothing": lambda d: {},
    "a list": lambda d: [1],
    "another schema": lambda d: d | {"schema": 2},
    "no layers": lambda d: {k: v for k, v in d.items() if k != "layers"},
    "a kind there is not": lambda d: d | {"layers": [["x", "magic", 1.0, 1.0]]},
    "a negative time": lambda d: d | {"layers": [["x", "other", -1.0, 1.0]]},
    "not a number": lambda d: d | {"tick_ms": float("nan")},
    "a text for a number": lambda d: d | {"tick_ms": "fast"},
    "half a layer": lambda d: d | {"layers": [["x", "other"]]},
    "another workload": lambda d: d | {"workload": {"depth": "two"}},
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_profile_is_refused(found, what, tmp_path):
    path = tmp_path / "mine.json"
    for text in (json.dumps(BROKEN[what](found.as_json())), "{"):
        path.write_text(text)
        with pytest.raises(InputError, match="mine.json is no.*ostinato profile --json"):
            load(path)
    with pytest.raises(InputError, match="none.json cannot be read .*ostinato profile --json.*check the path"):
        load(tmp_path / "none.json")


def test_decoder_layers_are_grouped_by_name():
    profile = made(attention=2.0, matrix_product=1.0)
    assert [(x.name, x.ms, x.calls) for x in profile.grouped()] == [
        ("layers.*.attention", 4.0, 2.0),
        ("layers.*.matrix_product", 2.0, 2.0),
    ]
    assert profile.kinds() == {"attention": 4.0, "matrix product": 2.0} and profile.total_ms == 6.0


def test_the_text_says_what_profiling_cost():
    text = made(attention=2.0, matrix_product=1.0).text()
    assert "10.00 ms per tick; 20.00 ms while profiling, 2.00 times as long" in text
    assert "the layers take 6.00 ms of a tick" in text and " 66.7 %" in text
    assert "opaque" not in text and "opaque" in made(Myelin=1.0).text()
    assert "0.00 ms" in LayerProfile("none", "CPU", "host", SMALL, 1, 0.0, 0.0, ()).text(), "an empty one too"


def test_a_diff_has_the_largest_change_first():
    before, after = made(attention=2.0, matrix_product=1.0), made("two", 8.0, attention=1.9, pointwise=0.5)
    change = diff(before, after)
    assert [(c.name, c.before, c.after) for c in change.kinds] == [
        ("matrix product", 2.0, 0.0),
        ("pointwise", 0.0, 1.0),
        ("attention", 4.0, 3.8),
    ]
    assert sum(c.ms for c in change.kinds) == pytest.approx(after.total_ms - before.total_ms)
    assert sum(c.ms for c in change.layers) == pytest.approx(after.total_ms - before.total_ms)
    assert change.unlike == () and not any(c.ms for c in diff(before, before).kinds)
    text = change.text()
    assert "10.000 ->      8.000 ms" in text and "new  pointwise" in text
    json.dumps(change.as_json())


def test_a_diff_of_different_workloads_says_so():
    before = made(attention=1.0)
    after = LayerProfile("x", "GPU", "kernels", Workload(8), 3, 1.0, 1.0, before.layers)
    assert [u.split(":")[0] for u in diff(before, after).unlike] == ["workload", "device", "times"]
    assert "note   workload: depth 1, 1 s" in diff(before, after).text()


def test_the_picture_shows_each_kind_and_survives_extremes(found):
    picture = plot_profile(found)
    assert picture.shape == (1, 560, 960, 3) and picture.dtype == torch.float32
    assert 0.0 <= picture.min() and picture.max() <= 1.0
    longer = plot_profile(made(attention=2.0, pointwise=1.0)), plot_profile(made(attention=2.0, pointwise=2.0))
    assert not torch.equal(*longer)
    for odd in (made(), made(Myelin=1e-9), made(**{"other": 1e7})):
        assert plot_profile(odd).isfinite().all()
    every = {kind.replace(" ", "_"): 1.0 for kind in KINDS}
    assert plot_profile(made(**every)).isfinite().all()


# --- command line ----------------------------------------------------------------------------------------------------

RUN = CliRunner()
FEW = ["--depth", "1", "--seconds", "1", "--steps", "2", "--tokens", "4", "--ticks", "1", "--device", "cpu"]


def test_the_command_writes_json_and_compares(cache, tmp_path):
    done = RUN.invoke(app, ["profile", *FEW, "--json"])
    assert done.exit_code == 0, done.output
    made = json.loads(done.stdout)
    assert LayerProfile.from_json(made).workload == Workload(1, 1.0, 2, "off", 4)
    assert made["command"].startswith("ostinato profile --") and " --depth 1 " in made["command"]
    assert made["gpu"] is None and {"versions", "commit", "code"} <= made.keys()
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file in files:
        file.write_text(done.stdout)
    done = RUN.invoke(app, ["profile", "--diff", *map(str, files)])
    assert done.exit_code == 0 and "all layers" in done.output
    done = RUN.invoke(app, ["profile", "--diff", *map(str, files), "--json"])
    assert json.loads(done.stdout)["unlike"] == []


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--guidance", "self"], "allowed are off, full"),
        (["--size", "3b"], "the size is '3b'"),
        (["--size", "2b", "--model", "random"], "one of them is allowed"),
        (["--ticks", "0"], "ticks is 0"),
        (["--precision", "int8"], "the precision is 'int8'"),
    ],
)
def test_the_command_refuses_with_one_sentence(cache, options, told):
    done = RUN.invoke(app, ["profile", *FEW, *options])
    assert done.exit_code == 2 and told in done.output and len(done.output.strip().splitlines()) == 1


def test_the_command_tells_a_missing_or_foreign_file(tmp_path):
    (tmp_path / "x.json").write_text("[]")
    done = RUN.invoke(app, ["profile", "--diff", str(tmp_path / "x.json"), str(tmp_path / "x.json")])
    assert done.exit_code == 2 and "ostinato profile --json" in done.output
    done = RUN.invoke(app, ["profile", "--diff", str(tmp_path / "y.json"), str(tmp_path / "x.json")])
    assert done.exit_code == 2 and "y.json" in done.output and "Errno" not in done.output
