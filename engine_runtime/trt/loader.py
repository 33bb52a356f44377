"""TensorRT engines by name: whether each can play here and why not, and those that do, opened.

Whoever opens an engine holds it until the same one opens another: nodes keep nothing, and their outputs say nothing
when they are dropped.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..device.memory import guarded
from ..engines.prove import Proof
from ..errors import EngineError, EngineFileError, OstinatoError
from ..models.loading import Model
from ..stream.sessions import runtime
from .export.record import PRECISIONS, weights_digest
from .files.folder import plans
from .files.plan import read_plan
from .files.sidecar import Expect, Sidecar, check_fit, read_sidecar
from .files.spec import is_name
from .health.state import Health, check_here, expects, health, here
from .play.engine import TrtEngine
from .play.tensorrt import MakeRoom, tensorrt

Say = Callable[[str], None]
Known = Mapping[str, Expect | OstinatoError]
_digests: dict[tuple[str, str, str], str] = {}
_lock = threading.Lock()
_held: dict[str, tuple[str, TrtEngine]] = {}  # by who opened it: under which name, and what
_turns: Counter[tuple[str, str]] = Counter()  # by who, and by name
_busy: list[TrtEngine] = []  # that are changed or compared just now


def _bring(engine: TrtEngine, open_again: Callable[[], None]) -> None:
    open_again()


@dataclass(frozen=True)
class Place:
    """Where an engine is looked for, and what for.

    Attributes:
        folders: the first that has a name is it.
        model: whose weights it must have; None is not asked about.
        make_room: asked for room on the device when there is none.
        say: told what takes long.
        bring: brings an engine to the device before it plays, with the function that opens it where it is closed;
            whoever manages the device's memory has its own.
    """

    folders: Sequence[Path]
    model: Model | None = None
    make_room: MakeRoom | None = None
    say: Say = lambda _: None
    bring: Callable[[TrtEngine, Callable[[], None]], None] = _bring

    def find(self, name: str) -> Path:
        """The plan of that name; where there is none, the one that would be in the first folder.

        Raises:
            EngineFileError: for what is no name: a path would lead out of the folders.
        """
        if not is_name(name):
            raise missing(name, self.folders)
        places = [folder / f"{name}.plan" for folder in self.folders]
        return next((plan for plan in places if os.path.exists(plan)), places[0])

    def survey(self) -> list[Health]:
        """Every engine and whatever else is in the folders, by name, without opening any."""
        found = {plan.name: plan for folder in reversed(self.folders) for plan in plans(folder)}
        known = expects() if found else {}
        return [self.judge(found[name], known) for name in sorted(found)]

    def judge(self, plan: Path, known: Known) -> Health:
        """What can be said of one engine, as one of this model, without opening it or loading its library.

        Args:
            known: from `health.state.expects`.
        """
        try:
            sidecar = read_sidecar(plan)
        except EngineFileError:
            return health(plan, known)
        expect = known.get(sidecar.flavor, Expect())
        if self.model is not None and not isinstance(expect, OstinatoError):
            weights = digest_of(self.model, sidecar.export["kind"], sidecar.spec.precision)
            expect = replace(expect, weights=weights)
        found = health(plan, {**known, sidecar.flavor: expect})
        if self.model is not None and isinstance(found.error, EngineFileError) and found.reason == "weights":
            found = replace(found, error=_of_this_model(found.error, sidecar, plan, self.model))
        return found

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
        if not plan.exists():
            raise missing(name, self.folders)
        device = gpu()
        state = self.judge(plan, expects())
        if state.sidecar is None or state.error is not None:
            raise state.error or missing(name, self.folders)
        check_fit(state.sidecar, Expect(kind="decoder"), plan)
        held = holds(who)
        with guarded(f"{name} found no room on {device}", "it must fit beside what is loaded", "unload other models"):
            if held is None or held.sidecar.plan_sha256 != state.sidecar.plan_sha256:
                held = self._opened(who, plan, state.sidecar, device, alone)
                drop(who)
                with _lock:
                    _held[who] = name, held
            held.wake()
        return held

    def _opened(self, who: str, plan: Path, sidecar: Sidecar, device: torch.device, alone: bool) -> TrtEngine:
        library = tensorrt(sidecar.flavor)  # for a plan that is trusted and fits: a process holds one library for good
        data, sidecar = _read(plan, sidecar)
        engine = library.load(data, sidecar, device, self.make_room, alone=who if alone else "")
        try:
            with busy(engine):
                library.renew(engine, data, self.make_room)  # where another's share was put away
                del data
                if not engine.verified:
                    self.say(f"checking {plan.stem}")
                    made = check_here(plan, model=self.model, make_room=self.make_room, engine=engine)
                    engine.proof = Proof.of(made.proof)
        except BaseException:
            library.release(engine)
            raise
        engine.wake = lambda: self.bring(engine, lambda: self._again(engine, plan))
        return engine

    def _again(self, engine: TrtEngine, plan: Path) -> None:
        """Open an engine that was put away; one that nobody holds any more stays closed."""
        with _lock:
            wanted = any(held is engine for _, held in _held.values())
        if wanted and engine.executor.engine is None:
            self.say(f"loading {plan.stem} again")
            data, _ = _read(plan, engine.sidecar)
            tensorrt(engine.flavor.name).renew(engine, data, self.make_room)


def _read(plan: Path, wanted: Sidecar) -> tuple[bytes, Sidecar]:
    """The bytes of a plan, which must still be the wanted one."""
    library = tensorrt(wanted.flavor)
    expect = replace(here(wanted.flavor, library.flavor.version), header_problem=library.header_problem)
    data, sidecar = read_plan(plan, expect)
    if sidecar.plan_sha256 != wanted.plan_sha256:
        raise EngineFileError(
            f"{plan.name} was built anew meanwhile",
            "what plays is the engine that was opened",
            "run again, to open the new one",
            "tampered",
        )
    return data, sidecar


def gpu() -> torch.device:
    """Where TensorRT engines play; raises `EngineError` where there is none."""
    if not torch.cuda.is_available():
        raise EngineError(
            "this PyTorch sees no CUDA device",
            "a TensorRT engine plays on an NVIDIA GPU",
            "play it where there is one, or play on a torch engine",
        )
    return torch.device("cuda", torch.cuda.current_device())


def holds(who: str) -> TrtEngine | None:
    """What somebody has open; it may be put away."""
    with _lock:
        return _held[who][1] if who in _held else None


def drop(who: str) -> None:
    """Let go of what somebody opened; fine where there is nothing."""
    with _lock:
        name, engine = _held.pop(who, ("", None))
    if engine is not None:
        turned(who, name)
        tensorrt(engine.flavor.name).release(engine)


def turned(who: str, name: str) -> None:
    """What somebody was given under a name is no more what it was, or may be to be had now."""
    with _lock:
        _turns[who, name] += 1


def turns(who: str, name: str | None = None) -> int:
    """How often that was so under a name; None is under any."""
    with _lock:
        return sum(count for (one, of), count in _turns.items() if one == who and name in (None, of))


@contextmanager
def busy(engine: TrtEngine) -> Iterator[None]:
    """An engine is not put away in here."""
    with _lock:
        _busy.append(engine)
    try:
        yield
    finally:
        with _lock:
            _busy.remove(engine)


def put_away(engine: TrtEngine) -> bool:
    """Close an engine for the room that it takes, until it is next used; not one that plays, or is busy."""
    with _lock:
        free = engine not in _busy
    if not free or runtime().plays(engine):
        return False
    with runtime().lane(engine.device).lock:
        engine.close()
    return True


def room_of(engine: TrtEngine) -> int:
    """Bytes on the device of an engine that is open: its weights, as large as its file, and its workspace."""
    with engine.paused() as opened:
        return engine.sidecar.plan_bytes + int(opened.device_memory_size_v2)


def _of_this_model(error: EngineFileError, sidecar: Sidecar, plan: Path, model: Model) -> EngineFileError:
    """The same, with a remedy that builds from the model that is asked for."""
    ours = replace(sidecar, spec=replace(sidecar.spec, model=model.source, size=None, onnx=None))
    remedy = f"choose the model that it was built from, or run {ours.command(plan)}"
    return EngineFileError(error.given, error.allowed, remedy, error.reason)


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
