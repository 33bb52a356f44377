"""Tells what a card plays: for every engine what fits in its memory, and about how fast it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from ..bench.case import GIB, OUTSIDE, Case, grid
from ..constants import KINDS, MAX_DEPTH
from ..device.capture import UNCAPTURED, capturable
from ..device.gpu import current
from ..engines.contract import Engine
from ..errors import InputError, check_choice
from ..models.loading import Model
from ..models.sized import SIZES
from .cards import ADA, AMPERE, CARDS, HOPPER, TURING, Card, called
from .memory import NARROW, Sizes, needed, released, room
from .speed import MEASURED, Speed, speed

NEEDS = {"eager": (0, 0), "compiled": TURING, "fp8": ADA, "int8": TURING}  # least compute capability
UNTRIED = ("int8",)  # for cards on which it never ran: it is listed, with what it takes, and not advised
SECONDS, MODES = (60.0, 240.0), ("off", "full")  # unless told otherwise
TENSORRT = "TensorRT"


@dataclass(frozen=True)
class Fit:
    """One case on one engine.

    Attributes:
        case: as asked, or of the largest depth that fits where that is smaller.
        largest: depth that fits, up to `MAX_DEPTH`; 0 for none.
        bytes: of all parts together; of the smallest depth where none fits.
        speed: None where nothing fits or nothing tells.
    """

    case: Case
    largest: int
    bytes: int
    speed: Speed | None

    @property
    def realtime(self) -> float | None:
        """Return the seconds of music that are finished in a second."""
        made = self.case.depth * self.case.seconds / self.case.steps
        return None if self.speed is None else 1e3 * made / self.speed.ms

    def as_json(self) -> dict[str, Any]:
        return {
            "seconds": self.case.seconds,
            "guidance": self.case.cfg,
            "depth": self.case.depth,
            "largest_depth": self.largest,
            "bytes": self.bytes,
            "speed": None if self.speed is None else asdict(self.speed),
            "realtime": self.realtime,
        }


@dataclass(frozen=True)
class Choice:
    """One engine on a card.

    Attributes:
        kind: one of `KINDS`, or `TENSORRT`.
        precision: of the weights.
        why: it does not play, or has no figures; empty where it plays.
        parts: bytes of each part in the first case.
        fits: of every case; empty where it does not play.
    """

    kind: str
    precision: str
    why: str
    parts: dict[str, int]
    fits: tuple[Fit, ...]

    @property
    def label(self) -> str:
        return self.kind if self.kind in NARROW and self.precision == "bf16" else f"{self.kind} {self.precision}"

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "fits": [fit.as_json() for fit in self.fits]}


@dataclass(frozen=True)
class Plan:
    """All engines on one card, for one size of weights."""

    card: Card
    size: str
    choices: tuple[Choice, ...]

    @property
    def best(self) -> Choice | None:
        """Return the fastest engine whose first case fits; None where none does, or nothing tells."""
        tried = [one for one in self.choices if one.kind not in UNTRIED]
        firsts = [(fit, one) for one in tried for fit in one.fits[:1] if fit.largest]
        playing = [(fit.speed.ms / fit.case.depth, one) for fit, one in firsts if fit.speed is not None]
        return min(playing, key=lambda pair: pair[0], default=(0.0, None))[1]

    def as_json(self) -> dict[str, Any]:
        best = self.best
        return {
            "card": asdict(self.card),
            "size": self.size,
            "outside_gb": OUTSIDE,
            "best": None if best is None else best.kind,
            "engines": [one.as_json() for one in self.choices],
        }

    def text(self) -> str:
        lines = [f"{self.card.text()} (public figures); weights of size {self.size}", ""]
        lines += columns([HEAD, *(row for one in self.choices for row in _rows(one))]) + [""]
        lines += [f"{one.label}: {one.why}" for one in self.choices if one.why]
        lines += [*NOTES, *([] if self.card.bf16 else [NO_BF16]), self.advice()]
        return "\n".join(lines)

    def advice(self) -> str:
        """Say in one sentence what to take."""
        best = self.best
        if best is None:
            fits = [one for one in self.choices if one.fits and one.fits[0].largest]
            if not fits:
                return f"Size {self.size} does not fit on {self.card.name}."
            return f"Take {fits[-1].label}; nothing tells how fast it is."
        first, speed = best.fits[0], best.fits[0].speed
        assert speed is not None
        return (
            f"Take {best.label}: depth {first.case.depth} of {first.case.seconds:g} s takes {_about(speed)} a tick, "
            f"{_figure(first.realtime)} times real time, and {first.bytes / GIB:.1f} of {self.card.memory:.3g} GB, "
            f"text encoder and VAE included."
        )


HEAD = ("engine", "guidance", "seconds", "depth", "GB", "fits up to depth", "ms a tick", "x real time", "")
NOTES = (
    "GB are 2^30 bytes of decoder, ring, text encoder, condition encoder and VAE, all on the card together; "
    f"{OUTSIDE:g} GB more is kept for the driver and a desktop.",
    "An estimate is the products' time at the card's public figures, times what the engine took over that where it was "
    "measured: on H100 and H200, where it is within 15 %. On no other card was anything measured yet.",
)
NO_BF16 = "It has no bf16: Load Model's precision auto is float32 here, float16 is to be chosen."


def plan(
    card: Card, size: str, depth: int = Case.depth, seconds: Sequence[float] = SECONDS, modes: Sequence[str] = MODES
) -> Plan:
    """Plan a released size of weights on a card.

    Args:
        size: one of `SIZES`.
        depth, seconds, modes: of the cases; a smaller depth is taken where that does not fit.

    Raises:
        InputError: for another size, and as `Case`.
    """
    check_choice("the size", size, SIZES)
    cases, sizes = grid((depth,), seconds, modes), released(size)
    return Plan(card, size, tuple(_choices(card, size, sizes, cases)))


def here(device: torch.device | None = None) -> Card:
    """Return the card that is here: of the table's where it is known, else with its memory alone.

    Raises:
        InputError: where PyTorch sees no CUDA device.
    """
    if device is None and not torch.cuda.is_available():
        raise InputError(
            "this PyTorch sees no CUDA device",
            f"cards can be named, {CARDS[0].name} to {CARDS[-1].name}",
            "give --card",
        )
    found = torch.cuda.get_device_properties(device or current())
    known = called(found.name, found.total_memory) or Card(found.name, (found.major, found.minor), 0)
    return replace(known, capability=(found.major, found.minor), memory=found.total_memory / GIB)


def told(model: Model, engine: Engine, kind: str) -> str:
    """Say what an engine of a kind on this model does on the GPU that it is on, and whether its ticks are replayed."""
    precision = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(engine.dtype, "fp32")
    line = engine_line(here(engine.device), Sizes.of(model), kind, precision)
    return line if capturable() else f"{line}\n{UNCAPTURED}"


def engine_line(card: Card, sizes: Sizes, kind: str, precision: str) -> str:
    """Say what an engine on weights of these sizes does on a card."""
    size = next((name for name in SIZES if released(name).decoder == sizes.decoder), None)
    fits = [_fit(card, size, sizes, kind, precision, case) for case in grid((Case.depth,), SECONDS, ("off",))]
    first, largest = fits[0], ", ".join(f"{fit.largest} of {fit.case.seconds:g} s" for fit in fits)
    if not first.largest:
        need = f"{first.bytes / GIB:.1f} GB are needed for depth 1 of {first.case.seconds:g} s"
        return f"On {card.name} ({card.memory:.3g} GB): {need}, text encoder and VAE included"
    taken = f"about {_about(first.speed)} a tick and " if first.speed else ""
    return (
        f"On {card.name} ({card.memory:.3g} GB): depth {first.case.depth} of {first.case.seconds:g} s takes {taken}"
        f"{first.bytes / GIB:.1f} GB, text encoder and VAE included; depths that fit: {largest}"
    )


def _choices(card: Card, size: str, sizes: Sizes, cases: Sequence[Case]) -> Iterator[Choice]:
    for kind in KINDS:
        for precision in _precisions(card, kind):
            why = _refused(card, kind)
            fits = () if why else tuple(_fit(card, size, sizes, kind, precision, case) for case in cases)
            yield Choice(kind, precision, why, needed(sizes, kind, precision, cases[0]), fits)
    yield Choice(TENSORRT, "bf16", _tensorrt(card), {}, ())


def _precisions(card: Card, kind: str) -> tuple[str, ...]:
    """List the precisions of the weights; without bf16 `auto` loads float32, and float16 can be asked for."""
    if card.bf16:
        return ("bf16",)
    return ("fp32", "fp16") if kind == "eager" else ("fp16",)


def _refused(card: Card, kind: str) -> str:
    (major, minor), (least, and_) = card.capability, NEEDS[kind]
    if card.capability >= NEEDS[kind]:
        return ""
    return f"does not play on compute capability {major}.{minor}, it needs {least}.{and_}"


def _tensorrt(card: Card) -> str:
    if card.capability == HOPPER:
        return "no figures: TensorRT-RTX refuses compute capability 9.0, and full TensorRT was timed nowhere yet"
    if card.capability < AMPERE:
        return "no figures: TensorRT-RTX engines are built for compute capability 8.0 and up, full TensorRT untimed yet"
    return "no figures: such engines were built, and timed nowhere yet"


def _fit(card: Card, size: str | None, sizes: Sizes, kind: str, precision: str, case: Case) -> Fit:
    def taken(depth: int) -> int:
        return sum(needed(sizes, kind, precision, replace(case, depth=depth)).values())

    largest = max((d for d in range(1, MAX_DEPTH + 1) if taken(d) <= room(card.bytes)), default=0)
    case = replace(case, depth=min(case.depth, max(largest, 1)))
    found = speed(card, size, sizes.config, kind, precision, case) if largest else None
    return Fit(case, largest, taken(case.depth), found)


def _rows(one: Choice) -> Iterator[tuple[str, ...]]:
    for fit in one.fits:
        said, case = fit.speed, fit.case
        yield (
            one.label,
            case.cfg,
            f"{case.seconds:g}",
            f"{case.depth}",
            f"{fit.bytes / GIB:.1f}",
            f"{fit.largest}" if fit.largest else "none",
            _figure(said.ms) if said else "",
            _figure(fit.realtime) if said else "",
            said.source if said else "",
        )


def _about(speed: Speed) -> str:
    return f"{_figure(speed.ms)} ms ({speed.source})"


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Format rows of cells as lines with aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def overview(sizes: Sequence[str] = tuple(SIZES)) -> list[tuple[str, ...]]:
    """Tabulate all cards: of each size the fastest engine that fits, at depth 4 of 60 s without guidance.

    Estimates have a star.
    """
    rows = [
        ("card", "GB", *(cell for size in sizes for cell in (f"{size}: engine", "depth", "ms a tick", "x real time")))
    ]
    for card in CARDS:
        cells = [card.name, f"{card.memory:g}"]
        for size in sizes:
            best = plan(card, size, seconds=SECONDS[:1], modes=MODES[:1]).best
            cells += ["none", "", "", ""] if best is None else _best(best)
        rows.append(tuple(cells))
    return rows


def _best(best: Choice) -> list[str]:
    fit = best.fits[0]
    assert fit.speed is not None
    mark = "" if fit.speed.source == MEASURED else " *"
    return [best.label, f"{fit.case.depth}", f"{_figure(fit.speed.ms)}{mark}", _figure(fit.realtime)]


def _figure(value: float | None) -> str:
    """Write a number with three digits, or all before the point."""
    return "" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.3g}"
