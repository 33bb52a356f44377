"""Tables of a tick's time, layer by layer and by kind, and of what changed between two of them. Torch-free."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from ..errors import InputError, plain
from ..files import read_json, typed, written_by

SCHEMA = 1
WRITER = "ostinato profile --json"
MAX_BYTES = 4 << 20  # of a profile's file; the 2B decoder's has 0.1 MB
KINDS = ("attention", "matrix product", "normalization", "pointwise", "reformat", "Myelin", "other")
OPAQUE = "Myelin"  # regions of several layers that TensorRT reports as one, so that they have no kind of their own
TICKS = 10  # timed, unless told otherwise
GUIDED = ("off", "full")  # the guidance that a workload may have
_LAYER = re.compile(r"(?<=layers\.)\d+")
Amount = Annotated[float, Meta(ge=0)]


@dataclass(frozen=True)
class Workload:
    """The workload that was played while it was measured.

    Attributes:
        depth: slots in the ring, all taken.
        seconds: of music in each.
        steps: of each request.
        guidance: the ring's negative rows: `off` or `full`.
        tokens: of each condition, L.
    """

    depth: int = 4
    seconds: float = 60.0
    steps: int = 8
    guidance: str = "off"
    tokens: int = 128

    def __str__(self) -> str:
        guided = "unguided" if self.guidance == "off" else "guided"
        return f"depth {self.depth}, {self.seconds:g} s, {self.steps} steps, {guided}, {self.tokens} tokens"


class LayerTime(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One layer; in JSON a list.

    Attributes:
        kind: one of `KINDS`.
        ms: in one tick, on average.
        calls: in one tick, on average.
    """

    name: str
    kind: Annotated[str, Meta(pattern=rf"^({'|'.join(KINDS)})\Z")]
    ms: Amount
    calls: Amount


@dataclass(frozen=True)
class LayerProfile:
    """A table of one engine at one workload.

    Attributes:
        engine, device: their names.
        clock: what the times are: `host` (operators on a CPU), `kernels` (of the GPU) or `TensorRT` (its profiler).
        workload: what was played.
        ticks: how many were averaged.
        tick_ms: wall time of a tick before anything was profiled.
        profiled_ms: wall time of a tick while the layers were timed.
        layers: the slowest first.
    """

    engine: str
    device: str
    clock: str
    workload: Workload
    ticks: int
    tick_ms: Amount
    profiled_ms: Amount
    layers: tuple[LayerTime, ...]

    @property
    def total_ms(self) -> float:
        """Sum the milliseconds of all layers of a tick."""
        return math.fsum(layer.ms for layer in self.layers)

    @property
    def slowdown(self) -> float:
        """Return how many times longer a tick takes while it is profiled."""
        return self.profiled_ms / self.tick_ms if self.tick_ms else 0.0

    def kinds(self) -> dict[str, float]:
        """Sum the milliseconds of each kind that occurs, in the order of `KINDS`; together they are `total_ms`."""
        sums = {kind: math.fsum(x.ms for x in self.layers if x.kind == kind) for kind in KINDS}
        return {kind: ms for kind, ms in sums.items() if ms or any(x.kind == kind for x in self.layers)}

    def grouped(self) -> list[LayerTime]:
        """Merge layers of the same name in different decoder layers (`layers.*`), slowest first."""
        return merged(LayerTime(_LAYER.sub("*", x.name), x.kind, x.ms, x.calls) for x in self.layers)

    def as_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **msgspec.to_builtins(self)}

    @classmethod
    def from_json(cls, data: Any, name: str = "the profile") -> LayerProfile:
        """Make the profile that `as_json` gave.

        Raises:
            InputError: for anything else.
        """
        try:
            typed(data, name, _Versioned)
            return typed(data, name, cls)
        except InputError as error:
            raise InputError(error.given, f"allowed is what `{WRITER}` writes", "make it again") from error

    def text(self, top: int = 15) -> str:
        """Format the profile as a table."""
        total, kinds, groups = self.total_ms, self.kinds(), self.grouped()
        lines = [
            plain(f"{self.engine}: {self.workload}"),
            f"{self.tick_ms:.2f} ms per tick; {self.profiled_ms:.2f} ms while profiling, "
            f"{self.slowdown:.2f} times as long ({self.ticks} ticks each)",
            f"the layers take {total:.2f} ms of a tick ({plain(_CLOCKS.get(self.clock, self.clock))})",
            "",
            *(f"{kind:16} {ms:10.3f} ms {_share(ms, total)}" for kind, ms in kinds.items()),
        ]
        if kinds.get(OPAQUE):
            lines += [
                "",
                f"{OPAQUE} regions are opaque: they hold layers of every kind, which TensorRT does not tell apart",
            ]
        lines += ["", f"the slowest {min(top, len(groups))} of {len(groups)} (of every decoder layer together: *)"]
        lines += [
            f"{x.ms:10.3f} ms {_share(x.ms, total)} {x.calls:8.6g} x {x.kind:15} {plain(x.name)}" for x in groups[:top]
        ]
        return "\n".join(lines)


_CLOCKS = {
    "host": "time of the operators on the CPU",
    "kernels": "time of the kernels on the GPU, gaps between them left out",
    "TensorRT": "TensorRT's own layer times, without guidance and integration",
}


def merged(layers: Iterable[LayerTime]) -> list[LayerTime]:
    """Merge layers of one name and kind, slowest first."""
    sums: dict[tuple[str, str], tuple[float, float]] = {}
    for x in layers:
        ms, calls = sums.get((x.name, x.kind), (0.0, 0.0))
        sums[x.name, x.kind] = (ms + x.ms, calls + x.calls)
    found = [LayerTime(name, kind, ms, calls) for (name, kind), (ms, calls) in sums.items()]
    return sorted(found, key=lambda x: (-x.ms, x.name))


@dataclass(frozen=True)
class Change:
    """Milliseconds per tick of a kind or a layer, before and after."""

    name: str
    before: float
    after: float

    @property
    def ms(self) -> float:
        return self.after - self.before


@dataclass(frozen=True)
class Difference:
    """From one profile to another.

    Attributes:
        unlike: what else differs between the two, in words; empty where only the time does.
        kinds, layers: the largest changes first; layers as `LayerProfile.grouped` names them.
    """

    before: LayerProfile
    after: LayerProfile
    unlike: tuple[str, ...]
    kinds: tuple[Change, ...]
    layers: tuple[Change, ...]

    def as_json(self) -> dict[str, Any]:
        ends = {name: {"tick_ms": p.tick_ms, "total_ms": p.total_ms} for name, p in self._ends()}
        changes = {name: [asdict(c) for c in getattr(self, name)] for name in ("kinds", "layers")}
        return {**ends, "unlike": list(self.unlike), **changes}

    def text(self, top: int = 15) -> str:
        lines = [f"{name:6} {plain(f'{p.engine}: {p.workload}')}" for name, p in self._ends()]
        lines += [f"note   {plain(what)}" for what in self.unlike]
        totals = Change("all layers", self.before.total_ms, self.after.total_ms)
        lines += ["", _line(Change("tick", self.before.tick_ms, self.after.tick_ms)), _line(totals)]
        lines += ["", *map(_line, self.kinds), "", *map(_line, self.layers[:top])]
        return "\n".join(lines)

    def _ends(self) -> tuple[tuple[str, LayerProfile], ...]:
        return ("before", self.before), ("after", self.after)


def diff(before: LayerProfile, after: LayerProfile) -> Difference:
    """Compare two profiles."""
    unlike = [
        f"{what}: {a} against {b}"
        for what, a, b in (
            ("workload", before.workload, after.workload),
            ("device", before.device, after.device),
            ("times", before.clock, after.clock),
        )
        if a != b
    ]
    layers = ({f"{x.name} ({x.kind})": x.ms for x in p.grouped()} for p in (before, after))
    return Difference(before, after, tuple(unlike), _changes(before.kinds(), after.kinds()), _changes(*layers))


def load(path: Path) -> LayerProfile:
    """Read a profile; raises `InputError` for anything else, and for a file that cannot be read."""
    with written_by(WRITER, path):
        return LayerProfile.from_json(read_json(path, MAX_BYTES), path.name)


class _Versioned(Struct):
    schema: Annotated[int, Meta(ge=SCHEMA, le=SCHEMA)]


def _changes(before: Mapping[str, float], after: Mapping[str, float]) -> tuple[Change, ...]:
    names = dict.fromkeys((*before, *after))
    found = [Change(name, before.get(name, 0.0), after.get(name, 0.0)) for name in names]
    return tuple(sorted(found, key=lambda c: (-abs(c.ms), c.name)))


def _line(change: Change) -> str:
    ratio = f"{change.after / change.before:6.2f} x" if change.before else "    new "
    return f"{change.before:10.3f} -> {change.after:10.3f} ms {change.ms:+10.3f} {ratio} {plain(change.name)}"


def _share(ms: float, total: float) -> str:
    return f"{100 * ms / total if total else 0:5.1f} %"
