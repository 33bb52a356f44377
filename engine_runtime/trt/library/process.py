"""Child processes of builds: their command, their answer, and the error when one dies."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from ... import errors
from ...errors import EngineBuildError, OstinatoError
from .preflight import clause

CHILD = Path(__file__).with_name("child.py")
LAST = 6  # lines of a process that died, in its error


def child_command(what: str) -> list[str]:
    """Return the command line of a child process."""
    return [sys.executable, "-u", str(CHILD), what]


def ask(what: str, task: dict[str, Any], timeout: float = 120.0) -> dict[str, Any]:
    """Run a short task in a child process and return its answer. Raises its error, or `subprocess.TimeoutExpired`."""
    done = subprocess.run(
        child_command(what), input=json.dumps(task) + "\n", capture_output=True, text=True, encoding="utf-8",
        errors="replace", timeout=timeout, check=False,
    )  # fmt: skip
    said: dict[str, Any] = json.loads(next(iter(done.stdout.splitlines()[-1:]), "{}"))
    error = revived(said) or (ended(done.returncode, done.stderr.splitlines()) if done.returncode or not said else None)
    if error is not None:
        raise error
    return said


def run_child(
    what: str,
    task: dict[str, Any],
    hear: Callable[[float, str], None],
    command: Callable[[str], list[str]] = child_command,
) -> dict[str, Any]:
    """Run a task in its own process, whose memory is freed with it, and return its last message. Raises its error."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command(what), stdin=pipe, stdout=pipe, stderr=pipe, text=True, encoding="utf-8", errors="replace"
    )
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    tail: deque[str] = deque(maxlen=LAST)
    passing = threading.Thread(target=_pass_on, args=(process.stderr, tail), daemon=True)
    passing.start()
    process.stdin.write(json.dumps(task) + "\n")
    process.stdin.flush()
    last: dict[str, Any] = {}
    for line in process.stdout:
        last = json.loads(line)
        if "state" in last:
            hear(last["fraction"], last["message"])
    code = process.wait()
    passing.join(timeout=5)
    error = revived(last) or (ended(code, tail) if code else None)
    if error is not None:
        raise error
    return last


def _pass_on(stream: IO[str], tail: deque[str]) -> None:
    """Write a child's stderr to this process's own, and keep its last lines that are not empty."""
    for line in stream:
        sys.stderr.write(line)
        if line.strip():
            tail.append(line)


def revived(said: dict[str, Any]) -> OstinatoError | None:
    """Rebuild the error that a child sent, in its own type; None where it sent none."""
    error = said.get("error")
    if not isinstance(error, dict):
        return None
    kind = getattr(errors, str(error.get("type")), None)
    if not (isinstance(kind, type) and issubclass(kind, OstinatoError)):
        kind = EngineBuildError
    more = {name: error[name] for name in ("reason", "tail") if name in error}  # only some types have them
    return kind(str(error["given"]), str(error["allowed"]), str(error["remedy"]), **more)


def ended(code: int, tail: Sequence[str]) -> EngineBuildError:
    """Make the error for a child that died without a message, from its exit status and the last lines of its stderr."""
    last = clause(" / ".join([line.strip() for line in tail if line.strip()][-LAST:]))
    if code == -getattr(signal, "SIGKILL", 9):
        return EngineBuildError(
            "the build process was killed (signal 9)",
            "so ends a program when the system's memory runs out",
            "close other programs, or build on a machine with more memory",
            last,
        )
    try:
        how = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
    except ValueError:
        how = f"signal {-code}"
    return EngineBuildError(
        f"the build process ended with {how}",
        "it ends with an engine or with a reason",
        "run ostinato doctor, and report this message if it finds nothing",
        last,
    )
