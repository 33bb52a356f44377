"""Files that can be made again, in `$OSTINATO_CACHE` or in the user's cache folder."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

from platformdirs import user_cache_path

from .errors import FileError
from .files import write_whole

log = logging.getLogger(__name__)


def cache_home() -> Path:
    return Path(os.environ.get("OSTINATO_CACHE") or user_cache_path("ostinato"))


def kept(name: str, make: Callable[[], bytes]) -> bytes:
    """What `make` once returned, as long as its file is whole; a folder that cannot be used is no failure.

    Args:
        name: path in the cache; it names all that the bytes depend on.
    """
    path = cache_home() / name
    try:
        found = path.read_bytes()
        if _sum(found[32:]) == found[:32]:
            return found[32:]
        log.info("%s is damaged, and is made again", path)
    except OSError as error:
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
