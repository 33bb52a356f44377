"""Packages that the model code is made of: which one cannot be imported, and what to do about it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from traceback import walk_tb

from .errors import PackageError

# In the order in which they need each other. transformers imports torchaudio and torchvision wherever they are
# installed, and fails with them; what it then says names neither.
NEEDED = (
    "numpy", "torch", "torchvision", "torchaudio", "scipy", "safetensors", "tokenizers", "huggingface_hub",
    "accelerate", "transformers", "diffusers",
)  # fmt: skip
BUILT_FOR_TORCH = ("torchvision", "torchaudio")  # compiled against one release of torch; nothing here needs them


@contextmanager
def named() -> Iterator[None]:
    """Raise `PackageError` in place of what a package that cannot be imported raises inside; all else passes."""
    try:
        yield
    except PackageError:
        raise
    except Exception as error:
        if not _while_importing(error) or (known := broken(error)) is None:
            raise
        raise known from None


def broken(error: Exception) -> PackageError | None:
    """Import the packages one after another, and return the error of the first that fails; None where none does.

    Args:
        error: what importing raised; an ImportError that names a package counts where each can be imported by itself.
    """
    for name in NEEDED:
        try:
            if find_spec(name) is not None:
                importlib.import_module(name)
        except Exception as own:  # whatever its code raises
            return _error(name, own)
    if isinstance(error, ImportError) and error.name and error.name.split(".")[0] in NEEDED:
        return _error(error.name.split(".")[0], error)
    return None


def _while_importing(error: BaseException) -> bool:
    """Return whether an error was raised by code that runs as a module is imported."""
    frames = (frame for frame, _ in walk_tb(error.__traceback__))
    return isinstance(error, ImportError) or any(frame.f_code.co_name == "<module>" for frame in frames)


def _error(name: str, error: Exception) -> PackageError:
    why = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    given = f"the package {name}{_version(name)} cannot be imported: {why[:200]}"
    if name in BUILT_FOR_TORCH:
        fits = f"it must be the release that was built for torch{_version('torch')}"
        return PackageError(
            given, fits, f"install that one, or remove it, which is not needed here: pip uninstall {name}"
        )
    return PackageError(
        given,
        "the pack needs the releases that its requirements.txt names",
        f"run: python -m pip install --upgrade {name.replace('_', '-')}, or -r requirements.txt in the pack's folder",
    )


def _version(name: str) -> str:
    try:
        return f" {version(name)}"
    except PackageNotFoundError:
        return ""
