"""Who may import whom, what an import costs, and that a node's defaults are the dataclasses' own.

The order of folders stands in pyproject.toml, where import-linter reads it.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
from ostinato.engine_runtime.config import Guidance, Sampling, StreamConfig
from ostinato.engine_runtime.engines.contract import LIMITS
from ostinato.engine_runtime.models.prompt import Prompt
from ostinato.nodes.encode_prompt import EncodePrompt
from ostinato.nodes.engine import Engine
from ostinato.nodes.guidance import Guide
from ostinato.nodes.shared.run import widget_of
from ostinato.nodes.stream_denoise import StreamDenoise

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("cli", "nodes", "engine_runtime")
BORDER = {f"engine_runtime/models/comfy_{name}.py" for name in ("model", "condition", "queue")}
PACK = {"engine_runtime", "nodes", "cli", "ostinato"}
COMFYUI = {"comfy", "comfy_api", "comfy_extras", "comfy_execution", "execution", "folder_paths", "server", "nodes"}
FILES = sorted(path.relative_to(ROOT).as_posix() for top in FOLDERS for path in (ROOT / top).rglob("*.py"))


def check_contracts(path: Path) -> tuple[int, str]:
    """Run import-linter on the pack in a folder `ostinato` of this path; its exit code and words."""
    code = "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache', '--no-logo'])"
    environment = {**os.environ, "PYTHONPATH": str(path), "COLUMNS": "500"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the pack in a folder `ostinato`, to be broken."""
    pytest.importorskip("importlinter", reason="import-linter is not installed: pip install 'ostinato[test]'")
    for top in FOLDERS:
        shutil.copytree(
            ROOT / top, tmp_path / "ostinato" / top, ignore=shutil.ignore_patterns("__pycache__", "results")
        )
    for name in ("__init__.py", "__main__.py"):
        shutil.copy(ROOT / name, tmp_path / "ostinato")
    return tmp_path


def test_folders_import_only_those_below_them(copy: Path) -> None:
    code, said = check_contracts(copy)
    assert code == 0, said


# File, a line that is added to it, and what is said of it alone: no other of these lines brings these words about.
AGAINST = [
    ("engine_runtime/stream/ring.py", "from ..takes import render", "engine_runtime.stream is not allowed to"),
    (
        "engine_runtime/stream/ring.py",
        "from . import runner",
        "No cycles are allowed in ostinato.engine_runtime.stream",
    ),
    ("engine_runtime/trt/play/engine.py", "from ..build import job", "trt.play is not allowed to"),
    ("engine_runtime/takes/codec.py", "from ..audio import decode", "engine_runtime.takes is not allowed to"),
    ("nodes/lora.py", "from ..cli import main", "ostinato.nodes is not allowed to"),
    ("cli/graph.py", "from .schema import ApiNode", "ostinato.cli.graph is not allowed to"),
    ("cli/core_nodes.py", "def f():\n    from .terminal import Bar", "ostinato.cli.core_nodes is not allowed to"),
    ("cli/new.py", "", "cli.new"),
    ("engine_runtime/errors.py", "def f():\n    from . import config", "engine_runtime.errors is not allowed to"),
    ("engine_runtime/new.py", "", "engine_runtime.new"),
]


def test_imports_against_the_order_are_found(copy: Path) -> None:
    """All in one run, which takes seconds."""
    for file, line, _ in AGAINST:
        with (copy / "ostinato" / file).open("a", encoding="utf-8") as broken:
            broken.write(f"\n{line}\n")
    code, said = check_contracts(copy)
    assert code == 1 and [words for *_, words in AGAINST if words not in said] == [], said


def absolute_imports(text: str) -> Iterator[tuple[int, str]]:
    """(line, first part of the name) of every import that is not relative, also those inside functions."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.lineno, (node.module or "").split(".")[0]


def test_the_reader_of_imports_sees_each_form() -> None:
    text = "import os, comfy.utils\nfrom . import x\nfrom ..a import y\ndef f():\n    from server.b import Y\n"
    assert list(absolute_imports(text)) == [(1, "os"), (1, "comfy"), (5, "server")]


@pytest.mark.parametrize("file", FILES)
def test_imports_within_the_pack_are_relative_and_comfyui_is_known_at_the_border(file: str) -> None:
    for line, top in absolute_imports((ROOT / file).read_text(encoding="utf-8")):
        assert top not in PACK, f"{file}:{line} imports {top} by an absolute name"
        assert file.startswith("nodes/") or file in BORDER or top not in COMFYUI, f"{file}:{line} imports {top}"


@pytest.mark.parametrize("file", sorted(BORDER))
def test_the_border_imports_comfyui_only_inside_functions(file: str) -> None:
    body = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
    top = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not {name for _, name in absolute_imports(ast.unparse(ast.Module(top, [])))} & COMFYUI


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
