"""Errors that a user may meet. Each says what was given, what is allowed and what to do, in one sentence."""

from __future__ import annotations

from collections.abc import Collection
from numbers import Integral

LONGEST = 500  # characters of each part of a message


def plain(text: object, most: int = LONGEST) -> str:
    """Make text that may come from a file fit for a terminal: one line of at most `most` characters.

    Characters that do not print (control characters, terminal commands, changes of direction, lone surrogates) become
    escapes such as `\\x1b`; of longer text the middle is left out.
    """
    text = str(text)
    if len(text) > 8 * most:  # a name of 31 MB took 15 s and 2.6 GB to escape
        text = f"{text[: 4 * most]} ... {text[-4 * most :]}"
    line = printable(" ".join(text.split()))
    return line if len(line) <= most else f"{line[: most * 2 // 3]} ... {line[len(line) - most // 4 :]}"


def printable(text: str) -> str:
    """Replace each character that does not print by its escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class OstinatoError(Exception):
    """Base of every error the runtime raises on purpose.

    Args:
        given: what was found ("depth is 9").
        allowed: what is right ("allowed is 1 to 8").
        remedy: what to do about it ("lower the depth").
    """

    def __init__(self, given: str, allowed: str, remedy: str) -> None:
        self.given, self.allowed, self.remedy = plain(given), plain(allowed), plain(remedy)
        super().__init__(f"{self.given}; {self.allowed}; {self.remedy}.")


class InputError(OstinatoError, ValueError):
    """A value from outside that cannot be used."""


class FileError(OstinatoError):
    """A file that could not be written.

    Args:
        full: true where the disk had no room.
    """

    def __init__(self, given: str, allowed: str, remedy: str, full: bool = False) -> None:
        super().__init__(given, allowed, remedy)
        self.full = full


class AudioError(InputError):
    """Audio that cannot become a source or a timbre reference."""


class ModelError(OstinatoError):
    """A model folder or checkpoint that cannot be loaded."""


class PackageError(OstinatoError):
    """A Python package that is missing, broken, or does not fit another."""


class EngineLimitError(InputError):
    """Rows that an engine cannot take: more rows, frames or tokens than its limits, or another width."""


class SessionError(OstinatoError):
    """A session id that is taken, unknown, or already closed."""


class TakeError(InputError):
    """A take that cannot be written, read or played again."""


class EngineFileError(OstinatoError):
    """An engine file or sidecar that is broken, stale, foreign or not trusted.

    Args:
        reason: one word, for programs: `missing`, `unreadable`, `outside`, `empty`, `truncated`, `sidecar`, `name`,
            `flavor`, `version`, `gpu`, `kind`, `weights`, `recipe`, `tampered`, `untrusted`, `key`, `folder`, `full`.
    """

    def __init__(self, given: str, allowed: str, remedy: str, reason: str = "sidecar") -> None:
        super().__init__(given, allowed, remedy)
        self.reason = reason


class EngineBuildError(OstinatoError):
    """An engine that cannot be built here and now, or whose build failed.

    Args:
        tail: the last lines of the process that failed, with which the message ends.
    """

    def __init__(self, given: str, allowed: str, remedy: str, tail: str = "") -> None:
        super().__init__(given, allowed, remedy)
        self.tail = plain(tail[-LONGEST:])
        if self.tail:
            self.args = (f"{str(self)[:-1]}; it said last: {self.tail}.",)


class EngineError(OstinatoError):
    """A TensorRT library that cannot be used, a CUDA driver call that failed, or an engine that cannot run here.

    Args:
        text: the message of the library's error recorder.
    """

    def __init__(self, given: str, allowed: str, remedy: str, text: str = "") -> None:
        super().__init__(f"{given} ({text})" if text else given, allowed, remedy)
        self.text = text


class MemoryShortage(OstinatoError):
    """A device that had no room; the runtime stays usable."""


def check_range(name: str, value: float, low: float, high: float, remedy: str) -> None:
    """Raise `InputError` unless `low <= value <= high`; NaN never passes."""
    if not low <= value <= high:
        raise InputError(f"{name} is {_text(value)}", f"allowed is {_text(low)} to {_text(high)}", remedy)


def check_whole(name: str, value: float, low: int, high: int, remedy: str) -> None:
    """Raise `InputError` unless `value` is a whole number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InputError(f"{name} is {value!r}", "only whole numbers are allowed", remedy)
    check_range(name, value, low, high, remedy)


def check_flag(name: str, value: bool) -> None:
    """Raise `InputError` unless `value` is true or false."""
    if not isinstance(value, bool):
        raise InputError(f"{name} is {value!r}", "allowed are true and false", "choose one of them")


def check_choice(name: str, value: str, allowed: Collection[str]) -> None:
    """Raise `InputError` unless `value` is one of `allowed`."""
    if value not in allowed:
        raise InputError(f"{name} is {value!r}", f"allowed are {', '.join(allowed)}", "choose one of them")


def _text(value: float) -> str:
    """Write a number; whole numbers in full, since a seed of 2**64 and the largest allowed differ only in the last
    digits.
    """
    return str(value) if isinstance(value, int) else f"{value:g}"
