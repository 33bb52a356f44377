"""Bounded reads of files from outside, whole writes of our own, and a cache of bytes.

All code that reads JSON, or opens a file that somebody else may have written, goes through here. JSON is strict: no NaN
or Infinity, no number beyond 64 bits, no lone surrogate, no more than `MAX_DEPTH` levels.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, overload

import msgspec
from platformdirs import user_cache_path

from .errors import FileError, InputError

log = logging.getLogger(__name__)
CHUNK = 16 << 20  # bytes read or written at a time
MAX_DEPTH = 100  # levels of JSON; a workflow has about ten
MAX_KEPT = 64 << 20  # bytes of a cached file; a compiled kernel has 0.1 MB
_OPEN = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
T = TypeVar("T")


def open_file(path: Path, flags: int = 0) -> int:
    """Open a regular file for reading and return its descriptor. Never waits for a FIFO or a device to send.

    Raises:
        OSError: where the system refuses.
        InputError: for a folder, FIFO, device or socket, also behind a symbolic link, and for a name with a NUL.
    """
    if "\0" in str(path):
        raise InputError(f"the file name {str(path)!r} has a NUL", "file names have none", "correct the name")
    handle = os.open(path, _OPEN | flags)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise InputError(f"{path} is no regular file", "only files are read, no folder, pipe or device", "check it")
    return handle


def check_regular(path: Path) -> None:
    """Raise as `open_file` does, for a file that a library is about to open by name."""
    os.close(open_file(path))


def read_bytes(path: Path, most: int, flags: int = 0) -> bytes:
    """Read a regular file of at most `most` bytes.

    Raises:
        OSError: as `open_file`.
        InputError: as `open_file`, and for a larger file.
    """
    with os.fdopen(open_file(path, flags), "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        data = b"" if size > most else file.read(most + 1)
        while 0 < len(data) <= most and (more := file.read(most + 1 - len(data))):
            data += more
    if max(size, len(data)) > most:
        raise InputError(f"{path} has {max(size, len(data))} bytes", f"at most {most} are read", "check the file")
    return data


@overload
def parse_json(data: bytes | str, what: str) -> Any: ...
@overload
def parse_json(data: bytes | str, what: str, kind: type[T]) -> T: ...
def parse_json(data: bytes | str, what: str, kind: Any = Any) -> Any:
    """Convert JSON text to plain data, or to a dataclass or other type whose fields are checked.

    Args:
        data: UTF-8 bytes or text.
        what: the name of the data in an error.
        kind: the type to convert to.

    Raises:
        InputError: for what is not strict JSON, and for a field of the wrong type, with its place.
    """
    try:
        found = msgspec.json.decode(data)
        _check(found, what)
        return typed(found, what, kind)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise InputError(f"{what} is no JSON: {error}", "it must be strict JSON", "check the file") from error
    except RecursionError:
        raise _too_deep(what) from None


def typed(data: Any, what: str, kind: type[T]) -> T:
    """Convert plain data to a type whose fields are checked; raises `InputError` with the place of a wrong field."""
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise InputError(f"{what} is not as it should be: {error}", "its fields have types", "correct it") from error


def read_json(path: Path, most: int, kind: Any = Any) -> Any:
    """Read a JSON file of at most `most` bytes; raises as `read_bytes` and `parse_json` do."""
    return parse_json(read_bytes(path, most), path.name, kind)


@contextlib.contextmanager
def written_by(command: str, path: Path) -> Iterator[None]:
    """Say which command writes such files, as `InputError`, of one that cannot be read or holds something else."""
    allowed = f"allowed is what `{command}` writes"
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})", allowed, "check the path") from error
    except InputError as error:
        raise InputError(error.given, allowed, "make it again") from error


def _check(data: Any, what: str) -> None:
    level, depth = [data], 0
    while level:
        long = next((v for v in level if type(v) is int and not -(1 << 63) <= v < 1 << 64), None)
        if long is not None:
            found = f"{what} has a number of {len(str(abs(long)))} digits"
            raise InputError(found, "whole numbers have at most 64 bits", "correct it")
        inner = [value.values() if type(value) is dict else value for value in level if type(value) in (dict, list)]
        if inner and depth == MAX_DEPTH:
            raise _too_deep(what)
        level, depth = [value for values in inner for value in values], depth + 1


def _too_deep(what: str) -> InputError:
    return InputError(f"{what} is nested more than {MAX_DEPTH} levels deep", "that is the most", "check the file")


def write_whole(path: Path, data: bytes | memoryview, mode: int | None = None) -> None:
    """Write a file whole or leave the old one, even if another process writes it too or the power fails.

    Args:
        mode: permissions; None for those of the user's umask.

    Raises:
        FileError: when it cannot be written; its `full` is true where the disk had no room.
    """
    made = path.parent / f".ostinato-{secrets.token_hex(8)}"
    try:
        handle = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode or 0o666)
        with os.fdopen(handle, "wb") as file:
            view = memoryview(data).cast("B")
            for start in range(0, len(view), CHUNK):
                file.write(view[start : start + CHUNK])
            file.flush()
            os.fsync(file.fileno())
        if mode is not None and os.name == "posix":  # whatever the umask is
            os.chmod(made, mode)
        os.replace(made, path)
        sync_folder(path.parent)
    except (OSError, ValueError) as error:
        raise refused_write(path, error) from error
    finally:
        with contextlib.suppress(OSError, ValueError):  # what went wrong before is the one to tell
            made.unlink(missing_ok=True)


def refused_write(path: Path, error: BaseException) -> FileError:
    """Make the error that says why a file could not be written."""
    why = getattr(error, "strerror", None) or str(error)
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return FileError(
            f"the disk is full: {path} could not be written", "files are written whole", "free room, or choose "
            "another folder", full=True,
        )  # fmt: skip
    return FileError(f"{path} cannot be written: {why}", "its folder must be writable", "choose another, or correct it")


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable, on systems that can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def cache_home() -> Path:
    """Return the cache folder: `OSTINATO_CACHE`, or the user's own."""
    return Path(os.environ.get("OSTINATO_CACHE") or user_cache_path("ostinato"))


def kept(name: str, make: Callable[[], bytes]) -> bytes:
    """Return cached bytes, or make and cache them where there are none or their checksum is wrong.

    A cache folder that cannot be used is logged, not raised.

    Args:
        name: path in the cache; it must name all that the bytes depend on.
        make: computes the bytes; its errors are passed on.
    """
    path = cache_home() / name
    try:
        found = read_bytes(path, MAX_KEPT)
        if _sum(found[32:]) == found[:32]:
            return found[32:]
        log.info("%s is damaged, and is made again", path)
    except (OSError, InputError) as error:
        log.debug("%s is not kept: %s", path, error)
    made = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, _sum(made) + made)
    except (OSError, FileError) as error:
        log.info("%s cannot be kept, and is made anew each time: %s", path, error)
    return made


def _sum(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
