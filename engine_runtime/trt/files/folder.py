"""The engines folder: files are written whole or not at all, one build runs at a time, dead builds are cleared away.

A build works in `.build-*` inside the folder, so that a finished file only needs a rename. The sidecar is renamed last:
a plan without a sidecar that names its hash does not count as an engine.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from ... import files
from ...errors import EngineBuildError, EngineFileError, FileError, InputError
from ...files import CHUNK, open_file, read_json, sync_folder
from .sidecar import Sidecar, read_sidecar, sidecar_path

if TYPE_CHECKING:
    from filelock import BaseFileLock

WORK = ".build-"  # prefix of a build's own folder
LOCK, HOLDER, HOLDER_BYTES = ".build.lock", ".build.json", 4096


def data_home() -> Path:
    """Return the folder of the key, the manifest and by default the engines: `$OSTINATO_DATA`, else the user's data
    folder."""
    from platformdirs import user_data_path

    return Path(os.environ.get("OSTINATO_DATA") or user_data_path("ostinato"))


def engines_home() -> Path:
    """Return `$OSTINATO_ENGINES`, else `engines` in `data_home`."""
    return Path(os.environ.get("OSTINATO_ENGINES") or data_home() / "engines")


def ready_folder(folder: Path) -> Path:
    """Make the folder, test that it can be written to, and return its absolute path.

    Raises:
        EngineFileError: when it cannot.
    """
    try:
        folder = folder.expanduser().absolute()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0")
            file.flush()
    except (OSError, RuntimeError) as error:
        raise refused_write(folder, error) from error
    return folder


def write_whole(path: Path, data: bytes | memoryview, mode: int = 0o644) -> None:
    """Write a file whole; on failure the old file stays as it was.

    Raises:
        EngineFileError: with reason `full` when the disk is full, `folder` otherwise.
    """
    try:
        files.write_whole(path, data, mode)
    except FileError as error:
        raise refused_write(path, error.__cause__ or error) from error


def refused_write(path: Path, error: BaseException) -> EngineFileError:
    """Make the error for a failed write: reason `full` when the disk is full, `folder` otherwise."""
    number = getattr(error, "errno", None)
    reason = getattr(error, "strerror", None) or str(error)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return EngineFileError(
            f"the disk is full: {path} could not be written",
            "an engine needs room for itself, for the exported graph and for the engine it replaces",
            "free room there, or choose another folder with --engines",
            "full",
        )
    return EngineFileError(
        f"{path} cannot be written: {reason}",
        "the engines folder must be a folder that can be written to",
        "change its permissions, or choose another with --engines or OSTINATO_ENGINES",
        "folder",
    )


def file_hash(path: Path) -> str:
    """Hash a file with sha256; raises what `files.open_file` raises."""
    found = hashlib.sha256()
    with os.fdopen(open_file(path), "rb", buffering=0) as file:
        while block := file.read(CHUNK):
            found.update(block)
    return found.hexdigest()


Trusts = Callable[[Sidecar], bool]  # `trust.Trust.has`


@contextlib.contextmanager
def claim(
    folder: Path, name: str, wait: bool, trusts: Trusts, waiting: Callable[[str], None] = lambda _: None
) -> Iterator[None]:
    """Hold the folder's lock for one build. The system frees the lock when the process dies.

    Args:
        name: of the engine, shown to other builds.
        wait: wait for a running build instead of raising.
        trusts: as in `discard`, which clears away dead builds.
        waiting: called with the name of the build that is waited for.

    Raises:
        EngineBuildError: when another build runs and `wait` is False.
        EngineFileError: when the folder cannot be written to.
    """
    from filelock import FileLock

    lock, last = FileLock(folder / LOCK), ""
    while not _acquired(lock, 0.3 if wait else 0):
        who = holder(folder)
        if not wait:
            raise EngineBuildError(
                f"{who} runs in {folder}", "one build at a time runs in a folder", "wait for it, or cancel it"
            )
        if who != last:
            waiting(who)
            last = who
    try:
        note = {"name": name, "pid": os.getpid(), "since": time.strftime("%H:%M:%S")}
        write_whole(folder / HOLDER, json.dumps(note).encode())
        sweep(folder, trusts)
        yield
    finally:
        with contextlib.suppress(OSError):
            (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def _acquired(lock: BaseFileLock, timeout: float) -> bool:
    from filelock import Timeout

    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        return False
    except OSError as error:
        raise refused_write(Path(lock.lock_file), error) from error
    return True


class _Holder(Struct):
    name: str
    pid: int
    since: str


def _holder(folder: Path) -> _Holder | None:
    """Read the note of the build that holds the folder; None where there is none or it cannot be read."""
    with contextlib.suppress(OSError, InputError):
        found: _Holder = read_json(folder / HOLDER, HOLDER_BYTES, _Holder)
        return found
    return None


def holder(folder: Path) -> str:
    """Describe the build that holds the folder."""
    note = _holder(folder)
    return f"the build of {note.name} (process {note.pid}, since {note.since})" if note else "another build"


def forget(folder: Path, pid: int) -> None:
    """Remove the note of a dead process; another's stays."""
    note = _holder(folder)
    if note is not None and note.pid == pid:
        with contextlib.suppress(OSError):
            (folder / HOLDER).unlink()


def sweep(folder: Path, trusts: Trusts) -> list[str]:
    """Remove what dead builds left and return their folders' names. The caller holds the folder."""
    found = dead_builds(folder)
    for work in found:
        discard(work, trusts)
    return [work.name for work in found]


def dead_builds(folder: Path) -> list[Path]:
    """List the work folders of builds. With the folder's lock held, all of them are dead."""
    return sorted(path for path in folder.glob(f"{WORK}*") if path.is_dir() and not path.is_symlink())


def discard(work: Path, trusts: Trusts) -> bool:
    """Remove a build's work folder; returns whether that completed an engine.

    A build that died between its two renames left a whole plan in place and its sidecar here: the sidecar is then
    moved.

    Args:
        trusts: tells whether a sidecar is recorded with its plan; only such a one is moved, and never over another.
    """
    done = False
    for made in work.glob("*.plan.json"):
        plan = work.parent / made.name.removesuffix(".json")
        with contextlib.suppress(OSError, EngineFileError, InputError):
            left = read_sidecar(work / plan.name)
            whole = trusts(left) and plan.stat().st_size == left.plan_bytes and file_hash(plan) == left.plan_sha256
            if whole and not _is_whole(plan, left.plan_sha256, trusts):
                os.replace(made, sidecar_path(plan))
                done = True
    shutil.rmtree(work, ignore_errors=True)
    return done


def _is_whole(plan: Path, sha256: str, trusts: Trusts) -> bool:
    """Return whether the sidecar in place is a trusted one for that plan."""
    try:
        sidecar = read_sidecar(plan)
        return sidecar.plan_sha256 == sha256 and trusts(sidecar)
    except EngineFileError:
        return False


def commit(work: Path, folder: Path, name: str) -> Path:
    """Move a finished plan and its sidecar, both synced to disk in `work`, into the folder; returns the plan's path.

    Raises:
        EngineFileError: when they cannot be moved.
    """
    plan = folder / f"{name}.plan"
    try:
        os.replace(work / plan.name, plan)
        os.replace(sidecar_path(work / plan.name), sidecar_path(plan))
        sync_folder(folder)
    except OSError as error:
        raise refused_write(plan, error) from error
    return plan


def plans(folder: Path) -> list[Path]:
    """List the plans in a folder by name, with or without a sidecar."""
    try:
        return sorted(path for path in folder.glob("*.plan") if not path.name.startswith("."))
    except OSError:
        return []
