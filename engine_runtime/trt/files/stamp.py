"""A short text that changes when an engine's files do."""

from __future__ import annotations

from pathlib import Path

from ...errors import EngineFileError
from .sidecar import read_sidecar
from .trust import Trust


def stamp(plan: Path) -> str:
    """Return a text that changes with the plan, its trust, or its sidecar (the proof excluded, which is added later).

    Empty where there is no plan. Reads the sidecar; of the plan only size and time.
    """
    try:
        found = plan.stat()
    except OSError:
        return ""
    try:
        sidecar = read_sidecar(plan)
        standing = f"{sidecar.identity()} {Trust().standing(sidecar, plan)}"
    except EngineFileError as error:
        standing = error.reason
    return f"{found.st_mtime_ns} {found.st_size} {standing}"
