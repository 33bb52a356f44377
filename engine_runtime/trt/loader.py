"""Finds TensorRT engines by name, tells whether each can play here, and opens them.

An engine stays open until its caller opens another: nodes keep no state, and nothing tells when their outputs are
dropped.
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

from ..device.gpu import current
from ..device.memory import guarded
from ..engines.prove import Proof
from ..errors import EngineError, EngineFileError, OstinatoError
from ..models.loading import Model
from ..registry import registry
from ..stream.sessions import runtime
from .export.record import PRECISIONS, weights_digest
from .files.folder import plans
from .files.plan import read_plan
from .files.sidecar import Expect, Sidecar, check_fit, read_sidecar
from .files.spec import is_name
from .health import state as health_state
from .health.state import Health, check_here, health
from .play.engine import TrtEngine
from .play.refit import check_refittable
from .play.room import MakeRoom
from .play.tensorrt import Opened, tensorrt
from .play.vae import TrtVae

Say = Callable[[str], None]
Known = Mapping[str, Expect | OstinatoError]


class OpenEngines:
    """The engines that callers have open in this process.

    Attributes:
        held: by caller: the engine's name, and the engine.
        changes: how many were seen, by caller and name.
        busy: being changed or compared now; not to be closed.
        digests: hashes of weights, by the model's identity, its part and the precision.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.held: dict[str, tuple[str, Opened]] = {}
        self.changes: Counter[tuple[str, str]] = Counter()
        self.busy: list[Opened] = []
        self.digests: dict[tuple[str, str, str], str] = {}


def _engines() -> OpenEngines:
    return registry.one(OpenEngines)


def _bring(engine: Opened, open_again: Callable[[], None]) -> None:
    open_again()


@dataclass(frozen=True)
class Place:
    """The folders that engines are looked for in, and the model they are for.

    Attributes:
        folders: searched in order.
        model: its weights must be the engine's; None accepts any.
        make_room: frees bytes on the device when an engine finds no room.
        say: shows what takes long.
        bring: loads an engine onto the device before it plays, given the function that reopens a closed one; a host
            that manages the device's memory passes its own.
    """

    folders: Sequence[Path]
    model: Model | None = None
    make_room: MakeRoom | None = None
    say: Say = lambda _: None
    bring: Callable[[Opened, Callable[[], None]], None] = _bring

    def find(self, name: str) -> Path:
        """Return the plan of that name; where there is none, its path in the first folder.

        Raises:
            EngineFileError: for a text that is no engine name; a path could lead out of the folders.
        """
        if not is_name(name):
            raise missing(name, self.folders)
        places = [folder / f"{name}.plan" for folder in self.folders]
        return next((plan for plan in places if os.path.exists(plan)), places[0])

    def survey(self) -> list[Health]:
        """Judge every plan in the folders, by name, without opening any."""
        found = {plan.name: plan for folder in reversed(self.folders) for plan in plans(folder)}
        known = health_state.expects(_gpu_of(self.model)) if found else {}
        return [self.judge(found[name], known) for name in sorted(found)]

    def judge(self, plan: Path, known: Known) -> Health:
        """Judge one engine for this model, without opening it or loading its library.

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
        found = health(plan, {**known, sidecar.flavor: expect}, parsed=sidecar)
        if self.model is not None and isinstance(found.error, EngineFileError) and found.reason == "weights":
            found = replace(found, error=_of_this_model(found.error, sidecar, plan, self.model))
        return found

    def open(self, who: str, name: str, alone: bool = False) -> TrtEngine:
        """Open an engine that fits, is trusted, and has passed its check on this GPU, now or before.

        Args:
            who: key of the caller; the engine it opened before is closed, unless another caller holds it too.
            alone: do not share the engine, because its weights will be changed: it must be refittable.

        Raises:
            EngineFileError: for an engine that is missing, stale, broken or not trusted.
            EngineError: without a GPU, when the library refuses the plan, or when it fails its check.
            MemoryShortage: when there is no room.
        """
        engine = self._open(who, name, "decoder", alone)
        assert isinstance(engine, TrtEngine)
        if self.model is not None:
            engine.model = self.model.id
        return engine

    def open_vae(self, who: str, name: str) -> TrtVae:
        """Open the engine of a VAE's decoder; arguments and errors as in `open`."""
        engine = self._open(who, name, "vae_decoder", False)
        assert isinstance(engine, TrtVae)
        return engine

    def _open(self, who: str, name: str, kind: str, alone: bool) -> Opened:
        plan = self.find(name)
        if not plan.exists():
            raise missing(name, self.folders)
        device = gpu(self.model)
        state = self.judge(plan, health_state.expects(device))
        if alone and state.sidecar is not None:
            check_refittable(state.sidecar.refittable)
        if state.sidecar is None or state.error is not None:
            raise state.error or missing(name, self.folders)
        check_fit(state.sidecar, Expect(kind=kind), plan)
        held = holds(who)
        with guarded(f"{name} found no room on {device}", "it must fit beside what is loaded", "unload other models"):
            if held is None or held.sidecar.plan_sha256 != state.sidecar.plan_sha256:
                held = self._opened(who, plan, state.sidecar, device, alone)
                drop(who)
                engines = _engines()
                with engines.lock:
                    engines.held[who] = name, held
            held.wake()
        return held

    def _opened(self, who: str, plan: Path, sidecar: Sidecar, device: torch.device, alone: bool) -> Opened:
        library = tensorrt(sidecar.flavor)  # only for a trusted plan that fits: a process loads one library
        data, sidecar = _read(plan, sidecar, device, parsed=True)
        engine: Opened
        if sidecar.export["kind"] == "decoder":
            engine = library.load(data, sidecar, device, self.make_room, alone=who if alone else "")
        else:
            engine = library.load_vae(data, sidecar, device, self.make_room)
        try:
            with busy(engine):
                library.renew(engine, data, self.make_room)  # reopens a shared engine that was closed
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

    def _again(self, engine: Opened, plan: Path) -> None:
        """Reopen a closed engine; one that no caller holds any more stays closed."""
        engines = _engines()
        with engines.lock:
            wanted = any(held is engine for _, held in engines.held.values())
        if wanted and engine.executor.engine is None:
            self.say(f"loading {plan.stem} again")
            data, _ = _read(plan, engine.sidecar, engine.device)
            tensorrt(engine.flavor.name).renew(engine, data, self.make_room)


def _read(plan: Path, wanted: Sidecar, device: torch.device, parsed: bool = False) -> tuple[bytes, Sidecar]:
    """Read the bytes of a plan.

    Args:
        wanted: the sidecar that it had when it was opened, or is opened by now.
        parsed: `wanted` was parsed a moment ago: the file is not parsed again.

    Raises:
        EngineFileError: where it was rebuilt since `wanted` was read, and as `read_plan`.
    """
    library = tensorrt(wanted.flavor)
    here = health_state.here(wanted.flavor, library.flavor.version, device)
    expect = replace(here, header_problem=library.header_problem)
    try:
        data, sidecar = read_plan(plan, expect, sidecar=wanted if parsed else None)
    except EngineFileError as error:
        if not parsed or error.reason not in ("truncated", "tampered"):
            raise
        sidecar = read_sidecar(plan)
        if sidecar.plan_sha256 == wanted.plan_sha256:
            raise
    if sidecar.plan_sha256 != wanted.plan_sha256:
        raise EngineFileError(
            f"{plan.name} was built anew meanwhile",
            "what plays is the engine that was opened",
            "run again, to open the new one",
            "tampered",
        )
    return data, sidecar


def gpu(model: Model | None) -> torch.device:
    """Return the GPU that an engine plays on: the model's, else the current one. Raises `EngineError` without one."""
    if not torch.cuda.is_available():
        raise EngineError(
            "this PyTorch sees no CUDA device",
            "a TensorRT engine plays on an NVIDIA GPU",
            "play it where there is one, or play on a torch engine",
        )
    return _gpu_of(model) or current()


def _gpu_of(model: Model | None) -> torch.device | None:
    return model.device if model is not None and model.device.type == "cuda" else None


def holds(who: str) -> Opened | None:
    """Return the engine that a caller has open (it may be put away), or None."""
    engines = _engines()
    with engines.lock:
        return engines.held[who][1] if who in engines.held else None


def drop(who: str) -> None:
    """Release the engine that a caller has open, if any."""
    engines = _engines()
    with engines.lock:
        name, engine = engines.held.pop(who, ("", None))
    if engine is not None:
        count_change(who, name)
        tensorrt(engine.flavor.name).release(engine)


def count_change(who: str, name: str) -> None:
    """Count a change: the engine that this caller got under this name has changed, or may be available now."""
    engines = _engines()
    with engines.lock:
        engines.changes[who, name] += 1


def changes(who: str, name: str | None = None) -> int:
    """Return the number of such changes; with `name` None, under any name."""
    engines = _engines()
    with engines.lock:
        return sum(count for (one, of), count in engines.changes.items() if one == who and name in (None, of))


@contextmanager
def busy(engine: Opened) -> Iterator[None]:
    """Keep an engine from being put away inside the block."""
    engines = _engines()
    with engines.lock:
        engines.busy.append(engine)
    try:
        yield
    finally:
        with engines.lock:
            engines.busy.remove(engine)


def put_away(engine: Opened) -> bool:
    """Close an engine to free its memory until it is next used. False where it plays or is busy."""
    engines = _engines()
    with engines.lock:
        free = engine not in engines.busy
    if not free or isinstance(engine, TrtEngine) and runtime().plays(engine):
        return False
    with runtime().lane(engine.device).lock:
        engine.close()
    return True


def room_of(engine: Opened) -> int:
    """Return the device bytes of an open engine: its weights (the size of its file) and its workspace."""
    with engine.paused() as opened:
        return engine.sidecar.plan_bytes + int(opened.device_memory_size_v2)


def _of_this_model(error: EngineFileError, sidecar: Sidecar, plan: Path, model: Model) -> EngineFileError:
    """Return the same error with a remedy that builds from the model in use."""
    ours = replace(sidecar, spec=replace(sidecar.spec, model=model.source, size=None, onnx=None, given=model.given))
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
    """Hash a model's weights as an engine of that precision has them; None where the model has a coarser precision.

    Reads all weights, once for each model.
    """
    part = model.pipe.transformer if kind == "decoder" else model.pipe.vae
    if part.dtype not in (torch.float32, PRECISIONS[precision]):
        return None
    key, digests = (model.identity, kind, precision), _engines().digests
    if key not in digests:
        digests[key] = weights_digest(kind, part, precision)
    return digests[key]
