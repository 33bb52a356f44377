"""Checks what a build needs before minutes are spent: packages, CUDA, driver, disk and memory."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
import shutil
import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from ... import machine
from ...errors import EngineBuildError

OLDEST = {"tensorrt": (10, 13), "tensorrt_rtx": (1, 4)}
BUILD_PACKAGES, EXPORT_PACKAGES = ("polygraphy", "onnx"), ("onnx", "onnxscript")
GIB = 1 << 30
# The 2B decoder (weights of 3.15 GB) left a plan of 3.19 GB and took 10.1 GB at most to build (TensorRT-RTX 1.7.1).
PLAN_FACTOR, MEMORY_FACTOR, SPARE = 1.05, 3.3, GIB // 2
_PARTS = ("-bindings", "-libs")  # extra packages that come with a flavor's wheel
_CUDA = re.compile(r"-cu(\d{2})(?:-|$)")


def check_packages(names: Iterable[str], flavor: str) -> None:
    """Raise `EngineBuildError` naming the packages that are not installed."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise EngineBuildError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed for {sys.executable}",
            "building an engine needs them",
            f"run: {install(flavor)}",
        )


def install(flavor: str) -> str:
    """Return the pip command that installs everything a build needs into the running Python.

    It lists the packages: as a custom node the pack itself is not installed by pip.
    """
    names = ("polygraphy", "onnx", "onnxscript", flavor.replace("_", "-"))
    return f"{sys.executable} -m pip install {' '.join(names)}"


def check_library(flavor: str) -> Any:
    """Import the library for a build and return its module.

    Raises:
        EngineBuildError: when it does not import, lacks its library, or is too old.
    """
    remedy = f"run: {install(flavor)}"
    try:
        module = importlib.import_module(flavor)
    except Exception as error:  # a missing package, a missing shared library, a wheel of another CUDA
        said = clause(str(error)) or type(error).__name__
        raise EngineBuildError(f"{flavor} does not import: {said}", "a build needs it", remedy) from error
    version = getattr(module, "__version__", None)
    if not (version and hasattr(module, "Builder")):
        raise EngineBuildError(
            f"the installed {flavor} is a shell without the library", "it must have a Builder", remedy
        )
    if tuple(int(n) for n in re.findall(r"\d+", version)[:2]) < OLDEST[flavor]:
        oldest = ".".join(map(str, OLDEST[flavor]))
        raise EngineBuildError(f"{flavor} is {version}", f"it must be {oldest} or newer", f"{remedy} --upgrade")
    return module


def check_gpu(flavor: str, refittable: bool, found: bool | None = None) -> None:
    """Raise `EngineBuildError` where the build needs a GPU and there is none. TensorRT-RTX needs one only to refit."""
    if found is None:
        found = machine.driver_cuda() is not None
    if found or (flavor == "tensorrt_rtx" and not refittable):
        return
    raise EngineBuildError(
        "no NVIDIA driver answers on this machine",
        "TensorRT builds on the GPU it builds for" if flavor == "tensorrt" else "a refittable plan is built on a GPU",
        "build on the machine that plays, or use --flavor rtx without --refittable",
    )


def check_cuda(
    flavor: str, refittable: bool, wheels: Collection[int] | None = None, driver: tuple[int, int] | None = None
) -> None:
    """Raise `EngineBuildError` where wheels of several CUDA releases are installed, or one the driver is too old for.

    The driver counts only for a build on the GPU.
    """
    wheels = wheel_cuda(flavor) if wheels is None else wheels
    driver = machine.driver_cuda() if driver is None else driver
    on_gpu = flavor == "tensorrt" or refittable
    if problem := cuda_problem(flavor, wheels, None, driver if on_gpu else None):
        raise EngineBuildError(problem[0], "the library and the driver must be of one CUDA", problem[1])


def cuda_problem(
    flavor: str, wheels: Collection[int], torch_cuda: str | None, driver: tuple[int, int] | None
) -> tuple[str, str] | None:
    """Compare the CUDA releases of the library's wheel, of torch and of the driver.

    Args:
        wheels: from `wheel_cuda`.
        torch_cuda: `torch.version.cuda`; None for a CPU build, which is not compared.
        driver: newest CUDA that the driver runs; None where there is none.

    Returns:
        (what is wrong, remedy), or None.
    """
    package, pip = flavor.replace("_", "-"), f"{sys.executable} -m pip"
    wanted = int(torch_cuda.split(".")[0]) if torch_cuda else driver[0] if driver else None
    if len(wheels) > 1:
        keep = wanted if wanted in wheels else max(wheels)
        extra = " ".join(f"{package}-cu{n}{part}" for n in sorted(wheels) if n != keep for part in ("", *_PARTS))
        return (
            f"{package} is installed for CUDA {' and '.join(map(str, sorted(wheels)))} at once",
            f"run: {pip} uninstall -y {extra}, then {pip} install --force-reinstall --no-deps {package}-cu{keep}",
        )
    for wheel in wheels:
        if driver is not None and wheel > driver[0]:
            return (
                f"{package} was made for CUDA {wheel} and the driver runs CUDA up to {driver[0]}.{driver[1]}",
                f"update the NVIDIA driver, or run: {pip} install {package}-cu{driver[0]}",
            )
        if torch_cuda is not None and wheel != wanted:
            return (
                f"{package} was made for CUDA {wheel} and PyTorch for CUDA {torch_cuda}: one process would hold both",
                f"run: {pip} uninstall -y {package}-cu{wheel}, then {pip} install {package}-cu{wanted}",
            )
    return None


def wheel_cuda(flavor: str) -> set[int]:
    """Return the CUDA major versions of the installed wheels, read from their names."""
    rests = (name.removeprefix(flavor.replace("_", "-")) for name in wheels(flavor))
    return {int(match[1]) for rest in rests if (match := _CUDA.match(rest))}


def wheels(flavor: str) -> dict[str, str]:
    """Return the versions of a flavor's installed packages, by name."""
    stem, found = flavor.replace("_", "-"), {}
    for one in importlib.metadata.distributions():
        name = (one.metadata["Name"] or "").replace("_", "-").lower()
        if name == stem or (name.startswith(stem) and _CUDA.match(name.removeprefix(stem))):
            found[name] = one.version
    return found


def check_room(folder: Path, needed: int, what: str) -> None:
    """Raise `EngineBuildError` where the disk lacks `needed` bytes for `what`."""
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE:
        raise EngineBuildError(
            f"{folder} has {size(free)} free",
            f"{what} takes {size(needed + SPARE)}",
            "free room there, or choose another folder with --engines",
        )


def check_memory(needed: int, free: int | None = None) -> None:
    """Raise `EngineBuildError` where fewer than `needed` bytes of memory are free; an unknown amount passes."""
    free = machine.free_memory() if free is None else free
    if free is not None and free < needed:
        raise EngineBuildError(
            f"{size(free)} of memory are free",
            f"the build takes about {size(needed)}",
            "close other programs, or build on a machine with more memory and copy the engine",
        )


def export_room(weights: int, profiles: int = 1) -> int:
    """Return the disk bytes needed for a graph and its plans, for that many bytes of weights; an old plan still
    exists."""
    return int(weights * (1 + PLAN_FACTOR * profiles))


def build_memory(weights: int, profiles: int = 1) -> int:
    """Return the expected peak memory of a build, in bytes."""
    return int(weights * (MEMORY_FACTOR + 0.9 * (profiles - 1))) + GIB // 4


def clause(text: str, most: int = 600) -> str:
    """Shorten a library's message to its last `most` characters, without full stops, for use inside a sentence."""
    return re.sub(r"[.!?]+(?=\s+[A-Z]|\s*$|;)", "", " ".join(text.split())[-most:]).strip()


def size(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB // 10 else f"{count / (1 << 20):.1f} MiB"
