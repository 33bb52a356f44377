"""Who asks for the current CUDA device, and what runs with its own device made the current one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ostinato.engine_runtime.device import driver, gpu
from ostinato.engine_runtime.engines.compiled import decoder, needs, plain
from ostinato.engine_runtime.engines.compiled.engine import CompiledEngine
from ostinato.engine_runtime.engines.eager import EagerEngine
from ostinato.engine_runtime.engines.prove import fill
from ostinato.engine_runtime.trt import loader
from ostinato.engine_runtime.trt.files.sidecar import Expect
from ostinato.engine_runtime.trt.health import state
from ostinato.engine_runtime.trt.play import executor, tensorrt

from ... import trt_stand_in as stand_in

ROOT = Path(__file__).resolve().parents[3]
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for top in ("cli", "engine_runtime", "nodes")
    for path in (ROOT / top).rglob("*.py")
    if path.parent != ROOT / "engine_runtime" / "device"
)

ALWAYS = {"current_device", "set_device", "is_bf16_supported", "is_current_stream_capturing"}
# the current device's, unless they are told which
WITHOUT = {
    "Stream",
    "ExternalStream",
    "current_stream",
    "default_stream",
    "current_blas_handle",
    "device",
    "get_device_capability",
    "get_device_name",
    "get_device_properties",
    "manual_seed",
    "max_memory_allocated",
    "max_memory_reserved",
    "mem_get_info",
    "memory_allocated",
    "memory_reserved",
    "memory_stats",
    "reset_peak_memory_stats",
    "synchronize",
    "utilization",
}


def asks(text: str) -> Iterator[tuple[int, str]]:
    """(line, words) of each place that means the current CUDA device: a call that is told no device, or `cuda` without
    a number."""
    for node in ast.walk(ast.parse(text)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        if any(name == "torch.cuda" or name.split(".")[0] == "cuda" for name in names):  # would hide from what follows
            yield node.lineno, ast.unparse(node)
        if not isinstance(node, ast.Call):
            continue
        words, bare = ast.unparse(node), not node.args and all(word.arg != "device" for word in node.keywords)
        if isinstance(node.func, ast.Attribute):
            owner, name = ast.unparse(node.func.value), node.func.attr
            if owner == "torch.cuda" and (name in ALWAYS or (name in WITHOUT and bare)):
                yield node.lineno, words
            elif name == "record" and bare:  # an event on the current stream
                yield node.lineno, words
            elif name == "cuda" and bare:
                yield node.lineno, words
        named = [word.value for word in node.keywords if word.arg == "device"]
        named += node.args if isinstance(node.func, ast.Attribute) and node.func.attr in ("to", "device") else []
        numbered = len(node.args) == 2  # torch.device("cuda", 1)
        if not numbered and any(isinstance(word, ast.Constant) and word.value == "cuda" for word in named):
            yield node.lineno, words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from torch.cuda import current_stream", True),
        ("import torch.cuda as device", True),
        ("from cuda.bindings import driver", True),
        ("from .cuda import x", False),
        ("torch.cuda.current_stream()", True),
        ("torch.cuda.current_stream(device)", False),
        ("torch.cuda.synchronize()", True),
        ("torch.cuda.synchronize(device)", False),
        ("with torch.cuda.stream(side): graph.replay()", False),
        ("torch.cuda.Stream(priority=-1)", True),
        ("torch.cuda.Stream(device, priority=-1)", False),
        ("torch.cuda.Stream(device=device)", False),
        ("torch.cuda.current_device()", True),
        ("torch.cuda.is_available()", False),
        ("torch.cuda.Event(enable_timing=True)", False),
        ("event.record()", True),
        ("event.record(stream)", False),
        ("tensor.cuda()", True),
        ("tensor.to('cuda')", True),
        ("tensor.to(device)", False),
        ("torch.zeros(1, device='cuda')", True),
        ("torch.zeros(1, device='cuda:1')", False),
        ("torch.device('cuda')", True),
        ("torch.device('cuda', index)", False),
        ("device.type == 'cuda'", False),
    ],
)
def test_the_reader_sees_each_form(text: str, found: bool) -> None:
    assert bool(list(asks(text))) is found


@pytest.mark.parametrize("file", FILES)
def test_only_this_folder_asks_for_a_current_device(file: str) -> None:
    """With two GPUs in one process, what runs on the wrong one fails, or takes memory there."""
    found = list(asks((ROOT / file).read_text(encoding="utf-8")))
    assert not found, f"{file}: {found}; name the device, or ask `device.gpu`"


def test_nobody_waits_for_a_whole_device() -> None:
    """It would end the capture of another session's tick: but for a measurement, which keeps others from ticking."""
    found = [file for file in FILES if "torch.cuda.synchronize(" in (ROOT / file).read_text(encoding="utf-8")]
    assert [file for file in found if "bench" not in Path(file).parts] == ["engine_runtime/profile/drive.py"]


CPU, SECOND = torch.device("cpu"), torch.device("cuda", 1)


@pytest.fixture
def current(cuda, monkeypatch):
    """The devices that blocks made the current one, innermost last, in place of CUDA's own record."""
    inside: list[torch.device] = []

    @contextmanager
    def on(device):
        inside.append(torch.device(device) if isinstance(device, torch.device) else torch.device("cuda", device))
        try:
            yield
        finally:
            inside.pop()

    cuda(device=on)
    for module in (decoder, needs, executor, tensorrt):
        monkeypatch.setattr(module, "on", on)
    return inside


def test_a_block_runs_on_its_device(current, cuda):
    cuda(current_device=lambda: 3)
    with gpu.on(SECOND):
        assert current == [SECOND]
    with gpu.on(CPU):
        assert current == []
    assert gpu.numbered(torch.device("cuda")) == torch.device("cuda", 3)
    assert [gpu.numbered(device) for device in (SECOND, CPU)] == [SECOND, CPU]


@pytest.mark.parametrize("inside", [True, False])
def test_a_capture_is_told(cuda, inside):
    cuda(is_current_stream_capturing=lambda: inside)
    assert gpu.capturing() is inside


def test_bfloat16_is_asked_of_the_device(current, cuda):
    cuda(is_bf16_supported=lambda including_emulation: current == [SECOND])
    assert gpu.computes_in_bfloat16(SECOND)
    assert not gpu.computes_in_bfloat16(torch.device("cuda", 0)) and not gpu.computes_in_bfloat16(CPU)


class Noted:
    """Operations that note the devices that were current when they ran."""

    def __init__(self, current):
        self.current, self.seen = current, set()

    def __getattr__(self, name):
        call = getattr(plain, name)

        def noted(*args, **kwargs):
            self.seen.add((name, *self.current))
            return call(*args, **kwargs)

        return noted


def test_the_compiled_engines_kernels_run_on_its_device(current, base):
    """Triton launches on the current device, whatever the tensors are on."""
    ops = Noted(current)
    engine = CompiledEngine(base.pipe.transformer, "test", ops=ops)
    rows = engine.rows(2, 10, 5)
    fill((rows,), 2, 10, 5, engine.width, engine.dtype, 0)
    assert ops.seen == {("place", CPU)}
    engine(rows)
    assert {name for name, *_ in ops.seen} == {"place", "norm", "keys", "attend", "silu", "swiglu"}
    assert {tuple(where) for _, *where in ops.seen} == {(CPU,)}


def test_kernels_are_tried_on_the_models_device(current, cuda):
    waited = []
    stream = SimpleNamespace(synchronize=lambda: waited.append("stream"))
    cuda(get_device_capability=lambda device: (9, 0), current_stream=lambda device: stream)
    ops = Noted(current)
    ops.triton = SimpleNamespace(__version__="3.6.0")
    needs.check_kernels("compiled", ops, CPU, torch.bfloat16)
    assert ops.seen == {("silu", CPU), ("swiglu", CPU)} and waited == ["stream"]


def test_a_kernel_is_launched_on_its_own_device(current, cuda, monkeypatch):
    calls = []

    def launch(function, *given):
        calls.append((function, given[7], *current))
        return (0,)

    monkeypatch.setattr(driver, "_driver", lambda: SimpleNamespace(cuLaunchKernel=launch))
    cuda(current_stream=lambda device=None: SimpleNamespace(cuda_stream=f"of {device}"))
    driver.Kernel("fill", 1, 32, 0).launch(4)
    assert calls == [("fill", "of 1", SECOND)]


def test_tensorrt_runs_on_the_engines_device(current, base, monkeypatch):
    """It opens plans, makes contexts and runs on the current device."""
    eager, where = EagerEngine(base.pipe.transformer, "test"), []

    def noted(owner, name):
        call = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *given: where.append((name, *current)) or call(*given))

    noted(stand_in.Runtime, "deserialize_cuda_engine")
    noted(stand_in.ICudaEngine, "create_execution_context")
    noted(stand_in.IExecutionContext, "execute_async_v3")
    engine = stand_in.load(stand_in.make(eager))
    engine.ready()
    rows = engine.rows(2, 6, 64)
    fill((rows,), 2, 6, 64, engine.width, engine.dtype, 0)
    engine(rows)
    assert [name for name, *_ in where] == [
        "deserialize_cuda_engine",
        "create_execution_context",
        "execute_async_v3",
    ]
    assert all(device == CPU for _, device, *_ in where)


def test_an_engine_is_judged_for_the_gpu_of_its_model(current, cuda, monkeypatch):
    """Of two cards of different kinds, the one that the model is on."""
    cuda(
        is_available=lambda: True,
        current_device=lambda: 0,
        get_device_capability=lambda device: (8, device.index),
        get_device_name=str,
    )
    monkeypatch.setattr(state, "library_of", lambda flavor: "1.0")
    assert loader.gpu(SimpleNamespace(device=SECOND)) == SECOND
    assert [loader.gpu(model) for model in (None, SimpleNamespace(device=CPU))] == [torch.device("cuda", 0)] * 2
    for device, capability in ((SECOND, (8, 1)), (None, (8, 0)), (CPU, None)):
        found = state.expects(device)["tensorrt_rtx"]
        assert isinstance(found, Expect) and found.capability == capability
