"""Finds the TensorRT library that this process can use, and which file of it is mapped. Imports nothing else of
TensorRT."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...errors import EngineError, check_choice
from .preflight import OLDEST

NAMES = ("tensorrt", "tensorrt_rtx")
MAPS = Path("/proc/self/maps")

# Also matches a copy renamed by a wheel repair tool (`libnvinfer-1a2b.so.10`), but not the plugin or lean libraries.
_FILES = {
    "tensorrt": re.compile(r"libnvinfer(-\w+)?\.so(\.|$)"),
    "tensorrt_rtx": re.compile(r"libtensorrt_rtx(-\w+)?\.so(\.|$)"),
}

# Dtypes by TensorRT's names. Sub-byte types are left out: torch has no tensor for them.
DTYPES = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "BF16": torch.bfloat16,
    "FP8": torch.float8_e4m3fn,
    "INT64": torch.int64,
    "INT32": torch.int32,
    "INT8": torch.int8,
    "UINT8": torch.uint8,
    "BOOL": torch.bool,
}


def to_torch(dtype: Any) -> torch.dtype:
    """Convert TensorRT's `DataType` to torch's. Raises `EngineError` for one that torch does not have."""
    if dtype.name not in DTYPES:
        raise EngineError(
            f"a tensor of the engine is {dtype.name}",
            f"allowed are {', '.join(DTYPES)}",
            "build the engine from a graph that `ostinato build` exported",
        )
    return DTYPES[dtype.name]


@dataclass(frozen=True)
class Flavor:
    """A TensorRT library that is imported and usable.

    Attributes:
        name: `tensorrt` or `tensorrt_rtx`.
        module: the imported bindings.
        version: of the bindings.
        library: the mapped file; None where the system does not tell.
        validity: it can check an engine's header before deserialising.
        runtime_cache: it can keep kernels compiled for a shape.
        own_graphs: it captures CUDA graphs itself, and then no one else may.
        specialization: it can be told when to compile kernels for a shape.
    """

    name: str
    module: Any
    version: str
    library: Path | None = None
    validity: bool = False
    runtime_cache: bool = False
    own_graphs: bool = False
    specialization: bool = False

    @property
    def release(self) -> tuple[int, ...]:
        return release(self.version)

    @property
    def title(self) -> str:
        return f"{'TensorRT-RTX' if self.name == 'tensorrt_rtx' else 'TensorRT'} {self.version}"

    @classmethod
    def of(cls, name: str, module: Any, library: Path | None = None) -> Flavor:
        """Read a module's features; the module must have passed `probe`."""
        config = module.IRuntimeConfig
        return cls(
            name,
            module,
            module.__version__,
            library,
            validity=hasattr(module.Runtime, "get_engine_validity"),
            runtime_cache=hasattr(config, "create_runtime_cache"),
            own_graphs=hasattr(config, "cuda_graph_strategy"),
            specialization=hasattr(config, "dynamic_shapes_kernel_specialization_strategy"),
        )


def release(version: str) -> tuple[int, ...]:
    """Parse `10.13.3.9` into numbers, up to the first part that is no number (`10.14.1.48.post1`)."""
    parts = version.split(".")
    return tuple(int(p) for p in parts[: next((i for i, p in enumerate(parts) if not p.isdigit()), len(parts))])


def probe(name: str) -> Flavor:
    """Import a flavor.

    Raises:
        InputError: for an unknown name.
        EngineError: when it is not installed, lacks its library, or is too old, or when another TensorRT is mapped in
            this process; then with its file and the package that the file belongs to.
    """
    check_choice("the TensorRT flavor", name, NAMES)
    if name not in sys.modules:
        refuse_foreign(name, mapped(), folder_of(name))
    module = _import(name)
    found = [path for kind, path in mapped() if kind == name]
    refuse_foreign(name, mapped(), found[0].parent if found else None)
    if found and (theirs := library_version(found[0])) != release(module.__version__)[:3]:
        text = ".".join(map(str, theirs))
        raise EngineError(
            f"the bindings {name} {module.__version__} met the library {text} from {found[0]}, of {owner(found[0])}",
            "bindings and library must be of one release",
            f"load no other TensorRT in this process, or install {name} {text}",
        )
    return Flavor.of(name, module, found[0] if found else None)


def _import(name: str) -> Any:
    """Import a flavor's module. Stub packages of its name exist that lack `Runtime`, so finding the module is not
    enough."""
    remedy = f"run: {sys.executable} -m pip install --upgrade {name.replace('_', '-')}"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise EngineError(f"{name} needs {error.name}, which is missing", "it must import", remedy) from error
        raise EngineError(f"{name} is not installed", "this engine runs on it", remedy) from error
    except Exception as error:  # a missing shared library, or a wheel of another CUDA or Python
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise EngineError(f"{name} does not import: {first}", "its libraries must be there too", remedy) from error
    if not (hasattr(module, "Runtime") and getattr(module, "__version__", None)):
        raise EngineError(f"the installed {name} is a shell without the library", "it must have a Runtime", remedy)
    if release(module.__version__) < OLDEST[name]:
        oldest = ".".join(map(str, OLDEST[name]))
        raise EngineError(f"{name} is {module.__version__}", f"it must be {oldest} or newer", remedy)
    return module


def mapped(maps: Path = MAPS) -> list[tuple[str, Path]]:
    """List (flavor, file) of each TensorRT library mapped in this process; empty on systems without /proc."""
    try:
        lines = maps.read_text(errors="replace").splitlines()
    except OSError:
        return []
    files = dict.fromkeys(Path(line.split(maxsplit=5)[5]) for line in lines if line.count(" ") >= 5 and "/" in line)
    return [(name, path) for path in files for name, file in _FILES.items() if file.match(path.name)]


def refuse_foreign(name: str, found: Iterable[tuple[str, Path]], folder: Path | None) -> None:
    """Raise `EngineError` for a mapped library that is not this flavor's own.

    Args:
        name: the wanted flavor.
        found: from `mapped`.
        folder: where the flavor's library lies; None allows any file of its name.
    """
    for kind, path in found:
        if kind != name or (folder is not None and path.parent.resolve() != folder.resolve()):
            raise EngineError(
                f"another TensorRT is loaded in this process: {path}, of {owner(path)}",
                f"a process holds one TensorRT, and {name} would be the second",
                "switch off the pack that loads it, or play on the compiled or eager engine",
            )


def folder_of(name: str) -> Path | None:
    """Return the folder of the wheel with the flavor's library; None when it is installed in another way."""
    spec = importlib.util.find_spec(f"{name}_libs")
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) if places else None


def owner(path: Path) -> str:
    """Name the package that a mapped file belongs to."""
    parts = path.parts
    for i, part in enumerate(parts[:-1]):
        if part in ("site-packages", "dist-packages") and i + 2 < len(parts):
            return f"the package {parts[i + 1]}"
    return "the system"


def library_version(path: Path) -> tuple[int, int, int]:
    """Ask a mapped library for its own version: (major, minor, patch)."""
    number = ctypes.CDLL(str(path)).getInferLibVersion()
    return number // 10_000, number // 100 % 100, number % 100
