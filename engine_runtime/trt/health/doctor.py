"""Finds what is wrong with engines on this machine, with a remedy for each."""

from __future__ import annotations

import importlib.util
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ... import machine
from ...constants import PRESETS
from ...errors import LONGEST, EngineBuildError, EngineFileError, OstinatoError, plain
from ..files.folder import claim, dead_builds, plans
from ..files.sidecar import Expect
from ..files.trust import Trust
from ..library import flavor as library_flavor
from ..library import preflight
from ..library.flavor import owner
from . import state
from .state import Health, health

GOOD, NOTE, PROBLEM = "ok", "note", "problem"


@dataclass(frozen=True)
class Finding:
    """One result of the doctor; `level` is `ok`, `note` (nothing wrong) or `problem`."""

    level: str
    what: str
    remedy: str = ""

    def text(self) -> str:
        remedy = f"\n         {plain(self.remedy, 2 * LONGEST)}" if self.remedy else ""
        return f"{self.level:8} {plain(self.what, 2 * LONGEST)}{remedy}"


def examine_all(
    folder: Path, trust: Trust | None = None, only: Path | None = None, model: str | None = None
) -> list[Finding]:
    """Examine libraries, CUDA, this process, the engines folder and its engines.

    Args:
        folder: the engines folder.
        only: one engine, whose bytes are hashed; else every engine of the folder, by sidecar and size.
        model: replaces the models that the engines were built from; None looks for those.
    """
    trust = trust or Trust()
    known = state.expects()
    found = [*_foreign(), *_packages(), *_libraries(known), *_key(trust)]
    engines = [only] if only is not None else plans(folder)
    if only is None:
        found += _folder(folder, engines, trust)
    for plan in engines:
        home = plan.parent if only is not None else folder
        found += _engine(health(plan, known, trust, home, whole=only is not None), model)
    return found


def _foreign() -> list[Finding]:
    """Report every TensorRT mapped in this process: another package loaded it, because the doctor loads none."""
    return [
        Finding(
            PROBLEM,
            f"{path} ({name}) is loaded in this process, by {owner(path)}",
            "a process holds one TensorRT: switch off the pack that loads it, or play on the compiled or eager engine",
        )
        for name, path in library_flavor.mapped()
    ]


def _packages() -> list[Finding]:
    names = dict.fromkeys((*preflight.BUILD_PACKAGES, *preflight.EXPORT_PACKAGES))
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if not missing:
        return [Finding(GOOD, f"{', '.join(names)} are installed")]
    remedy = f"to build engines, run: {preflight.install('tensorrt_rtx')}"
    return [Finding(NOTE, f"not installed: {', '.join(missing)}", remedy)]


def _libraries(known: Mapping[str, Expect | OstinatoError]) -> list[Finding]:
    import torch

    found, driver = [], machine.driver_cuda()
    for flavor, expect in known.items():
        wheels = preflight.wheel_cuda(flavor)
        if isinstance(expect, OstinatoError):
            broken = bool(wheels)  # installed, but it does not work
            found.append(Finding(PROBLEM if broken else NOTE, f"{expect.given}; {expect.allowed}", expect.remedy))
        else:
            found.append(Finding(GOOD, f"{flavor} {expect.library} loads"))
        if problem := preflight.cuda_problem(flavor, wheels, torch.version.cuda, driver):
            found.append(Finding(PROBLEM, *problem))
    where = next((e for e in known.values() if isinstance(e, Expect)), None)
    if where is not None and where.capability is None:
        found.append(
            Finding(NOTE, "this PyTorch sees no CUDA device", "engines for RTX can be built here, and play elsewhere")
        )
    elif where is not None and where.capability is not None:
        found.append(Finding(GOOD, f"{where.device}, compute capability {where.capability[0]}.{where.capability[1]}"))
    return found


def _key(trust: Trust) -> list[Finding]:
    try:
        known = trust.known()
    except EngineFileError as error:
        return [Finding(PROBLEM, f"{error.given}; {error.allowed}", error.remedy)]
    if known is None:
        return [
            Finding(
                PROBLEM,
                f"the list of trusted engines in {trust.home} is not signed with this installation's key",
                "the next build starts a new list; build the engines that are refused again, or accept their sha256",
            )
        ]
    return [Finding(GOOD, f"trusted engines: {known}")]


def _folder(folder: Path, engines: list[Path], trust: Trust) -> list[Finding]:
    if not os.path.isdir(folder):
        return [Finding(NOTE, f"the engines folder {folder} is not there yet", "the first build makes it")]
    found = []
    if left := dead_builds(folder):
        names = ", ".join(work.name for work in left)
        try:
            with claim(folder, "doctor", wait=False, trusts=trust.has):  # claiming clears them away
                found.append(Finding(GOOD, f"removed what dead builds left: {names}"))
        except EngineBuildError as error:
            found.append(Finding(NOTE, error.given))
        except EngineFileError as error:
            found.append(Finding(PROBLEM, f"dead builds left {names}; {error.given}", error.remedy))
    stray = [p.name for p in folder.glob("*.plan.json") if not p.with_name(p.name.removesuffix(".json")).exists()]
    if stray:
        found.append(Finding(PROBLEM, f"sidecars without an engine in {folder}: {', '.join(stray)}", "remove them"))
    if not engines:
        found.append(Finding(NOTE, f"there are no engines in {folder}", "run ostinato build --model MODEL"))
    return found


def _engine(state: Health, model: str | None) -> list[Finding]:
    name = state.plan.name
    if state.error is None:
        found = [Finding(GOOD, f"{name} is {state.readiness()}")]
    else:
        what = f"{name} is {state.state}: {state.error.given}; {state.error.allowed}"
        found = [Finding(PROBLEM, what, state.error.remedy)]
    source = state.sidecar.spec.model if state.sidecar and model is None else None
    if source is not None and not model_is_here(source):
        file = shlex.quote(str(state.plan))
        again = f"put it back, or run: hf download {shlex.quote(source)}"
        back = again if source.count("/") == 1 else "put it back there"
        found.append(
            Finding(
                NOTE if state.verified else PROBLEM,
                f"the model {source}, which {name} was built from, is not here",
                f"{back}; or name one of the same weights: ostinato doctor --engine {file} --model MODEL",
            )
        )
    return found


def model_is_here(source: str) -> bool:
    """Return whether a model's name is a preset, a path on this machine, or in the hub's cache."""
    from huggingface_hub.constants import HF_HUB_CACHE

    cached = os.path.join(HF_HUB_CACHE, f"models--{source.replace('/', '--')}", "snapshots")
    return source in PRESETS or os.path.exists(os.path.expanduser(source)) or os.path.isdir(cached)
