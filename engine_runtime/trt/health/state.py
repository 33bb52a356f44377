"""Judges whether an engine can play here, for a drop-down or `ostinato inspect`, and runs its check."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import EngineBuildError, EngineFileError, InputError, OstinatoError, plain
from ...registry import registry
from ..files.plan import examine, read_plan, verify
from ..files.sidecar import Expect, Sidecar, check_fit, read_sidecar
from ..files.spec import FLAVORS, check_name
from ..files.trust import Trust
from ..library.preflight import install, wheels
from ..library.process import ask

if TYPE_CHECKING:
    import torch

    from ...models.loading import Model
    from ..play.room import MakeRoom
    from .check import Opened

READY, STALE, UNUSABLE = "ready", "stale", "unusable"
_STALE = ("flavor", "version", "gpu", "weights", "recipe")  # undamaged, but made for something else


@dataclass(frozen=True)
class Health:
    """The state of one engine, found without opening it.

    Attributes:
        state: `ready`; `stale` where a rebuild makes it ready; `unusable` where it is broken or not trusted.
        error: the reason, for all but `ready`.
        sidecar: None where it could not be read; without a proof for all but `ready`.
        verified: it has passed its check on a GPU of this name.
        whole: the file's bytes were hashed; else only its size was compared, and it is hashed when opened.
    """

    plan: Path
    state: str
    error: OstinatoError | None = None
    sidecar: Sidecar | None = None
    verified: bool = False
    whole: bool = False

    @property
    def reason(self) -> str:
        """Return one word: the `EngineFileError`'s reason, `library` where the library cannot be used, empty when
        ready."""
        return "" if self.error is None else getattr(self.error, "reason", "library")

    def text(self) -> str:
        """Describe the engine in one line."""
        return f"{plain(self.plan.stem)}: {self.readiness() if self.error is None else f'{self.state}: {self.error}'}"

    def readiness(self) -> str:
        """Describe how far a ready engine was checked."""
        return f"{READY}{'' if self.whole else ' by its size'}{'' if self.verified else ', unverified on this GPU'}"


def library_of(flavor: str) -> str:
    """Return the version of a flavor's library, read in a child process because this one can load only one.

    Cached for the installed packages.

    Raises:
        OstinatoError: when it cannot be used, with the remedy.
    """
    if importlib.util.find_spec(flavor) is None:
        raise EngineBuildError(f"{flavor} is not installed", "its engines need it", f"run: {install(flavor)}")
    answers, key = registry.one(_Answers), (flavor, tuple(sorted(wheels(flavor).items())))
    found = answers.by_packages.get(key)
    if found is None:
        found = answers.by_packages[key] = _asked(flavor)
    if isinstance(found, OstinatoError):
        raise found
    return found


class _Answers:
    """The versions that child processes told, or why they could not, by the flavor and its installed packages."""

    def __init__(self) -> None:
        self.by_packages: dict[tuple[str, tuple[tuple[str, str], ...]], str | OstinatoError] = {}


def _asked(flavor: str) -> str | OstinatoError:
    try:
        return str(ask("probe", {"flavor": flavor})["version"])
    except subprocess.TimeoutExpired as error:
        return EngineBuildError(
            f"{flavor} did not answer within {error.timeout:g} s", "importing it takes a few", "restart the computer"
        )
    except OstinatoError as error:
        return error


def here(flavor: str, library: str, device: torch.device | None = None) -> Expect:
    """Return what an engine must be to run here: library and, where there is one, GPU.

    Args:
        device: where it will run; None is the current CUDA device.
    """
    import torch

    from ...device.gpu import current

    if not torch.cuda.is_available() or (device is not None and device.type != "cuda"):
        return Expect(flavor, library)
    device = device or current()
    return Expect(flavor, library, torch.cuda.get_device_capability(device), torch.cuda.get_device_name(device))


def expects(device: torch.device | None = None) -> dict[str, Expect | OstinatoError]:
    """Return `here` for each flavor, or the error that says why it cannot be used."""
    found: dict[str, Expect | OstinatoError] = {}
    for flavor in FLAVORS.values():
        try:
            found[flavor] = here(flavor, library_of(flavor), device)
        except OstinatoError as error:
            found[flavor] = error
    return found


def health(
    plan: Path,
    known: Mapping[str, Expect | OstinatoError],
    trust: Trust | None = None,
    folder: Path | None = None,
    whole: bool = False,
    parsed: Sidecar | None = None,
) -> Health:
    """Judge one engine. Errors of its files are returned in the result, not raised.

    Args:
        plan: NAME.plan.
        known: from `expects`; with the needed weights and recipe, where they are known.
        trust, folder: as in `read_plan`.
        whole: hash the file too.
        parsed: its sidecar, from `read_sidecar`; None reads it.
    """
    from ...engines.prove import Proof

    trust = trust or Trust()
    sidecar: Sidecar | None = None
    try:
        _check_name(plan)
        parsed = (parsed or read_sidecar(plan)) if os.path.exists(plan) else None
        sidecar = parsed and replace(parsed, proof=None)
        expect = known.get(parsed.flavor, Expect()) if parsed else Expect()
        judge = Expect() if isinstance(expect, OstinatoError) else expect
        sidecar = (verify if whole else examine)(plan, judge, trust, folder, parsed)
    except EngineFileError as error:
        return Health(plan, STALE if error.reason in _STALE else UNUSABLE, error, sidecar)
    if isinstance(expect, OstinatoError):
        return Health(plan, STALE, expect, sidecar)
    proof = Proof.of(sidecar.proof)
    return Health(plan, READY, None, sidecar, proof is not None and proof.gpu == expect.device, whole)


def _check_name(plan: Path) -> None:
    try:
        check_name(plan.stem)
    except InputError as error:
        raise EngineFileError(error.given, error.allowed, "rename the engine and its sidecar", "name") from error


def check_here(
    plan: Path,
    trust: Trust | None = None,
    seed: int = 0,
    tell: Callable[[str], None] = lambda _: None,
    model: Model | None = None,
    make_room: MakeRoom | None = None,
    engine: Opened | None = None,
) -> Sidecar:
    """Open an engine on this GPU, compare it with eager at every corner of every profile, and save the figures.

    The library is loaded only for a plan that is trusted and fits, because a process can load only one.

    Args:
        plan: NAME.plan.
        trust: as in `read_plan`.
        seed, tell, model, make_room, engine: as in `check.compare`.

    Raises:
        EngineFileError: when it may not be opened.
        EngineError, MemoryShortage: when it cannot be opened, or fails the check, which removes an older proof.
    """
    from ...engines.prove import Refused
    from .check import compare, this_gpu

    trust = trust or Trust()
    sidecar = examine(plan, Expect(), trust)
    device = None if engine is None else engine.device
    place = here(sidecar.flavor, library_of(sidecar.flavor), device)
    if engine is None:
        check_fit(sidecar, place, plan)
    else:
        sidecar = engine.sidecar
    if place.capability is None:
        raise EngineBuildError("this PyTorch sees no CUDA device", "the check runs on a GPU", "run it where it plays")

    def read(expect: Expect) -> bytes:
        if engine is None:
            return read_plan(plan, expect, trust, sidecar=sidecar)[0]
        check_fit(sidecar, expect, plan)
        return b""

    try:
        proof = compare(sidecar, place, device or this_gpu(), read, seed, tell, model, make_room, engine)
    except Refused:
        trust.write_proof(plan, None, sidecar)
        raise
    return trust.write_proof(plan, proof, sidecar)
