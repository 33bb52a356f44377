"""What an engine's files come to, in one word, for who must hear of a change."""

from __future__ import annotations

from pathlib import Path

from ...errors import EngineFileError
from .sidecar import read_sidecar
from .trust import Trust


def stamp(plan: Path) -> str:
    """Changes with the plan, with all of its sidecar but the proof, which comes later, and with its trust.

    Empty where there is no plan. Reads the sidecar; of the plan itself only size and time.
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
