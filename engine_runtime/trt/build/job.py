"""A build as seen from the process that asked for it: a child process, its progress, Cancel and its end."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import threading
import uuid
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

from ...errors import EngineBuildError, OstinatoError
from ..files.folder import WORK, discard, engines_home, forget, ready_folder
from ..files.spec import BuildSpec
from ..files.trust import Trust
from ..library.process import child_command, ended, revived

log = logging.getLogger(__name__)
PATIENCE = 10.0  # seconds between SIGTERM and SIGKILL; the child ignores SIGTERM while it renames files
TAIL = 40  # lines kept of a child's stderr


class State(StrEnum):
    """The states of a build."""

    waiting = "waiting"
    exporting = "exporting"
    building = "building"
    checking = "checking"
    done = "done"
    failed = "failed"
    cancelled = "cancelled"


_ENDS = (State.done, State.failed, State.cancelled)
NEXT: dict[State, tuple[State, ...]] = {
    State.waiting: (State.exporting, State.building, *_ENDS[1:]),
    State.exporting: (State.building, *_ENDS[1:]),
    State.building: (State.checking, *_ENDS[1:]),
    State.checking: _ENDS,
    State.done: (),
    State.failed: (),
    State.cancelled: (),
}


class Job:
    """A running or finished build. Every attribute may be read from any thread.

    Attributes:
        spec: what is built.
        folder: where the engine goes.
        trust: the manifest it will be listed in.
        state, message: the current state, and a line about it.
        fraction: share done, 0 to 1; never falls.
        error: why it failed; None otherwise.
        plan: the finished engine; None until then.
        unverified: why the finished engine was not checked; empty where it was.
    """

    def __init__(
        self, spec: BuildSpec, folder: Path, trust: Trust, changed: Callable[[Job], None] = lambda _: None
    ) -> None:
        self.spec, self.folder, self.trust = spec, folder, trust
        self.state, self.fraction, self.message = State.waiting, 0.0, "starting"
        self.error: OstinatoError | None = None
        self.plan: Path | None = None
        self.unverified = ""
        self._changed = changed
        self._work = folder / f"{WORK}{uuid.uuid4().hex[:12]}"
        self._lock, self._over = threading.RLock(), threading.Event()
        self._asked = False  # whether `cancel` was called
        self._tail: deque[str] = deque(maxlen=TAIL)
        self._said: dict[str, Any] = {}  # the child's last message
        self._process: subprocess.Popen[str] | None = None

    @classmethod
    def start(
        cls,
        spec: BuildSpec,
        folder: Path | None = None,
        home: Path | None = None,
        wait: bool = True,
        changed: Callable[[Job], None] = lambda _: None,
        command: list[str] | None = None,
    ) -> Job:
        """Start a build and return at once.

        Args:
            spec: what to build.
            folder: the engines folder; None is `engines_home()`.
            home: folder of the key and manifest; None is `data_home()`.
            wait: wait for another build that runs in the folder; else the job fails and names it.
            changed: called after every change, from the job's own thread.
            command: of the process that builds; None is `child.py`.

        Raises:
            EngineFileError: when the folder cannot be written to.
        """
        folder = ready_folder(folder if folder is not None else engines_home())
        trust = Trust(home)
        job = cls(spec, folder, trust, changed)
        task = {"spec": spec.as_json(), "folder": str(folder), "home": str(trust.home.absolute()), "wait": wait}
        job._open(task, command or child_command("build"))
        return job

    def wait(self, timeout: float | None = None) -> State:
        """Wait for the end, at most `timeout` seconds, and return the state."""
        self._over.wait(timeout)
        return self.state

    def result(self) -> Path:
        """Wait for the end and return the engine's path. Raises the build's error, or `EngineBuildError` when
        cancelled."""
        self._over.wait()
        if self.error is not None:
            raise self.error
        if self.plan is None:
            raise EngineBuildError(f"the build of {self.spec.name} was cancelled", "it left nothing", "start it again")
        return self.plan

    @property
    def over(self) -> bool:
        return self._over.is_set()

    @property
    def pid(self) -> int | None:
        """Return the number of the child process, which is that of its group too; None before it is started."""
        return None if self._process is None else self._process.pid

    @property
    def tail(self) -> str:
        """Return the last lines of the child's stderr."""
        return "\n".join(self._tail)

    def cancel(self) -> State:
        """End the child and its own children, and remove what it made; the old engine stays. Returns the state.

        A build that is done, or that is moving its finished files into place, stays done.
        """
        with self._lock:
            process = self._process
            if self.over or process is None:
                return self.state
            self._asked = True
        _end(process, gently=True)
        if not self._over.wait(PATIENCE):
            _end(process, gently=False)
        return self.wait()

    def _open(self, task: dict[str, Any], command: list[str]) -> None:
        options: dict[str, Any] = {"start_new_session": True} if os.name == "posix" else {}
        if os.name == "nt":
            options["creationflags"] = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW  # type: ignore[attr-defined]  # Windows has them
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, encoding="utf-8",
            errors="replace", cwd=self.folder, **options,
        )  # fmt: skip
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            # stdin stays open: its end tells the child that this process is gone
            self._process.stdin.write(json.dumps({**task, "work": self._work.name}) + "\n")
            self._process.stdin.flush()
        log.info("%s is built in process %d", self.spec.name, self.pid)
        threading.Thread(target=self._follow, args=(self._process,), name="ostinato-build", daemon=True).start()

    def _follow(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None and process.stderr is not None
        errors_of = threading.Thread(target=self._keep, args=(process.stderr,), daemon=True)
        errors_of.start()
        for line in process.stdout:
            try:
                self._hear(json.loads(line))
            except (ValueError, KeyError, TypeError):
                log.warning("the build process said what is no message: %s", line.strip()[:200])
        code = process.wait()
        if code:
            _end(process, gently=False)  # an exporting process may have outlived it
        errors_of.join(timeout=5)
        finished = discard(self._work, self.trust.has) if self._work.exists() else False
        forget(self.folder, process.pid)
        for stream in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr]  # all three are pipes
        self._finish(code, finished)

    def _keep(self, stream: IO[str]) -> None:
        for line in stream:
            self._tail.append(line.rstrip())
            log.debug("build: %s", line.rstrip())

    def _hear(self, said: dict[str, Any]) -> None:
        if "state" not in said:
            self._said = said
            return
        self._move(State(said["state"]), float(said["fraction"]), str(said["message"]))

    def _move(self, state: State, fraction: float, message: str) -> None:
        with self._lock:
            if state != self.state and state not in NEXT[self.state]:
                raise ValueError(f"{self.state.value} to {state.value}")
            self.state, self.message = state, message
            self.fraction = max(self.fraction, min(fraction, 1.0))
        try:
            self._changed(self)
        except Exception:  # an error in the callback must not stop the build
            log.exception("a build's watcher failed")

    def _finish(self, code: int, finished: bool) -> None:
        if "plan" in self._said or finished:
            self.plan = self.folder / f"{self.spec.name}.plan"
            while self.state != State.checking:  # the child may have been killed before it reported this
                self.state = next(s for s in NEXT[self.state] if s not in _ENDS)
            self.unverified = str(self._said.get("unverified", ""))
            why = f", unverified: {self.unverified}" if self.unverified else ""
            end, message = State.done, f"built {self.plan.name}{why}"
        elif self._asked:
            end, message = State.cancelled, "cancelled"
        else:
            self.error = revived(self._said) or ended(code, self._tail)
            end, message = State.failed, str(self.error)
        try:
            self._move(end, 1.0 if end is State.done else self.fraction, message)
        finally:
            self._over.set()


def _end(process: subprocess.Popen[str], gently: bool) -> None:
    """Signal the child's process group; on Windows kill the child, whose own child ends when its stdin closes."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGTERM if gently else signal.SIGKILL)
        else:
            process.kill()
