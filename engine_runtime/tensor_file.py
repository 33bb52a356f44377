"""Bounded opening of safetensors files that somebody else may have written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from .errors import InputError
from .files import open_file

MAX_HEADER = 32 << 20  # bytes; a checkpoint's has about 0.2 MB, and a trainer or ComfyUI may add some of their own
_LENGTH = 8  # bytes before the header that say how long it is, little-endian


def open_tensors(path: Path, most_header: int = MAX_HEADER, most: int | None = None) -> Any:
    """Open a safetensors file; returns the open file of `safetensors.safe_open`, for PyTorch.

    Args:
        path: a regular file.
        most_header: largest header in bytes; the library keeps it several times over.
        most: largest file in bytes.

    Raises:
        InputError: for what is no such file, or is larger.
    """
    try:
        with os.fdopen(open_file(path), "rb", buffering=0) as file:
            size, header = os.fstat(file.fileno()).st_size, int.from_bytes(file.read(_LENGTH), "little")
        if most is not None and size > most:
            raise InputError(f"it has {size} bytes", f"at most {most} are read", "check it")
        if most_header < header <= size:
            raise InputError(f"its header has {header} bytes", f"at most {most_header} are read", "check it")
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError, InputError) as error:
        raise InputError(
            f"{path} could not be read as safetensors: {getattr(error, 'given', error)}",
            getattr(error, "allowed", "it must be a whole .safetensors file"),
            "check the path, or fetch the file again",
        ) from error
