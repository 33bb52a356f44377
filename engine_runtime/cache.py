"""Files that can be made again, in `$OSTINATO_CACHE` or in the user's cache folder."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

from platformdirs import user_cache_path

from .errors import FileError, InputError
from .files import read_bytes, write_whole

MAX_BYTES = 64 << 20  # of a file; a compiled kernel has 0.1 MB
log = logging.getLogger(__name__)


def cache_home() -> Path:
    return Path(os.environ.get("OSTINATO_CACHE") or user_cache_path("ostinato"))


def kept(name: str, make: Callable[[], bytes]) -> bytes:
    """Return what `make` once returned, as long as its file is whole; a folder that cannot be used is no failure.

    Args:
        name: path in the cache; it names all that the bytes depend on.
    """
    path = cache_home() / name
    try:
        found = read_bytes(path, MAX_BYTES)
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
