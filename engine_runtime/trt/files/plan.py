"""Checks a plan before its bytes are deserialised: its place, sidecar, fit, trust and hash."""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import replace
from pathlib import Path

from ...errors import EngineFileError, InputError
from ...files import open_file
from .folder import file_hash
from .sidecar import Expect, Sidecar, check_fit, generic_command, read_sidecar, unreadable
from .trust import ACCEPTED, Trust

HEADER = 64  # bytes of a TensorRT-RTX plan that its library checks


def read_plan(
    path: Path,
    expect: Expect,
    trust: Trust | None = None,
    folder: Path | None = None,
    sidecar: Sidecar | None = None,
) -> tuple[bytes, Sidecar]:
    """Read a plan that fits here and may be deserialised. The bytes returned are the bytes that were hashed.

    The checks run in this order: the file, the sidecar's fields, flavor and version, GPU, weights and recipe, trust,
    hash, header. A stale engine is refused before gigabytes are read, and none of it reaches the library.

    Args:
        path: NAME.plan.
        expect: what is needed here.
        trust: the installation's; None is the user's own.
        folder: the engines folder that it must lie in once links are followed; None is its own.
        sidecar: from `read_sidecar`; None reads it.

    Raises:
        EngineFileError: with its `reason`, and the exact command that builds the engine again.
    """
    sidecar = examine(path, expect, trust, folder, sidecar)
    data = _read(path, sidecar)
    _check_hash(path, sidecar, hashlib.sha256(data).hexdigest())
    problem = expect.header_problem(data[:HEADER]) if expect.header_problem else None
    if problem:
        raise EngineFileError(
            f"the library refuses {path.name}: {problem}",
            "its header must be of this library and fit this GPU",
            f"run {sidecar.command(path)}",
            "version",
        )
    return data, sidecar


def verify(
    path: Path,
    expect: Expect,
    trust: Trust | None = None,
    folder: Path | None = None,
    sidecar: Sidecar | None = None,
) -> Sidecar:
    """Check all that `read_plan` checks except the header, without keeping the file in memory. Raises as
    `read_plan`."""
    sidecar = examine(path, expect, trust, folder, sidecar)
    _check_bytes(path, sidecar)
    return sidecar


def examine(
    path: Path,
    expect: Expect,
    trust: Trust | None = None,
    folder: Path | None = None,
    sidecar: Sidecar | None = None,
) -> Sidecar:
    """Check all that `read_plan` checks without reading the plan itself. Raises as `read_plan`.

    A proof that this installation did not write is left out of the returned sidecar.
    """
    _check_place(path, folder if folder is not None else path.parent)
    sidecar = sidecar or read_sidecar(path)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise unreadable(path, error) from error
    _check_size(path, sidecar, size)
    check_fit(sidecar, expect, path)
    trust = trust or Trust()
    trust.standing(sidecar, path)
    return sidecar if trust.proven(sidecar) else replace(sidecar, proof=None)


def accept(plan: Path, sha256: str, trust: Trust | None = None) -> Sidecar:
    """Trust an engine that was built elsewhere, by the hash of its sidecar, which the user gives.

    That hash, `Sidecar.identity`, covers the plan's hash too. It does not cover the proof, which is dropped.

    Raises:
        EngineFileError: when the sidecar has another hash, or the plan is not the one its sidecar names.
    """
    sidecar = replace(read_sidecar(plan), proof=None)
    if not hmac.compare_digest(sidecar.identity().encode(), sha256.strip().lower().encode()):
        raise EngineFileError(
            f"the sha256 of {plan.name} with its sidecar is {sidecar.identity()}",
            f"you named {sha256.strip()[:64]!r}; the file's alone, {sidecar.plan_sha256[:12]}..., is not enough",
            "compare it with what ostinato inspect tells its maker",
            "tampered",
        )
    _check_bytes(plan, sidecar)
    (trust or Trust()).record(sidecar, ACCEPTED)
    return sidecar


def _check_place(path: Path, folder: Path) -> None:
    try:
        real, home = path.resolve(strict=True), folder.resolve(strict=True)
        regular = real.is_file()
        empty = regular and real.stat().st_size == 0
    except FileNotFoundError:
        raise EngineFileError(
            f"{path} is not there", "an engine is a .plan file", f"run {generic_command(path)}", "missing"
        ) from None
    except (OSError, RuntimeError) as error:
        raise unreadable(path, error) from error
    if home not in real.parents:
        raise EngineFileError(
            f"{path} leads out of its folder, to {real}",
            "engines are opened from the engines folder only",
            "build it there, or copy the file and its sidecar into the folder",
            "outside",
        )
    if not regular:
        raise EngineFileError(f"{path} is no file", "an engine is a .plan file", "choose another", "unreadable")
    if empty:
        raise EngineFileError(f"{path.name} is empty", "an engine has bytes", f"run {generic_command(path)}", "empty")


def _read(path: Path, sidecar: Sidecar) -> bytes:
    try:
        with os.fdopen(open_file(path), "rb", buffering=0) as file:
            _check_size(path, sidecar, os.fstat(file.fileno()).st_size)
            return file.readall()
    except (OSError, InputError) as error:
        raise unreadable(path, error) from error


def _check_bytes(path: Path, sidecar: Sidecar) -> None:
    """Compare a file's size and hash with its sidecar."""
    try:
        _check_size(path, sidecar, path.stat().st_size)
        _check_hash(path, sidecar, file_hash(path))
    except (OSError, InputError) as error:
        raise unreadable(path, error) from error


def _check_size(path: Path, sidecar: Sidecar, size: int) -> None:
    if size != sidecar.plan_bytes:
        raise EngineFileError(
            f"{path.name} has {size} bytes",
            f"its sidecar says {sidecar.plan_bytes}, so it was cut short, replaced, or its build did not finish",
            f"run {sidecar.command(path)}",
            "truncated",
        )


def _check_hash(path: Path, sidecar: Sidecar, found: str) -> None:
    if not hmac.compare_digest(found, sidecar.plan_sha256):
        raise EngineFileError(
            f"the bytes of {path.name} are not those that were built",
            f"their sha256 must be {sidecar.plan_sha256[:12]}..., as in the sidecar",
            f"run {sidecar.command(path)}",
            "tampered",
        )
