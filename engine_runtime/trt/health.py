"""Whether an engine can play here, as a drop-down or `ostinato inspect` shows it; and the check that proves it."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import EngineBuildError, EngineFileError, OstinatoError
from .job import ask
from .preflight import install, wheels
from .sidecar import Expect, Sidecar, read_sidecar
from .spec import FLAVORS
from .trust import Trust, examine, read_plan

READY, STALE, UNUSABLE = "ready", "stale", "unusable"
_STALE = ("flavor", "version", "gpu", "weights", "recipe")  # whole, and for another place or time


@dataclass(frozen=True)
class Health:
    """What can be said of one engine without opening it.

    Attributes:
        state: `ready`; `stale` where a rebuild makes it ready; `unusable` where it is broken or not trusted.
        error: why, for all but `ready`.
        sidecar: where it could be read.
        verified: it has passed its check on this very GPU.
    """

    plan: Path
    state: str
    error: OstinatoError | None = None
    sidecar: Sidecar | None = None
    verified: bool = False

    @property
    def reason(self) -> str:
        """One word: of the `EngineFileError`, `library` where that cannot be used, empty when ready."""
        return "" if self.error is None else getattr(self.error, "reason", "library")

    def text(self) -> str:
        """One line for a list."""
        if self.state != READY:
            return f"{self.plan.stem}: {self.state}: {self.error}"
        return f"{self.plan.stem}: {READY}{'' if self.verified else ', unverified on this GPU'}"


def library_of(flavor: str) -> str:
    """The version of a flavor's library, found in a process of its own, for this one can hold one only.

    Asked once for what is installed now.

    Raises:
        OstinatoError: when it cannot be used, with the remedy.
    """
    if importlib.util.find_spec(flavor) is None:
        raise EngineBuildError(f"{flavor} is not installed", "its engines need it", f"run: {install(flavor)}")
    found = _asked(flavor, tuple(sorted(wheels(flavor).items())))
    if isinstance(found, OstinatoError):
        raise found
    return found


@cache
def _asked(flavor: str, installed: tuple[tuple[str, str], ...]) -> str | OstinatoError:
    try:
        return str(ask("probe", {"flavor": flavor})["version"])
    except subprocess.TimeoutExpired as error:
        return EngineBuildError(
            f"{flavor} did not answer within {error.timeout:g} s", "importing it takes a few", "restart the computer"
        )
    except OstinatoError as error:
        return error


def here(flavor: str, library: str) -> Expect:
    """What an engine must be to run in this place: library and, where there is one, GPU."""
    import torch

    if not torch.cuda.is_available():
        return Expect(flavor, library)
    return Expect(flavor, library, torch.cuda.get_device_capability(), torch.cuda.get_device_name())


def expects() -> dict[str, Expect | OstinatoError]:
    """`here` of each flavor, or why it cannot be used."""
    found: dict[str, Expect | OstinatoError] = {}
    for flavor in FLAVORS.values():
        try:
            found[flavor] = here(flavor, library_of(flavor))
        except OstinatoError as error:
            found[flavor] = error
    return found


def health(
    plan: Path,
    known: Mapping[str, Expect | OstinatoError],
    trust: Trust | None = None,
    folder: Path | None = None,
    whole: bool = False,
) -> Health:
    """Judge one engine.

    Args:
        plan: NAME.plan.
        known: from `expects`; with the weights and recipe that are needed, where they are known.
        trust, folder: as in `read_plan`.
        whole: read and hash the file too.
    """
    trust = trust or Trust()
    sidecar: Sidecar | None = None
    try:
        sidecar = read_sidecar(plan) if plan.exists() else None
        expect = known.get(sidecar.flavor, Expect()) if sidecar else Expect()
        judge = Expect() if isinstance(expect, OstinatoError) else expect
        sidecar = read_plan(plan, judge, trust, folder)[1] if whole else examine(plan, judge, trust, folder)
    except EngineFileError as error:
        return Health(plan, STALE if error.reason in _STALE else UNUSABLE, error, sidecar)
    if isinstance(expect, OstinatoError):
        return Health(plan, STALE, expect, sidecar)
    verified = expect.device is not None and (sidecar.proof or {}).get("gpu") == expect.device
    return Health(plan, READY, sidecar=sidecar, verified=verified)


def check_here(
    plan: Path, trust: Trust | None = None, seed: int = 0, tell: Callable[[str], None] = lambda _: None
) -> Sidecar:
    """Open an engine on this GPU, compare it with eager at every corner of every profile, write down the figures.

    Raises:
        EngineFileError: when it may not be opened; a failed check removes an older proof of it.
        EngineError, MemoryShortage: when it cannot be opened, or is not the reference.
    """
    import torch

    from ..engines import EagerEngine
    from .prove import Refused, prove
    from .record import PRECISIONS, weights_digest
    from .runtime import tensorrt
    from .source import part_of

    trust, sidecar = trust or Trust(), read_sidecar(plan)
    if sidecar.export["kind"] != "decoder":
        raise EngineBuildError(
            f"{plan.stem} is a {sidecar.export['kind']}", "decoders are checked against eager", "choose a decoder"
        )
    library = tensorrt(sidecar.flavor)
    expect = replace(here(sidecar.flavor, library.flavor.version), header_problem=library.header_problem)
    if expect.capability is None:
        raise EngineBuildError("this PyTorch sees no CUDA device", "the check runs on a GPU", "run it where it plays")
    tell(f"loading {sidecar.spec.model or sidecar.spec.size}")
    model = part_of(sidecar.spec)
    weights = weights_digest("decoder", model, sidecar.spec.precision)
    data, sidecar = read_plan(plan, replace(expect, weights=weights), trust)
    device = torch.device("cuda", torch.cuda.current_device())
    reference = EagerEngine(model.to(device, PRECISIONS[sidecar.spec.precision]), f"check:{weights[:16]}")
    engine = library.load(data, sidecar, device)
    try:
        tell("comparing with eager")
        proofs = [prove(engine, reference, profile, seed) for profile in sidecar.profiles]
    except Refused:
        trust.write_proof(plan, None)
        raise
    finally:
        library.release(engine)
    return trust.write_proof(plan, joined([proof.as_json() for proof in proofs]))


def joined(proofs: list[dict[str, Any]]) -> dict[str, Any]:
    """The proofs of several profiles as one, with all their corners."""
    return {**proofs[0], "corners": [corner for proof in proofs for corner in proof["corners"]]}
