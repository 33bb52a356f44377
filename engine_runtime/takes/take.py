"""A take: a session's configuration, and every knob change and request with its tick; enough to play it again.

One safetensors file: JSON in its metadata, the tensors beside it. Reading any file, even a hostile one, uses at most
`MAX_SIZE` for its tensors and 1 GB for its events.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from ..config import StreamConfig
from ..constants import KINDS, MAX_ROWS, VERSION
from ..controls.knobs import Knobs
from ..device.memory import guarded, is_shortage
from ..engines.contract import Engine
from ..engines.factors import Factors
from ..errors import FileError, InputError, TakeError
from ..files import parse_json, typed, write_whole
from ..spec import ACE_STEP, ModelSpec
from ..stream.request import Request
from ..tensor_file import open_tensors
from .codec import Reader, Writer, fingerprint

FORMAT = 2  # raise it when a file made now would be misread by an older Ostinato
UNSIZED = 1  # the format that states no sizes: those of ACE-Step 1.5
METADATA = "ostinato.take"
CONFIGURED, TURNED, SUBMITTED = "configured", "turned", "submitted"
CLEARED, FAILED = "cleared", "failed"
ADAPTED = "adapted"
MAX_HEADER = 100_000_000  # bytes, the most that safetensors takes
MAX_VALUES = 4_000_000  # in the JSON, each about a hundred bytes in memory; a turned knob is five
MAX_SIZE = 4 << 30  # bytes of a file
HEADER = ("engine", "config", "knobs", "recipe", "origin", "ticks", "latents")


class Recipe(TypedDict):
    """The arguments that load a PyTorch engine again, see `models.loading`."""

    model: str
    precision: str
    device: str
    max_rows: Annotated[int, msgspec.Meta(ge=1, le=MAX_ROWS)]
    kind: NotRequired[Annotated[str, msgspec.Meta(pattern=rf"^({'|'.join(KINDS)})\Z")]]
    given: NotRequired[dict[str, str]]


class Adapters(msgspec.Struct, forbid_unknown_fields=True):
    """The adapters that play from an event on, each with its digest, strength and name."""

    digests: tuple[str, ...]
    strengths: tuple[float, ...]
    names: tuple[str, ...]


class Header(msgspec.Struct, forbid_unknown_fields=True):
    """The JSON of a file: the fields of `HEADER`, and the events, each a tick, a kind and its data.

    Format 1 states no `spec` and is of ACE-Step 1.5; format 2 has all fields of `ModelSpec`.
    """

    format: int
    engine: str
    config: Any
    knobs: Any
    recipe: Recipe | None
    origin: dict[str, str]
    ticks: Annotated[int, msgspec.Meta(ge=0)]
    latents: list[Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]]
    events: list[tuple[int, str, dict[str, Any]]]
    spec: dict[str, Any] | None = None


@dataclass(frozen=True)
class Event:
    """One thing that a session took in at the start of a step, or that happened to it.

    Attributes:
        tick: the step, from 0.
        kind: `CONFIGURED`, `TURNED`, `ADAPTED`, `SUBMITTED`, `CLEARED` (before the step) or `FAILED` (the step itself).
        what: changes by name, the adapters, or the request; empty for the last two kinds.
    """

    tick: int
    kind: str
    what: Any


@dataclass(eq=False)
class Log:
    """A take in the making, or one that was read. Make it with `Log.of` before opening the session that reports to it.

    A report costs an append: nothing is copied, no device is asked. Tensors are read when the take is saved; until then
    the log holds those of every request, on their own device. Shared tensors are held once.

    Attributes:
        engine: the engine's identity.
        config, knobs: those the session was opened with.
        recipe: arguments to load the engine again; None where only its maker can.
        origin: versions and device it was played on, to explain a difference.
        events: in the order in which they happened.
        ticks: steps played.
        latents: fingerprints of the finished latents, in the order in which they finished.
        spec: of the engine's model.
    """

    engine: str
    config: StreamConfig
    knobs: Knobs
    recipe: Recipe | None = None
    origin: dict[str, str] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    ticks: int = 0
    latents: list[str] = field(default_factory=list)
    spec: ModelSpec = ACE_STEP

    @classmethod
    def of(cls, engine: Engine, config: StreamConfig, knobs: Knobs | None = None) -> Log:
        """Make an empty log for a session on this engine."""
        recipe = getattr(engine, "recipe", None)
        return cls(engine.identity, config, knobs or Knobs(), recipe, origin_of(engine.device), spec=engine.spec)

    def configured(self, tick: int, changes: dict[str, Any]) -> None:
        self._add(Event(tick, CONFIGURED, dict(changes)))

    def knobs_set(self, tick: int, changes: dict[str, Any]) -> None:
        self._add(Event(tick, TURNED, dict(changes)))

    def adapted(self, tick: int, lora: Factors | None) -> None:
        """Note adapters by their digests: a take does not hold their weights."""
        given = {name: getattr(lora, name) if lora else () for name in Adapters.__struct_fields__}
        self._add(Event(tick, ADAPTED, given))

    def submitted(self, tick: int, request: Request) -> None:
        self._add(Event(tick, SUBMITTED, request))

    def cleared(self, tick: int) -> None:
        self._add(Event(tick, CLEARED, {}))

    def failed(self, tick: int) -> None:
        self._add(Event(tick, FAILED, {}))

    def finished(self, latents: Iterable[Tensor]) -> None:
        """Note the latents that finished, in order. Waits for the device: call it after playing, not in a step."""
        self.latents += [fingerprint(latent) for latent in latents]

    def _add(self, event: Event) -> None:
        self.ticks = max(self.ticks, event.tick + 1)  # first, for a save from another thread
        self.events.append(event)

    def save(self, path: Path) -> None:
        """Write the take, whole or not at all.

        Raises:
            TakeError: where it cannot be written.
        """
        writer = Writer()
        events = [[e.tick, e.kind, _packed(writer, e.what)] for e in list(self.events)]
        header = {name: _packed(writer, getattr(self, name)) for name in HEADER}
        sizes = {"format": UNSIZED} if self.spec == ACE_STEP else {"format": FORMAT, "spec": asdict(self.spec)}
        text = json.dumps({**sizes, **header, "events": events}, separators=(",", ":"))
        try:
            _check_sizes(text, writer.tensors)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, save(writer.tensors, {METADATA: text}))
        except (OSError, ValueError, FileError, SafetensorError) as error:
            raise TakeError(
                f"the take could not be written to {path}: {_reason(error)}",
                f"its folder must be writable and have room, and its events must fit in {MAX_HEADER // 10**6} MB",
                "choose another place or a shorter take",
            ) from error

    @classmethod
    def load(cls, path: Path) -> Log:
        """Read a take and check all of it; its tensors are on the CPU.

        Raises:
            TakeError: for anything but a take that can be played.
            MemoryShortage: where there is no room for its tensors.
        """
        with guarded(f"the take {path} found no room", "its tensors are read into memory", "free some"):
            file = _opened(path)
            try:
                header = _header(file.metadata() or {})
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
                return _checked(header, Reader(tensors, _spec(header.spec)))
            except InputError as error:
                raise TakeError(f"in {path} {error.given}", error.allowed, error.remedy) from error
            except Exception as error:  # a foreign or damaged file may fail any check, in its own way
                if is_shortage(error):
                    raise
                raise TakeError(
                    f"{path} is damaged: {type(error).__name__}: {_reason(error)}",
                    "allowed is a take as Ostinato saved it",
                    "copy it again",
                ) from error


def origin_of(device: torch.device) -> dict[str, str]:
    """Name the versions and the device, which decide how numbers are rounded."""
    cpu = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu
    return {"ostinato": VERSION, "torch": str(torch.__version__), "device": name}


def _packed(writer: Writer, value: Any) -> Any:
    """Pack a value as `Writer.pack` does, or each value of a mapping."""
    if isinstance(value, Mapping):
        return {name: writer.pack(item) for name, item in value.items()}
    return writer.pack(value)


def _opened(path: Path) -> Any:
    try:
        return open_tensors(path, MAX_HEADER, MAX_SIZE)
    except InputError as error:
        raise TakeError(error.given, error.allowed, error.remedy) from error


def _header(metadata: Mapping[str, str]) -> Header:
    text = metadata.get(METADATA, "null")
    _check_sizes(text, {})
    data = parse_json(text, "the header")
    if not isinstance(data, dict) or not data:
        raise InputError("there is no take", "allowed is a file that Save Take wrote", "choose another")
    version = data.get("format")
    if isinstance(version, int) and version > FORMAT:
        reads = f"Ostinato {VERSION} reads up to {FORMAT}"
        raise InputError(f"the format is {version}, of a newer Ostinato", reads, "update Ostinato")
    return typed(data, "the header", Header)


def _check_sizes(text: str, tensors: Mapping[str, Tensor]) -> None:
    """Raise `InputError` for more values or bytes than a take may have."""
    values, size = sum(map(text.count, ",[{")), sum(tensor.nbytes for tensor in tensors.values())
    if values > MAX_VALUES:
        raise InputError(f"its events have {values} values", f"at most {MAX_VALUES} are read", "make a shorter take")
    if size > MAX_SIZE - MAX_HEADER:
        raise InputError(f"its tensors have {size} bytes", f"a take has at most {MAX_SIZE}", "make a shorter take")


def _checked(header: Header, reader: Reader) -> Log:
    """Make a log of a file's data, and check that each of its events can be applied."""
    if header.format not in (UNSIZED, FORMAT):
        reads = f"Ostinato {VERSION} reads {UNSIZED} and {FORMAT}"
        raise InputError(f"the format is {header.format}", reads, "choose another")
    config = reader.expect(StreamConfig, header.config)
    log = Log(header.engine, config, reader.expect(Knobs, header.knobs), header.recipe, header.origin)
    log.ticks, log.latents, log.spec = header.ticks, header.latents, reader.spec
    for tick, kind, what in header.events:
        if kind == SUBMITTED:
            event = Event(tick, kind, reader.expect(Request, what))
        elif kind == ADAPTED:
            event = Event(tick, kind, _adapters(what))
        else:
            event = Event(tick, kind, {name: reader.unpack(value) for name, value in what.items()})
            if kind == TURNED:
                Knobs.check(event.what, reader.spec.channels)
            elif kind == CONFIGURED:
                config = replace(config, **_known(event.what))
            elif kind not in (CLEARED, FAILED):
                raise InputError(f"an event is {kind!r}", "it is not known here", "update Ostinato")
        if not (log.events[-1].tick if log.events else 0) <= tick < log.ticks:
            raise InputError(f"an event is at tick {tick}", f"ticks rise from 0 to {log.ticks}", "copy it again")
        log.events.append(event)
    return log


def _spec(given: dict[str, Any] | None) -> ModelSpec:
    """Read the sizes of the take's model; raises `InputError` unless each is there, is known and has its type."""
    if given is None:
        return ACE_STEP
    names = {f.name for f in fields(ModelSpec)}
    if odd := sorted(names ^ given.keys()):
        raise InputError(f"the take's model has or lacks {odd[0]!r}", "a newer one knows it", "update Ostinato")
    return typed(given, "the take's model", ModelSpec)


def _known(changes: dict[str, Any]) -> dict[str, Any]:
    names = [f.name for f in fields(StreamConfig)]
    unknown = [name for name in changes if name not in names]
    if unknown:
        raise InputError(f"the ring's {unknown[0]!r} changes", f"it has {', '.join(names)}", "update Ostinato")
    return changes


def _adapters(what: dict[str, Any]) -> dict[str, Any]:
    given = typed(what, "a change of adapters", Adapters)
    if not len(given.digests) == len(given.strengths) == len(given.names):
        raise InputError("its adapters do not fit", "each has a digest, a strength and a name", "copy it again")
    return msgspec.structs.asdict(given)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
