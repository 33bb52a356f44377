"""Safetensors files as nobody's library would write them, for the tests."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


def with_header(path: Path, header: bytes | dict[str, Any], data: bytes = b"", length: int | None = None) -> Path:
    """A file with this header, and this length before it where it is not the header's own."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def not_regular(folder: Path, name: str) -> dict[str, Path]:
    """What a file's place may hold in its stead, each under `name` in a folder of its own."""
    places = {kind: folder / kind for kind in ("folder", "fifo", "link to a fifo", "link to a device", "loop", "text")}
    for place in places.values():
        place.mkdir()
    (places["folder"] / name).mkdir()
    (places["text"] / name).write_text("no file of tensors")
    os.mkfifo(places["fifo"] / name)
    (places["link to a fifo"] / name).symlink_to(places["fifo"] / name)
    (places["link to a device"] / name).symlink_to("/dev/zero")
    (places["loop"] / name).symlink_to(name)
    return {kind: place / name for kind, place in places.items()}


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail when the block takes longer, also in a regular expression; where nothing interrupts it, as in a library that
    opens a pipe, the whole run ends with a traceback."""

    def stop(number: int, frame: object) -> None:
        raise AssertionError(f"it took longer than {seconds} s")

    timer = hasattr(signal, "setitimer")  # POSIX's
    if timer:
        before = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(seconds + 5, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        if timer:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


@contextmanager
def in_memory(most: int) -> Iterator[None]:
    """Fail when the block takes more than so many MiB beyond what the process ever had."""
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < most << 10  # KiB, and on macOS bytes


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """The system ends every write at `size` bytes, as a full disk ends it."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
