"""A recording of a live session: what was heard, written to a FLAC file block by block, for as long as it lasts."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import soundfile

from ..errors import FileError
from ..files import refused_write
from .level import SAMPLE_RATE

log = logging.getLogger(__name__)
EVERY = 0.25  # seconds


class Source(Protocol):
    """Gives a recording what it needs of a session."""

    @property
    def closed(self) -> bool: ...

    @property
    def heard_until(self) -> int:
        """Return the position, in samples, that the listener hears now."""
        ...

    def heard_since(self, position: int) -> tuple[int, bytes]:
        """Return what was heard from a position on, as int16 pairs, and the first position that is still here."""
        ...


class Recorder:
    """Writes what is heard of a session until it is closed, or the session is.

    A pause leaves no silence in the file. Sound that was made and not heard, because a knob was turned before, is not
    in it. Where the disk is full the file is closed, and holds what was written until then.

    Args:
        session: whose sound.
        path: of the file, which must not be there.
        failed: told, in the thread, why the recording ended before it was asked to.
        every: seconds between two looks at what was heard.

    Attributes:
        samples: written so far.
        missed: samples that were no longer kept when they were to be written.

    Raises:
        FileError: where the file cannot be made.
    """

    def __init__(self, session: Source, path: Path, failed: Callable[[Exception], None], every: float = EVERY) -> None:
        self.path, self.samples, self.missed, self._every = path, 0, 0, every
        self._session, self._failed = session, failed
        self._at = session.heard_until
        self._file = _Output(path)
        self._flac = soundfile.SoundFile(self._file, "w", SAMPLE_RATE, 2, format="FLAC", subtype="PCM_16")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"ostinato recorder {path.name}", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # a FLAC file says how long it is when it is closed

    @property
    def seconds(self) -> float:
        return self.samples / SAMPLE_RATE

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def close(self) -> None:
        """Write what was heard until now and close the file. May be called twice, not from the thread itself."""
        self._ended.set()
        self._thread.join()
        atexit.unregister(self.close)

    def _run(self) -> None:
        try:
            last = False
            while not last:
                last = self._ended.wait(self._every) or self._session.closed
                self._write()
        except Exception as error:
            if not isinstance(error, FileError):
                log.exception("the recording %s ended", self.path.name)
            self._failed(error)
        finally:
            self._flac.close()
            self._file.close()

    def _write(self) -> None:
        start, pcm = self._session.heard_since(self._at)
        self.missed += max(0, start - self._at)
        if not pcm:
            return
        self._flac.write(np.frombuffer(pcm, "<i2").reshape(-1, 2))
        if self._file.error is not None:
            raise refused_write(self.path, self._file.error) from self._file.error
        self.samples += len(pcm) // 4
        self._at = start + len(pcm) // 4


class _Output:
    """A new file that keeps the error of a write: what is raised in a callback of libsndfile is lost.

    Raises:
        FileError: where it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.error: OSError | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "x+b", buffering=0)
        except OSError as error:
            raise refused_write(path, error) from error

    def write(self, data: bytes) -> int:
        try:
            done = 0
            while self.error is None and done < len(data):
                done += self._file.write(data[done:]) or 0
        except OSError as error:
            self.error = error
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, count: int = -1) -> bytes:
        return self._file.read(count) or b""

    def close(self) -> None:
        self._file.close()
