"""Files that are whole or as they were before, whoever else writes them and whenever the power goes."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

CHUNK = 16 << 20


def write_whole(path: Path, data: bytes | memoryview, mode: int = 0o644) -> None:
    """Write a file so that it is there whole, or as it was before; raises `OSError`."""
    made: Path | None = None
    try:
        handle, text = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        made = Path(text)
        with os.fdopen(handle, "wb") as file:
            view = memoryview(data)
            for start in range(0, len(view), CHUNK):
                file.write(view[start : start + CHUNK])
            file.flush()
            os.fsync(file.fileno())
        if os.name == "posix":
            os.chmod(made, mode)
        os.replace(made, path)
        sync_folder(path.parent)
    finally:
        if made is not None:
            with contextlib.suppress(OSError):  # what went wrong before is the one to tell
                made.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
