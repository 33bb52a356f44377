"""The files that a live session leaves behind: captures of its last moments, and recordings."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from ..errors import InputError
from ..live.beat import Tempo
from ..live.capture import Capture
from ..live.recorder import Recorder
from ..live.session import LiveSession

Write = Callable[[Capture], list[Path]]  # writes a capture, returns its files, the sound first
MOST = 100  # files that a client can still download


class Keep:
    """Writes what clients ask to keep. One recording runs at a time, whoever began it. From any thread.

    Args:
        write: writes a capture.
        new_file: returns the path of a new recording.

    Attributes:
        recorder: of the recording that runs or ran last.
    """

    def __init__(self, session: LiveSession, write: Write, new_file: Callable[[], Path]) -> None:
        self.session, self._write, self._new_file = session, write, new_file
        self.recorder: Recorder | None = None
        self._files: dict[str, Path] = {}  # by name, the latest last
        self._lock = threading.Lock()

    def capture(self, seconds: float, bars: int, tempo: Tempo) -> list[str]:
        """Write the last seconds or bars, and return the names of the files; raises as `LiveSession.capture`, and
        `FileError`.
        """
        files = self._write(self.session.capture(seconds, bars, tempo))
        with self._lock:
            return self._noted(files)

    def record(self) -> str:
        """Begin a recording; returns the name of its file.

        Raises:
            InputError: where one runs.
            FileError: where its file cannot be made.
        """
        with self._lock:
            if self.recorder is not None and self.recorder.running:
                raise InputError(
                    f"{self.recorder.path.name} is being recorded", "one recording runs at a time", "end it first"
                )
            self.recorder = Recorder(self.session, self._new_file(), self.session.fail)
            return self._noted([self.recorder.path])[0]

    def end(self) -> str:
        """End the recording, which is whole then; returns the name of its file, or nothing where none was begun."""
        with self._lock:
            if self.recorder is None:
                return ""
            self.recorder.close()
            return self.recorder.path.name

    @property
    def recording(self) -> tuple[str, float] | None:
        """Return the name of the file that is being written and its seconds; None where none is."""
        recorder = self.recorder
        if recorder is None or not recorder.running:
            return None
        return recorder.path.name, recorder.seconds

    def file(self, name: str) -> Path | None:
        """Return a file that was kept, by its name; None for any other, and for one that is still being written."""
        recorder = self.recorder
        if recorder is not None and recorder.running and recorder.path.name == name:
            return None
        return self._files.get(name)

    def _noted(self, files: list[Path]) -> list[str]:
        """Offer files; returns their names. Hold the lock."""
        names = [path.name for path in files]
        kept = {name: path for name, path in self._files.items() if name not in names}
        self._files = dict([*kept.items(), *zip(names, files, strict=True)][-MOST:])
        return names

    close = end
