"""Sends TensorRT's log to `logging`, and collects its errors so that a raised error can quote them."""

from __future__ import annotations

import logging
import threading
from typing import Any, TypeVar

from ...errors import EngineError
from .flavor import Flavor

LOG = logging.getLogger("ostinato.tensorrt")
MOST = 64  # errors kept; TensorRT repeats itself
_LEVELS = {
    "INTERNAL_ERROR": logging.CRITICAL,
    "ERROR": logging.ERROR,
    "WARNING": logging.WARNING,
    "INFO": logging.INFO,
    "VERBOSE": logging.DEBUG,
}
_SHORTAGE = ("OutOfMemory", "out of memory", "could not be allocated")  # in TensorRT's and CUDA's messages
T = TypeVar("T")


class Errors:
    """The errors that TensorRT reported, oldest first. Thread-safe: TensorRT reports from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: list[tuple[Any, str]] = []
        self._overflowed = False

    def add(self, code: Any, text: str) -> None:
        with self._lock:
            if len(self._all) < MOST:
                self._all.append((code, text))
            else:
                self._overflowed = True

    def at(self, index: int) -> tuple[Any, str]:
        with self._lock:
            return self._all[index]

    def clear(self) -> None:
        with self._lock:
            self._all.clear()
            self._overflowed = False

    @property
    def count(self) -> int:
        with self._lock:
            return len(self._all)

    @property
    def overflowed(self) -> bool:
        return self._overflowed

    @property
    def shortage(self) -> bool:
        """Return whether any of them reports a lack of memory."""
        with self._lock:
            return any(
                code.name == "FAILED_ALLOCATION" or any(w in text for w in _SHORTAGE) for code, text in self._all
            )

    def text(self) -> str:
        """Join all of them on one line."""
        with self._lock:
            said = [" ".join(text.split()) for _, text in self._all]
        return "; ".join(dict.fromkeys(said)) + ("; ..." if self._overflowed else "")


def recorder(flavor: Flavor, errors: Errors) -> Any:
    """Make an `IErrorRecorder` that writes into `errors`."""

    class Recorder(flavor.module.IErrorRecorder):  # type: ignore[name-defined]  # found at run time
        def __init__(self) -> None:
            flavor.module.IErrorRecorder.__init__(self)

        def num_errors(self) -> int:
            return errors.count

        def get_error_code(self, index: int) -> Any:
            return errors.at(index)[0]

        def get_error_desc(self, index: int) -> str:
            return errors.at(index)[1]

        def has_overflowed(self) -> bool:
            return errors.overflowed

        def report_error(self, code: Any, text: str) -> bool:
            errors.add(code, text)
            return False  # go on: the call's own result says whether it failed

        def clear(self) -> None:
            errors.clear()

    return Recorder()


def logger(flavor: Flavor) -> Any:
    """Make an `ILogger` that writes to the `ostinato.tensorrt` logger."""

    class Logger(flavor.module.ILogger):  # type: ignore[name-defined]  # found at run time
        def __init__(self) -> None:
            flavor.module.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            LOG.log(_LEVELS.get(severity.name, logging.WARNING), "%s", text)

    return Logger()


def checked(what: str, result: T | None, errors: Errors) -> T:
    """Return `result`, unless it is None or False, by which the bindings signal failure.

    Raises:
        EngineError: with the errors recorded since they were last cleared.
    """
    if result is None or result is False:
        raise failed(what, errors)
    return result


def failed(what: str, errors: Errors, detail: str = "") -> EngineError:
    """Make the error for a failed call, and clear the recorded errors."""
    text = "; ".join(part for part in (detail, errors.text()) if part)
    errors.clear()
    return EngineError(
        f"TensorRT's {what} failed", "it must succeed", "look in the log, or build the engine again", text
    )
