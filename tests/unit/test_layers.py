"""Who may import whom, what an import costs, and that a node's defaults are the dataclasses' own."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
from ostinato.cli.graph import widget_of
from ostinato.engine_runtime.config import Guidance, Sampling, StreamConfig
from ostinato.engine_runtime.engines.base import LIMITS
from ostinato.engine_runtime.models.prompt import Prompt
from ostinato.nodes.encode_prompt import EncodePrompt
from ostinato.nodes.engine import Engine
from ostinato.nodes.guidance import Guide
from ostinato.nodes.stream_denoise import StreamDenoise

ROOT = Path(__file__).resolve().parents[2]

# A module imports only what stands on a later line. `cli` and `nodes` stand for all their modules, which may import
# each other; in engine_runtime every module has its own line, and what shares a line does not know of each other.
ORDER = """
cli
nodes
bench.beside
bench.run
bench.calls bench.subject bench.soak plots.bench bench.origin
trt.bake
trt.health.doctor trt.build.worker trt.build.queue trt.loader
trt.health.state
trt.health.check
trt.export.source trt.build.assemble trt.files.stamp
plots.curve plots.profile
. takes.render takes.replay plots.plot audio.decode profile.probe bench.play audio.live_vae
audio.encode models.conditioning models.comfy_condition models.comfy_model models.engines
stream.sessions models.loading trt.play.tensorrt trt.play.refit
trt.play.engine trt.play.vae trt.export.export trt.export.onnxcheck trt.build.job trt.build.builder trt.library.child
trt.files.plan
trt.files.trust
trt.play.executor engines.prove trt.export.naming trt.files.folder
trt.play.cuda_graphs trt.play.keeper trt.export.record trt.files.sidecar
trt.library.messages trt.export.modules trt.files.spec trt.library.process
trt.library.flavor trt.library.preflight engines.profiles trt
stream.session
stream.stage
stream.member models.presets models.sized models.checkpoint models.folder lora.stack
lora.adapter models.parts models.tokenizer
stream.tick stream.inbox takes.take models.sizes models.weights models.quiet models.trained lora.keys
stream.slot_buffers models.names models.narrow
stream.prepared
engines.kinds
stream.knob_state stream.ring engines takes.codec engines.compiled.engine engines.compiled.needs
engines.eager engines.compiled.decoder engines.compiled.fused numerics.correction
engines.compiled.rows engines.compiled.attention engines.compiled.hopper
engines.base engines.decoder models
engines.compiled.weights engines.compiled.adapters engines.compiled.kernels
engines.compiled.plain engines.compiled
controls.automation stream.request controls.from_audio controls.points
controls.curves bench.floor bench.report
bench.case bench numerics.schedule numerics.guidance numerics.steps models.prompt stream.stats device.upload
audio.snake device.lane
device.capture
device.driver device.memory lora engines.factors lora.scaling
config
controls.knobs profile.kinds
controls.values profile.layers tensor_file
files
constants errors audio controls device numerics plots profile stream takes trt.build trt.export trt.files trt.health
machine
trt.library trt.play
"""
RANK = {name: rank for rank, line in enumerate(ORDER.split("\n")) for name in line.split()}
BORDER = {"engine_runtime.models.comfy_model", "engine_runtime.models.comfy_condition"}
PACK = {"engine_runtime", "nodes", "cli", "ostinato"}
COMFYUI = {"comfy", "comfy_api", "comfy_extras", "comfy_execution", "execution", "folder_paths", "server", "nodes"}
MODULES = sorted(p for top in ("cli", "nodes", "engine_runtime") for p in (ROOT / top).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str, bool]]:
    """(line, dotted name, whether it is relative) of every import, also those inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.lineno, node.module or "", False
        elif isinstance(node, ast.ImportFrom):
            folder = path.relative_to(ROOT).parts[: -node.level]
            base = ".".join((*folder, node.module) if node.module else folder)
            for alias in node.names:  # `from . import layout` names a module, `from .layout import f` does not
                whole = f"{base}.{alias.name}"
                file = ROOT / whole.replace(".", "/")
                is_module = file.is_dir() or file.with_suffix(".py").exists()
                yield node.lineno, whole if is_module else base, True


def place(dotted: str) -> str:
    """The name by which a module stands in ORDER."""
    top, _, rest = dotted.partition(".")
    return (rest or ".") if top == "engine_runtime" else top


def name_of(path: Path) -> str:
    dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return dotted.removesuffix(".__init__")


def test_every_module_has_its_place() -> None:
    known = {place(name_of(path)) for path in MODULES}
    assert known - RANK.keys() == set(), "write the new module into ORDER"
    assert RANK.keys() - known == set(), "ORDER names a module that is gone"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_run_one_way(path: Path) -> None:
    here = place(name_of(path))
    for line, dotted, relative in imports(path):
        top = dotted.split(".")[0]
        if relative:
            inside = here == place(dotted) and here in ("cli", "nodes")
            assert inside or RANK[place(dotted)] > RANK[here], f"{path.name}:{line}: {here} imports {dotted}"
        else:
            assert top not in PACK, f"{path.name}:{line} imports {dotted} by an absolute name"
            border = name_of(path).startswith("nodes") or name_of(path) in BORDER
            assert border or top not in COMFYUI, f"{path.name}:{line} imports {dotted}"


@pytest.mark.parametrize("name", sorted(BORDER))
def test_the_border_imports_comfyui_only_inside_functions(name: str) -> None:
    tree = ast.parse((ROOT / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8"))
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    named = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
    named |= {node.module for node in top if isinstance(node, ast.ImportFrom) and not node.level}
    assert not {(module or "").split(".")[0] for module in named} & COMFYUI


def test_the_reader_of_imports_sees_each_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    folder = tmp_path / "engine_runtime" / "models"
    folder.mkdir(parents=True)
    (folder.parent / "session.py").touch()
    probe = folder / "probe.py"
    probe.write_text(
        "import comfy.utils\nfrom ..session import X\nfrom .. import session\nfrom . import tiny\n"
        "def f():\n    from ...nodes import host\n    from server import Y\n"
    )
    assert {name for _, name, _ in imports(probe)} == {
        "comfy.utils",
        "engine_runtime.session",
        "engine_runtime.models",
        "nodes",
        "server",
    }


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("ostinato", "ostinato.nodes ostinato.engine_runtime torch numpy"),
        ("ostinato.nodes", "torch numpy scipy PIL diffusers transformers huggingface_hub safetensors tensorrt"),
        ("ostinato.cli.main", "torch numpy scipy diffusers transformers huggingface_hub"),
    ],
)
def test_an_import_loads_nothing_heavy(module: str, absent: str) -> None:
    code = f"import sys, {module}; raise SystemExit(' '.join(set({absent.split()}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


WIDGETS = [
    (StreamDenoise, Sampling, {"steps", "shift", "denoise", "seed"}),
    (StreamDenoise, StreamConfig, {"depth"}),
    (Guide, Guidance, {f.name for f in fields(Guidance)}),
    # tags and lyrics start with an example, so that a new node plays
    (EncodePrompt, Prompt, {f.name for f in fields(Prompt)} - {"tags", "lyrics"}),
]
KNOBS = [(node, kind, name) for node, kind, names in WIDGETS for name in sorted(names)]


@pytest.mark.parametrize(("node", "kind", "name"), KNOBS, ids=lambda v: v if isinstance(v, str) else v.__name__)
def test_a_widget_follows_its_field(node: type, kind: type, name: str) -> None:
    widget = widget_of(next(i for i in node.define_schema().inputs if i.id == name))
    default = next(f.default for f in fields(kind) if f.name == name)
    assert default is not MISSING
    assert (widget.default, type(widget.default)) == (default, type(default))
    needed = {"tags": "piano"} if kind is Prompt else {}
    for end in ("min", "max"):  # what the widget allows, the field takes
        if (value := getattr(widget, end, None)) is not None:
            neighbours = {"end": 1.0} if name == "start" else {}
            assert getattr(kind(**needed, **neighbours, **{name: value}), name) == value


def test_a_prompt_node_has_a_widget_for_every_field() -> None:
    sockets = {i.id for i in EncodePrompt.define_schema().inputs}
    assert {f.name for f in fields(Prompt)} <= sockets


def test_max_rows_is_the_engines_own_limit() -> None:
    widget = next(i for i in Engine.define_schema().inputs if i.id == "max_rows")
    assert widget.default == LIMITS.batch
