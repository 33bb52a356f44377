"""Records the origin of figures: the device, the command, the libraries and the code. Part of every JSON."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..constants import VERSION

PACKAGE = Path(__file__).resolve().parents[1]
CODE = ("*.py", "*.cu")


def origin(device: torch.device, command: str) -> dict[str, Any]:
    """Describe a measurement: the device, the command as typed, versions, commit and code hash."""
    return {
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "command": command,
        "versions": versions() | ({"allocator": torch.cuda.get_allocator_backend()} if device.type == "cuda" else {}),
        "commit": _commit(),
        "code": code(),
    }


def code() -> str:
    """Hash of the sources of `engine_runtime`, wherever they lie: the same code, the same hash."""
    digest = hashlib.sha256()
    for path in sorted(
        (path for kind in CODE for path in PACKAGE.rglob(kind)), key=lambda p: p.relative_to(PACKAGE).parts
    ):
        text = path.read_text(encoding="utf-8")  # with the line ends of any system
        digest.update(f"{path.relative_to(PACKAGE).as_posix()}\0{len(text)}\0{text}".encode())
    return digest.hexdigest()[:16]


def versions() -> dict[str, str | None]:
    """Return the versions that times depend on."""
    found: dict[str, str | None] = {
        "ostinato": VERSION,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    for name in ("triton", "diffusers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return {**found, "cuda": torch.version.cuda}


def _commit() -> str | None:
    """Return the commit of this checkout; None for an installed package."""
    root = PACKAGE.parent
    try:
        asked = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if (root / ".git").exists() else None
