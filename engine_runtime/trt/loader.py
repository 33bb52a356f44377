"""TensorRT engines by name: whether each can play here and why not, and those that do, opened.

Whoever opens an engine holds it until the same one opens another: nodes keep nothing, and their outputs say nothing
when they are dropped.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..errors import EngineError, EngineFileError, OstinatoError
from ..models.loading import Model
from .engine import TrtEngine
from .folder import plans
from .health import Health, check_here, expects, health, here
from .prove import Proof
from .record import PRECISIONS, weights_digest
from .runtime import MakeRoom, tensorrt
from .sidecar import read_sidecar
from .trust import examine, read_plan

Say = Callable[[str], None]
_digests: dict[tuple[str, str, str], str] = {}
_lock = threading.Lock()
_held: dict[str, TrtEngine] = {}  # by who opened it


@dataclass(frozen=True)
class Place:
    """Where an engine is looked for, and what for.

    Attributes:
        folders: the first that has a name is it.
        model: whose weights it must have; None is not asked about.
        make_room: asked for room on the device when there is none.
        say: told what takes long.
    """

    folders: Sequence[Path]
    model: Model | None = None
    make_room: MakeRoom | None = None
    say: Say = lambda _: None

    def find(self, name: str) -> Path:
        """The plan of that name; where there is none, the one that would be in the first folder."""
        places = [folder / f"{name}.plan" for folder in self.folders]
        return next((plan for plan in places if plan.exists()), places[0])

    def survey(self) -> list[Health]:
        """Every decoder engine and whatever else is in the folders, by name, without opening any."""
        known = {
            flavor: expect if isinstance(expect, OstinatoError) else replace(expect, kind="decoder")
            for flavor, expect in expects().items()
        }
        found = {plan.name: plan for folder in reversed(self.folders) for plan in plans(folder)}
        return [health(found[name], known) for name in sorted(found)]

    def open(self, who: str, name: str, alone: bool = False) -> TrtEngine:
        """An engine that may play: it fits, is trusted, and has passed its check on this GPU, now or before.

        Args:
            who: opens it; what the same one opened before is closed, unless another holds it too.
            alone: for changing its weights: nobody else gets the same one.

        Raises:
            EngineFileError: for one that is not there, stale, broken or not trusted.
            EngineError: without a GPU, or when the library refuses it, or when it is not the reference.
            MemoryShortage: when there is no room.
        """
        plan = self.find(name)
        found = read_sidecar(plan) if plan.exists() else None
        if found is None:
            raise missing(name, self.folders)
        device = gpu()
        library = tensorrt(found.flavor)
        weights = None if self.model is None else digest_of(self.model, "decoder", found.export["precision"])
        expect = replace(here(found.flavor, library.flavor.version), kind="decoder", weights=weights)
        with _lock:
            held = _held.get(who)
        if held is not None and held.sidecar.plan_sha256 == examine(plan, expect).plan_sha256:
            return held
        data, sidecar = read_plan(plan, replace(expect, header_problem=library.header_problem))
        engine = library.load(data, sidecar, device, self.make_room, alone=who if alone else "")
        del data
        try:
            if not engine.verified:
                self.say(f"checking {name}")
                engine.proof = Proof.of(check_here(plan).proof)
        except BaseException:
            library.release(engine)
            raise
        drop(who)
        with _lock:
            _held[who] = engine
        return engine


def gpu() -> torch.device:
    """Where TensorRT engines play; raises `EngineError` where there is none."""
    if not torch.cuda.is_available():
        raise EngineError(
            "this PyTorch sees no CUDA device",
            "a TensorRT engine plays on an NVIDIA GPU",
            "play it where there is one, or play on a torch engine",
        )
    return torch.device("cuda", torch.cuda.current_device())


def drop(who: str) -> None:
    """Let go of what somebody opened; fine where there is nothing."""
    with _lock:
        engine = _held.pop(who, None)
    if engine is not None:
        tensorrt(engine.flavor.name).release(engine)


def missing(name: str, folders: Sequence[Path]) -> EngineFileError:
    return EngineFileError(
        f"there is no engine {name!r}",
        f"it was looked for in {', '.join(map(str, folders))}",
        "build it with Build Engine or ostinato build, or choose another",
        "missing",
    )


def digest_of(model: Model, kind: str, precision: str) -> str | None:
    """Hash of a model's weights as an engine of that precision has them; None where it is loaded in a coarser one.

    Made once for the same model; it reads all of the weights.
    """
    part = model.pipe.transformer if kind == "decoder" else model.pipe.vae
    if part.dtype not in (torch.float32, PRECISIONS[precision]):
        return None
    key = (model.identity, kind, precision)
    if key not in _digests:
        _digests[key] = weights_digest(kind, part, precision)
    return _digests[key]
