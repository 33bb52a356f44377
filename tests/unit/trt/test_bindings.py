"""What the runtime asks of TensorRT exists in the real Python bindings, release by release, with those parameters.

`scripts/make_bindings.py` wrote the names and signatures down from the real wheels.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import runpy
import shutil
from pathlib import Path

import pytest

from ... import trt_stand_in as stand_in
from ...bindings import FULL, RELEASES, RTX, parameters, stub

ROOT = Path(__file__).resolve().parents[3]
SOURCES = [p for p in (ROOT / "engine_runtime").rglob("*.py") if "flavor.module" in p.read_text(encoding="utf-8")]
CONFIG = """\
[mypy]
ignore_missing_imports = true
check_untyped_defs = true
follow_imports = silent
[mypy-torch.*,numpy.*,diffusers.*,transformers.*,safetensors.*]
follow_imports = skip
"""
# Asked of TensorRT-RTX alone, behind a capability of `Flavor`.
RTX_ONLY = {
    "CudaGraphStrategy", "DynamicShapesKernelSpecializationStrategy", "EngineValidity", "EngineInvalidityDiagnostics",
    "IRuntimeCache",
}  # fmt: skip


def test_three_releases_and_rtx_are_covered():
    assert {tuple(map(int, d["version"].split(".")[:2])) for d in FULL.values()} == {(10, 13), (10, 16), (11, 4)}
    assert RTX


@pytest.fixture(scope="module")
def mypy(tmp_path_factory):
    """`check(release, edit)`: mypy's words about what calls TensorRT, on a release's stubs; nothing when all is well.

    It reads a copy, for a checkout's folder may have a name that is no module's; `edit` changes the executor's text.
    """
    api = pytest.importorskip("mypy.api", reason="mypy is not installed: pip install 'ostinato[test]'")
    home = tmp_path_factory.mktemp("mypy")
    (home / "mypy.ini").write_text(CONFIG)
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    shutil.copytree(ROOT / "engine_runtime", home / "engine_runtime", ignore=ignored)
    trt = home / "engine_runtime" / "trt" / "play"
    files = [path for path in trt.glob("*.py") if "import tensorrt as trt" in path.read_text(encoding="utf-8")]
    assert {"executor.py", "engine.py", "tensorrt.py"} <= {path.name for path in files}
    executor = (trt / "executor.py").read_text(encoding="utf-8")

    def check(release: str, edit: tuple[str, str] | None = None) -> str:
        place = home / release / "tensorrt"
        place.mkdir(parents=True, exist_ok=True)
        (place / "__init__.pyi").write_text(stub(RELEASES[release]))
        assert edit is None or executor.count(edit[0]) == 1
        (trt / "executor.py").write_text(executor.replace(*edit) if edit else executor, encoding="utf-8")
        options = ["--config-file", str(home / "mypy.ini"), "--cache-dir", str(home / "cache"), "--no-error-summary"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MYPYPATH", str(place.parent))
            out, fault, _ = api.run([*options, *map(str, files)])
        return out + fault

    return check


@pytest.mark.parametrize("release", RELEASES)
def test_the_runtime_passes_mypy_on_the_real_signatures(mypy, release):
    assert mypy(release) == ""


PLANTED = [
    ("context.execute_async_v3(stream)", "context.execute_async_v3(stream, 1)", "Too many arguments"),
    ("context.set_tensor_address(name, address)", "context.set_tensor_address(address, name)", "incompatible type"),
    ("context.infer_shapes)", "context.infer_shape)", 'has no attribute "infer_shape"'),
]


@pytest.mark.parametrize(("good", "bad", "said"), PLANTED, ids=[said for *_, said in PLANTED])
@pytest.mark.parametrize("release", RELEASES)
def test_a_planted_wrong_call_fails(mypy, release, good, bad, said):
    assert said in mypy(release, (good, bad))


def names_of_the_module() -> set[tuple[str, str | None]]:
    """(name, member) of all that is read from a flavor's module."""
    found = set()
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            match = re.fullmatch(r"(?:.*\.)?module\.([A-Z]\w+)(?:\.(\w+))?", ast.unparse(node))
            if isinstance(node, ast.Attribute) and match:
                found.add((match[1], match[2]))
    return found


def test_every_name_of_the_library_is_there():
    """Classes and enum members that mypy cannot see, because the module is found at run time."""
    asked = names_of_the_module()
    assert ("ExecutionContextAllocationStrategy", "STATIC") in asked and ("Runtime", None) in asked
    for release, data in RELEASES.items():
        for name, member in asked:
            if name in data["enums"] and member is not None and member != "__members__":
                assert member in data["enums"][name], f"{release}: {name}.{member}"
            else:
                there = name in data["classes"] or name in data["enums"]
                assert there or (release in FULL and name in RTX_ONLY), f"{release}: {name}"


SCRIPT = runpy.run_path(str(ROOT / "scripts" / "make_bindings.py"))


@pytest.mark.parametrize("name", ["get_engine_validity", "engine_header_size"])
def test_members_of_rtx_alone(name):
    for data in RTX.values():
        assert name in data["classes"]["Runtime"]
        config = data["classes"]["IRuntimeConfig"]
        assert config["cuda_graph_strategy"]["set"] and config["dynamic_shapes_kernel_specialization_strategy"]["set"]
        assert parameters(config["set_runtime_cache"][0]) == ["cache"] and "create_runtime_cache" in config


SURFACE = [
    stand_in.Runtime,
    stand_in.IRuntimeConfig,
    stand_in.RtxRuntimeConfig,
    stand_in.ICudaEngine,
    stand_in.IExecutionContext,
]


@pytest.mark.parametrize("kind", SURFACE, ids=lambda kind: kind.__name__)
def test_the_stand_in_has_no_names_of_its_own(kind):
    """What runs on it calls only what the real classes have, with the same parameters."""
    rtx = kind is stand_in.RtxRuntimeConfig
    for release, data in (RTX if rtx else RELEASES).items():
        real = data["classes"]["IRuntimeConfig" if rtx else kind.__name__]
        members = {n: m for c in kind.__mro__[:-1] for n, m in vars(c).items() if not n.startswith("_")}
        assert members
        for name, member in members.items():
            assert name in real, f"{release}: {kind.__name__}.{name}"
            if inspect.isfunction(member):
                given = list(inspect.signature(member).parameters)[1:]
                assert given in [parameters(text) for text in real[name]], f"{release}: {kind.__name__}.{name}{given}"
            else:
                assert isinstance(real[name], dict), f"{release}: {kind.__name__}.{name} is a method"


def test_the_enums_of_the_stand_in_are_real():
    for name in SCRIPT["ENUMS"]:
        ours = getattr(stand_in, name, None)
        for release, data in RELEASES.items():
            if ours is not None and name in data["enums"] and name != "DataType":  # the newest dtypes came later
                assert set(ours.__members__) <= set(data["enums"][name]), f"{release}: {name}"
    assert set(stand_in.ILogger.Severity.__members__) == set(next(iter(RELEASES.values()))["enums"]["ILogger.Severity"])


def test_what_was_written_down_is_what_is_installed():
    rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: pip install 'ostinato[rtx]'")
    written = RTX.get(f"tensorrt_rtx-{rtx.__version__}")
    if written is None:
        pytest.skip(f"tensorrt_rtx is {rtx.__version__}; written down is {', '.join(RTX)}")
    assert json.loads(json.dumps(SCRIPT["extract"](rtx))) == written
