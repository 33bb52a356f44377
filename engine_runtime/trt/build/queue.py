"""The builds of this process: one for each wanted engine, however many callers ask for it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import EngineBuildError, OstinatoError
from ...registry import registry
from ..files.spec import BuildSpec
from ..files.stamp import stamp
from ..health import state as health_state
from ..health.state import READY, Health, health
from ..library import preflight
from .job import Job, State

Hear = Callable[[Job], None]


@dataclass(frozen=True)
class Wanted:
    """An engine that a caller wants.

    Attributes:
        spec: what it is.
        folder: where it is, or will be.
        weights: hash of the model's weights, from `weights_digest`; None accepts any.
    """

    spec: BuildSpec
    folder: Path
    weights: str | None = None

    @property
    def plan(self) -> Path:
        return self.folder / f"{self.spec.name}.plan"

    def standing(self) -> Health:
        """Judge the engine that is there now against the wanted one."""
        known = {
            flavor: expect if isinstance(expect, OstinatoError) else replace(expect, weights=self.weights)
            for flavor, expect in health_state.expects().items()
        }
        return health(self.plan, known, folder=self.folder)

    def is_there(self) -> bool:
        """Return whether the engine is there and a new build would not be better."""
        if not self.plan.exists():  # checked first, because it needs no library
            return False
        found = self.standing()
        if found.sidecar is None or found.sidecar.spec != self.spec:
            return False
        portable = found.sidecar.flavor == "tensorrt_rtx"  # another build would not fit this GPU either
        return found.state == READY or found.reason == "library" or (portable and found.reason == "gpu")


class Builds:
    """The builds of this process. Thread-safe. Use `builds()`: a second object would build the same engine again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[Wanted, Job] = {}
        self._heard: dict[Wanted, dict[str, Hear]] = {}  # callbacks by caller
        self._asked: dict[str, Wanted] = {}
        self._seen: dict[str, str] = {}  # by caller: `_now` when it last looked
        self._turns: Counter[str] = Counter()

    def ask(self, who: str, wanted: Wanted, hear: Hear = lambda _: None, broken: bool = False) -> Job | None:
        """Return the build of an engine: one that runs or has ended in this process, else a new one.

        Args:
            who: key of the caller; its next call replaces this one.
            hear: called after every change of the build, from its own thread.
            broken: build again, because the engine that is there cannot be opened whatever its sidecar says.

        Returns:
            None where the engine is there and no build would make it better.

        Raises:
            EngineBuildError: for missing packages, or where another caller wants a different engine under this name:
                the two would overwrite each other.
            EngineFileError: for a folder that cannot be written to.
        """
        with self._lock:
            self._forget(who)
            other = next((w for w in self._asked.values() if w.plan == wanted.plan and w.spec != wanted.spec), None)
            if other is not None:
                raise EngineBuildError(
                    f"{wanted.spec.name} is wanted with other settings too: {other.spec.command()}",
                    "one name is one engine",
                    "give this one another name; or, if nobody wants the other any more, run once with action cancel",
                )
            self._asked[who] = wanted
            self._heard.setdefault(wanted, {})[who] = hear
            seen = stamp(wanted.plan)  # read before it is judged, so that a later change is noticed
            self._seen[who] = f"{seen} {False}"
            there = not broken and wanted.is_there()
            job = self._jobs.get(wanted)
            if _is_done(job) and not there:
                job = self._jobs.pop(wanted) and None
            if job is None and not there:
                needed = (*preflight.BUILD_PACKAGES, *preflight.EXPORT_PACKAGES, wanted.spec.flavor)
                preflight.check_packages(dict.fromkeys(needed), wanted.spec.flavor)
                job = Job.start(wanted.spec, wanted.folder, changed=lambda job: self._tell(wanted, job))
                self._jobs[wanted] = job
            self._seen[who] = f"{seen} {_is_done(job)}"
            return job

    def cancel(self, who: str, wanted: Wanted) -> list[Job]:
        """End what this caller last asked for and every build of that name, so that they can be asked for again.

        Waits for the building processes, for some seconds at most.
        """
        with self._lock:
            mine = (wanted, self._asked.get(who))
            gone = [w for w in self._jobs if w in mine or w.plan == wanted.plan]
            jobs = [self._jobs.pop(w) for w in gone]
            asking = [one for one, w in self._asked.items() if one == who or w.plan == wanted.plan]
            self._turns.update(asking)
        for job in jobs:
            job.cancel()  # its callers are told
        with self._lock:
            for one in asking:
                self._forget(one)
        return jobs

    def looked(self, who: str) -> None:
        """Note that the caller has seen the engine's current state."""
        with self._lock:
            if who in self._asked:
                self._seen[who] = self._now(self._asked[who])

    def turn(self, who: str) -> int:
        """Return a count that rises when the caller's engine was built, rebuilt, removed, damaged or cancelled."""
        with self._lock:
            wanted = self._asked.get(who)
            if wanted is not None and (now := self._now(wanted)) != self._seen[who]:
                self._seen[who] = now
                self._turns[who] += 1
            return self._turns[who]

    def _now(self, wanted: Wanted) -> str:
        """Return a text for the engine's state: its files and whether its build is done, which comes shortly after the
        files."""
        return f"{stamp(wanted.plan)} {_is_done(self._jobs.get(wanted))}"

    def _forget(self, who: str) -> None:
        before = self._asked.pop(who, None)
        if before is not None:
            self._heard[before].pop(who, None)

    def _tell(self, wanted: Wanted, job: Job) -> None:
        with self._lock:
            hearing = list(self._heard.get(wanted, {}).values())
        for hear in hearing:
            hear(job)


def _is_done(job: Job | None) -> bool:
    return job is not None and job.state is State.done


def progress_line(job: Job) -> str:
    """Describe the state of a build in one line."""
    if job.state is State.done:
        return f"{job.spec.name} is built"
    if job.state is State.failed:
        return f"{job.spec.name} was not built: {job.error}"
    if job.state is State.cancelled:
        return f"the build of {job.spec.name} was cancelled"
    return f"{job.spec.name}: {job.message}, {100 * job.fraction:.0f} %"


def builds() -> Builds:
    """Return the builds of this process."""
    return registry.one(Builds)
