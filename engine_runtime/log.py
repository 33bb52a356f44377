"""A take: what a session was built with, and every knob change and request with its tick; enough to play it again.

One safetensors file: JSON in its metadata, the tensors beside it.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .codec import Reader, Writer, fingerprint
from .config import StreamConfig
from .constants import KINDS, VERSION
from .engines import Engine
from .errors import FileError, InputError, TakeError
from .files import write_whole
from .knobs import Knobs
from .lora.factors import Factors
from .request import Request

FORMAT = 1  # raise it when a file made now would be misread by an older Ostinato
METADATA = "ostinato.take"
CONFIGURED, TURNED, SUBMITTED = "configured", "turned", "submitted"
CLEARED, FAILED = "cleared", "failed"
ADAPTED, ADAPTERS = "adapted", {"digests": str, "strengths": float, "names": str}
RECIPE = {"model": str, "precision": str, "device": str, "max_rows": int}
HEADER = ("engine", "config", "knobs", "recipe", "origin", "ticks", "latents")


@dataclass(frozen=True)
class Event:
    """What a session took in at the start of a step: changes by name, adapters, a request; that it was cleared before
    the step, or that the step failed.
    """

    tick: int
    kind: str
    what: Any


@dataclass(eq=False)
class Log:
    """Made with `Log.of` before a session opens, which then tells it what it takes in.

    Telling costs an append: nothing is copied, no device is asked. Tensors are read when the take is saved; until then
    the log holds those of every request, on whatever device they are. What requests share is held once.

    Attributes:
        engine: the engine's identity.
        config, knobs: what the session was opened with.
        recipe: how to load the engine again; None where only its maker can.
        origin: what it was played on, to explain a difference.
        ticks: steps played.
        latents: fingerprints of the finished latents, in the order in which they finished.
    """

    engine: str
    config: StreamConfig
    knobs: Knobs
    recipe: dict[str, Any] | None = None
    origin: dict[str, str] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    ticks: int = 0
    latents: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, engine: Engine, config: StreamConfig, knobs: Knobs | None = None) -> Log:
        recipe = getattr(engine, "recipe", None)
        return cls(engine.identity, config, knobs or Knobs(), recipe, origin_of(engine.device))

    def configured(self, tick: int, changes: dict[str, Any]) -> None:
        self._add(Event(tick, CONFIGURED, dict(changes)))

    def turned(self, tick: int, changes: dict[str, Any]) -> None:
        self._add(Event(tick, TURNED, dict(changes)))

    def adapted(self, tick: int, lora: Factors | None) -> None:
        """Adapters by their digests: a take does not hold their weights."""
        given = {name: getattr(lora, name) if lora else () for name in ADAPTERS}
        self._add(Event(tick, ADAPTED, given))

    def submitted(self, tick: int, request: Request) -> None:
        self._add(Event(tick, SUBMITTED, request))

    def cleared(self, tick: int) -> None:
        self._add(Event(tick, CLEARED, {}))

    def failed(self, tick: int) -> None:
        self._add(Event(tick, FAILED, {}))

    def finished(self, latents: Iterable[Tensor]) -> None:
        """Note what finished, in that order. Waits for the device: call it after playing, not in a step."""
        self.latents += [fingerprint(latent) for latent in latents]

    def _add(self, event: Event) -> None:
        self.ticks = max(self.ticks, event.tick + 1)  # first, for a save from another thread
        self.events.append(event)

    def save(self, path: Path) -> None:
        """Write the take; the file is whole or not there.

        Raises:
            TakeError: where it cannot be written.
        """
        writer = Writer()
        events = [[e.tick, e.kind, _packed(writer, e.what)] for e in list(self.events)]
        header = {name: _packed(writer, getattr(self, name)) for name in HEADER}
        text = json.dumps({"format": FORMAT, **header, "events": events}, separators=(",", ":"))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, save(writer.tensors, {METADATA: text}))
        except (OSError, FileError, SafetensorError) as error:
            raise TakeError(
                f"the take could not be written to {path}: {_reason(error)}",
                "its folder must be writable and have room, and its events must fit in 100 MB",
                "choose another place or a shorter take",
            ) from error

    @classmethod
    def load(cls, path: Path) -> Log:
        """Read a take, checked whole; its tensors are on the CPU.

        Raises:
            TakeError: for anything else than a take that can be played.
        """
        data, tensors = _opened(path)
        version = data.get("format")
        if isinstance(version, int) and version > FORMAT:
            raise TakeError(
                f"{path} has format {version}, of a newer Ostinato",
                f"Ostinato {VERSION} reads up to {FORMAT}",
                "update Ostinato",
            )
        try:
            return _checked(data, Reader(tensors))
        except InputError as error:
            raise TakeError(f"in {path} {error.given}", error.allowed, error.remedy) from error
        except Exception as error:  # a foreign or damaged file may fail any check, in its own way
            raise TakeError(
                f"{path} is damaged: {type(error).__name__}: {_reason(error)}",
                "allowed is a take as Ostinato saved it",
                "copy it again",
            ) from error


def origin_of(device: torch.device) -> dict[str, str]:
    """What rounds the numbers."""
    cpu = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu
    return {"ostinato": VERSION, "torch": str(torch.__version__), "device": name}


def _packed(writer: Writer, value: Any) -> Any:
    """As `Writer.pack`, with plain mappings."""
    if isinstance(value, Mapping):
        return {name: writer.pack(item) for name, item in value.items()}
    return writer.pack(value)


def _opened(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as opened:
            text = (opened.metadata() or {}).get(METADATA)
            data = json.loads(text) if text else None
            tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()} if data else {}
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise TakeError(
            f"{path} could not be read: {_reason(error)}", "allowed is a whole take", "check the path, or copy it again"
        ) from error
    if not isinstance(data, dict):
        raise TakeError(f"{path} is no take", "allowed is a file that Save Take wrote", "choose another")
    return data, tensors


def _checked(data: dict[str, Any], reader: Reader) -> Log:
    """A log out of a file's data. Events are applied in order to see that each can be."""
    unknown = sorted(data.keys() - {"format", "events", *HEADER})
    if unknown or data["format"] != FORMAT:
        raise InputError(f"the header has {unknown or data['format']!r}", "it is not known here", "update Ostinato")
    given = {name: data[name] for name in HEADER} | {
        "config": reader.expect(StreamConfig, data["config"]),
        "knobs": reader.expect(Knobs, data["knobs"]),
    }
    _check_header(given)
    log = Log(**given)
    config, knobs = log.config, log.knobs
    for tick, kind, what in data["events"]:
        if kind == SUBMITTED:
            event = Event(tick, kind, reader.expect(Request, what))
        else:
            event = Event(tick, kind, {name: reader.unpack(value) for name, value in what.items()})
            if kind == TURNED:
                knobs = knobs.turned(**event.what)
            elif kind == CONFIGURED:
                config = replace(config, **_known(event.what))
            elif kind == ADAPTED:
                _check_adapters(event.what)
            elif kind not in (CLEARED, FAILED):
                raise InputError(f"an event is {kind!r}", "it is not known here", "update Ostinato")
        if type(tick) is not int or not (log.events[-1].tick if log.events else 0) <= tick < log.ticks:
            raise InputError(f"an event is at tick {tick!r}", f"ticks rise from 0 to {log.ticks}", "copy it again")
        log.events.append(event)
    return log


def _known(changes: dict[str, Any]) -> dict[str, Any]:
    names = [f.name for f in fields(StreamConfig)]
    unknown = [name for name in changes if name not in names]
    if unknown:
        raise InputError(f"the ring's {unknown[0]!r} changes", f"it has {', '.join(names)}", "update Ostinato")
    return changes


def _check_adapters(what: dict[str, Any]) -> None:
    lists = [what.get(name, ()) for name in ADAPTERS]
    typed = all(
        isinstance(given, tuple) and all(type(item) is kind for item in given)
        for given, kind in zip(lists, ADAPTERS.values(), strict=True)
    )
    if what.keys() != ADAPTERS.keys() or not typed or len({len(given) for given in lists}) != 1:
        raise InputError("its adapters do not fit", "each has a digest, a strength and a name", "copy it again")


def _check_header(given: dict[str, Any]) -> None:
    origin = isinstance(given["engine"], str) and all(isinstance(text, str) for text in given["origin"].values())
    counted = type(given["ticks"]) is int and given["ticks"] >= 0
    prints = isinstance(given["latents"], list) and all(re.fullmatch("[0-9a-f]{64}", x) for x in given["latents"])
    wanted = given["recipe"]
    recipe = wanted is None or all(isinstance(wanted.get(k), t) for k, t in RECIPE.items())
    recipe = recipe and (wanted is None or wanted.get("kind", KINDS[0]) in KINDS)
    if not (origin and counted and prints and recipe):
        raise InputError("the header does not fit", "allowed is one as Ostinato writes it", "copy it again")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
