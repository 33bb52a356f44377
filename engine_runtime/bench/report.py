"""The figures of a run: their JSON, their table, and what changed between two. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from ..errors import LONGEST, InputError, plain
from ..files import read_json, typed, written_by
from .case import Case

TICK = ("median", "p95", "p99", "host")
TOP = ("gpu", "command", "versions", "floor_ms", "results")
CASE = ("depth", "steps", "seconds", "cfg", "dcw")
SAME = ("size", "engine", "precision", *CASE, "tokens", "controls", "sessions", "ahead", "every")  # pair two results
CHANGED = 0.02  # share of a tick below which a change is none: like GPUs differ by that much, and two rounds may
MAX_BYTES = 4 << 20  # of a run's file; a case has 1.5 kB
Amount = Annotated[float, Meta(ge=0)]


class _Tick(Struct):
    median: Amount
    p95: Amount
    p99: Amount
    host: Amount


class _Reference(Struct):
    ratio: Amount | None = None


class _Result(Struct):
    """A result as it is read back; its figures are those of `run`."""

    size: str
    engine: str
    precision: str
    depth: int
    steps: int
    seconds: float
    cfg: str
    dcw: bool
    tick_ms: _Tick
    latents_per_s: Amount
    realtime: Amount
    joins_per_tick: Amount | None
    launches_per_tick: Amount | None
    peak_bytes: Amount | None
    reference_ratio: Amount | None
    tokens: int = Case.tokens
    controls: bool = False
    sessions: int = 1
    ahead: int = Case.ahead
    every: int = 1
    floor_ms: Amount | None = None
    mean_ms: Amount | None = None
    quiet_ms: Amount | None = None
    rounds_ms: list[Amount] | None = None
    references: dict[str, _Reference] | None = None
    work: str | None = None

    def __post_init__(self) -> None:
        Case(self.depth, self.steps, self.seconds, self.tokens, self.cfg, self.dcw)


class _Run(Struct):
    gpu: str | None
    command: str
    versions: dict[str, Any]
    floor_ms: Amount | None
    results: list[_Result]


def load(path: Path) -> dict[str, Any]:
    """Read a run, which is checked and kept as it is.

    Raises:
        InputError: for anything else, and for a file that cannot be read.
    """
    with written_by("ostinato bench --json", path):
        data: dict[str, Any] = read_json(path, MAX_BYTES, dict[str, Any])
        typed(data, path.name, _Run)
    return data


# --- table -----------------------------------------------------------------------------------------------------------

_HEAD = (
    "engine",
    "depth",
    "s",
    "cfg",
    "ms/tick",
    "p95",
    "p99",
    "host",
    "quiet",
    "mean",
    "floor",
    "share",
    "latents/s",
    "x real time",
)


def table(run: Mapping[str, Any]) -> str:
    """Format a run as a table with a line for each result."""
    results = run["results"]
    names = list(dict.fromkeys(name for one in results for name in one.get("references") or ()))
    head = [*_HEAD, "joins", "launches", "peak GB", *(f"x {name}" for name in names)]
    rows = [[plain(cell) for cell in row] for row in (head, *(_row(one, names) for one in results))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([plain(f"{run['gpu'] or 'CPU'}: {run['command']}", 4 * LONGEST), "", *lines])


def _row(one: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    tick, floor, mean = one["tick_ms"], one.get("floor_ms"), one.get("mean_ms")
    share = f"{100 * floor / mean:.0f} %" if floor and mean else ""
    cfg = one["cfg"] + (f" {one['every']}" if one.get("every", 1) > 1 else "")
    mode = cfg + (" all" if one.get("controls") else " dcw" if one["dcw"] else "")
    cells = [f"{one['size']} {one['engine']} {one['precision']}", _slots(one), f"{one['seconds']:g}", mode]
    cells += [f"{tick[name]:.2f}" for name in TICK] + [_number(one.get("quiet_ms"), ".2f")]
    cells += [_number(mean, ".2f"), _number(floor, ".2f"), share]
    cells += [f"{one['latents_per_s']:.2f}", f"{one['realtime']:.1f}"]
    cells += [_number(one["joins_per_tick"], "g"), _number(one["launches_per_tick"], ".4g")]
    cells.append(_number(one["peak_bytes"] and one["peak_bytes"] / 1e9, ".1f"))
    references = one.get("references") or {}
    return cells + [_number(references.get(name, {}).get("ratio"), ".2f") for name in names]


def _slots(one: Mapping[str, Any]) -> str:
    return f"{one['sessions']} x {one['depth']}" if one.get("sessions", 1) > 1 else f"{one['depth']}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


# --- two runs --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """The same case in two runs.

    Attributes:
        what: the case, in words.
        before, after: median milliseconds of a tick.
        low, high: the smallest and the largest ratio of any round after to any round before.
        same_work: whether the latents were the same; None where a run does not say.
    """

    what: str
    before: float
    after: float
    low: float
    high: float
    same_work: bool | None

    @property
    def ratio(self) -> float:
        return self.after / self.before if self.before else math.inf

    @property
    def verdict(self) -> str:
        """`slower` and `faster` only where all rounds agree, and the medians differ by more than `CHANGED`."""
        if self.low > 1.0 and self.ratio > 1.0 + CHANGED:
            return "slower"
        return "faster" if self.high < 1.0 and self.ratio < 1.0 - CHANGED else "same"

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "ratio": self.ratio, "verdict": self.verdict}

    def text(self) -> str:
        spread = f"{self.ratio:.3f} ({self.low:.3f} to {self.high:.3f})"
        other = ", other latents" if self.same_work is False else ""
        return f"{self.before:10.2f} -> {self.after:10.2f} ms  {spread}  {self.verdict:6}  {plain(self.what)}{other}"


def compare(before: Mapping[str, Any], after: Mapping[str, Any], force: bool = False) -> list[Pair]:
    """Pair the results of two runs by their arguments.

    Args:
        force: also where they ran on different devices.

    Raises:
        InputError: for different devices, or where nothing pairs.
    """
    if before["gpu"] != after["gpu"] and not force:
        raise InputError(
            f"the runs are of {before['gpu'] or 'a CPU'} and {after['gpu'] or 'a CPU'}",
            "times of one device are compared",
            "run both on the same, or use --force",
        )
    theirs = {_key(one): one for one in after["results"]}
    pairs = [_pair(one, theirs[_key(one)]) for one in before["results"] if _key(one) in theirs]
    if not pairs:
        raise InputError("the runs have no case in common", "cases pair by their arguments", "run the same command")
    return pairs


def _key(one: Mapping[str, Any]) -> tuple:
    return tuple(one.get(name, getattr(Case, name, None)) for name in SAME)


def _pair(before: Mapping[str, Any], after: Mapping[str, Any]) -> Pair:
    a, b = before["tick_ms"]["median"], after["tick_ms"]["median"]
    first, second = (one.get("rounds_ms") or [one["tick_ms"]["median"]] for one in (before, after))
    low = min(second) / max(first) if max(first) else 0.0
    high = max(second) / min(first) if min(first) else math.inf
    works = before.get("work"), after.get("work")
    return Pair(_words(before), a, b, low, high, None if None in works else works[0] == works[1])


def _words(one: Mapping[str, Any]) -> str:
    return ", ".join(_said(one))


def _said(one: Mapping[str, Any]) -> Iterator[str]:
    yield f"{one['size']} {one['engine']} {one['precision']}"
    yield f"depth {_slots(one)}"
    yield f"{one['seconds']:g} s"
    yield f"{one['steps']} steps"
    yield f"cfg {one['cfg']}"
    if one.get("controls"):
        yield "every control"
    elif one["dcw"]:
        yield "dcw"
