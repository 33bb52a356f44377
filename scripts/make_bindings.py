"""Writes tests/unit/data/bindings/*.json: names and signatures of what TensorRT's Python bindings offer a runtime.

    python scripts/make_bindings.py --installed tensorrt_rtx
    python scripts/make_bindings.py WHEEL...      # tensorrt_cu13_bindings-10.13.3.9-cp311-...whl

A wheel of bindings comes without TensorRT's libraries, from `pip download --no-deps tensorrt-cu13-bindings==10.13.3.9`.
It is imported in a child process, by a Python of the wheel's version, on a library of empty functions that gcc makes.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "unit" / "data" / "bindings"

CLASSES = """
Dims EngineInspector ICudaEngine IErrorRecorder IExecutionContext IHostMemory ILogger IProfiler IRuntimeCache
IRuntimeConfig Refitter Runtime Weights
""".split()
ENUMS = """
CudaGraphStrategy DataType DynamicShapesKernelSpecializationStrategy EngineInvalidityDiagnostics EngineValidity
ErrorCodeTRT ExecutionContextAllocationStrategy LayerInformationFormat ProfilingVerbosity TensorIOMode TensorLocation
""".split()
SYMBOLS = """
createInferBuilder_INTERNAL createInferRefitter_INTERNAL createInferRuntime_INTERNAL createNvOnnxParser_INTERNAL
createNvOnnxParserRefitter_INTERNAL getBuilderPluginRegistry getPluginRegistry getNvOnnxParserVersion
initLibNvInferPlugins
""".split()

_PREFIX = re.compile(r"\b(?:tensorrt(?:_rtx)?_bindings|tensorrt(?:_rtx)?)(?:\.tensorrt(?:_rtx)?)?\.(?=[A-Z])")
_DEFAULT = re.compile(r"= <[^>]*>")
# As older pybind11 writes them.
_TYPES = {"List": "list", "Tuple": "tuple", "Dict": "dict"}
# New in Python 3.12 and 3.13: before, pybind11 names them in `typing_extensions`, where type checkers always know them.
_NEW = re.compile(r"\b(?:collections\.abc\.(?=Buffer\b)|types\.(?=CapsuleType\b))")


def extract(module: Any) -> dict[str, Any]:
    """Signatures by class and member, and the members of each enum; what a release lacks is left out."""
    classes = {name: _members(getattr(module, name)) for name in CLASSES if hasattr(module, name)}
    enums = {name: sorted(getattr(module, name).__members__) for name in ENUMS if hasattr(module, name)}
    severities = sorted(module.ILogger.Severity.__members__)
    return {"version": module.__version__, "classes": classes, "enums": {**enums, "ILogger.Severity": severities}}


def _members(kind: type) -> dict[str, Any]:
    """A property is `{"get": type, "set": bool}`, a method the list of its overloads; inherited ones are not own."""
    found: dict[str, Any] = {}
    for name, member in sorted(vars(kind).items()):
        if name.startswith("_") and name != "__init__":
            continue
        if isinstance(member, property):
            got = re.search(r"-> (.*)", member.fget.__doc__ or "") if member.fget else None
            found[name] = {"get": _clean(got[1]) if got else "Any", "set": member.fset is not None}
        elif callable(member) and not isinstance(member, type):
            found[name] = _overloads(name, member.__doc__ or "")
    return found


def _overloads(name: str, doc: str) -> list[str]:
    lines = re.findall(rf"^(?:\d+\. )?{re.escape(name)}(\(.*\) -> .*)$", doc, re.MULTILINE)
    return [_clean(line) for line in lines if not line.startswith("(*args, **kwargs)")]


def _clean(text: str) -> str:
    text = _DEFAULT.sub("= ...", re.sub(r"\w+::", "", _PREFIX.sub("", text)).strip())
    for old, new in _TYPES.items():
        text = re.sub(rf"\b{old}\[", f"{new}[", text)
    return _NEW.sub("typing_extensions.", text)


def save(name: str, data: dict[str, Any]) -> Path:
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}-{data['version']}.json"
    path.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return path


def from_wheel(wheel: Path) -> dict[str, Any]:
    """Import the wheel's bindings in a child process and read them."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        _stub_libraries(next(folder.glob("*_bindings/tensorrt*.so")), folder)
        code = (
            "import json, runpy, sys, tensorrt_bindings as module\n"
            "print(json.dumps(runpy.run_path(sys.argv[1])['extract'](module)))"
        )
        environment = {**os.environ, "LD_LIBRARY_PATH": place, "PYTHONPATH": place}
        done = subprocess.run(
            [sys.executable, "-c", code, __file__], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{wheel.name} does not import: {done.stderr}")
        return json.loads(done.stdout)


def _stub_libraries(bindings: Path, folder: Path) -> None:
    """The libraries that the bindings need, with functions that return nothing."""
    needed = subprocess.run(["readelf", "-d", str(bindings)], capture_output=True, text=True, check=True).stdout
    source = folder / "stub.c"
    source.write_text("".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in SYMBOLS))
    for name in re.findall(r"\[(libnv\S+)\]", needed):
        command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name), str(source)]
        subprocess.run(command, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", nargs="*", type=Path)
    parser.add_argument("--installed", metavar="MODULE", action="append", default=[])
    given = parser.parse_args()
    for name in given.installed:
        sys.stdout.write(f"{save(name, extract(importlib.import_module(name)))}\n")
    for wheel in given.wheels:
        sys.stdout.write(f"{save('tensorrt', from_wheel(wheel))}\n")


if __name__ == "__main__":
    main()
