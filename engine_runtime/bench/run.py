"""A benchmark: every engine at every case, references in turn with it, and the floor under all of them."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..engines.compiled.plain import NARROW
from ..engines.contract import Engine
from ..errors import InputError, check_whole
from ..profile.drive import Laps
from ..spec import ACE_STEP
from .calls import count_calls
from .case import SPAN, TICKS, Case
from .floor import Floor, products
from .origin import origin
from .play import Steady, steady
from .report import CASE, TOP
from .subject import Reference, Source, opened, precision_of, references

ROUNDS = 2  # of subject and references in turn: A B A B
PROFILED = 8  # fewest ticks whose calls are counted
Tell = Callable[[str], None]
Keep = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Plan:
    """The settings of a run.

    Attributes:
        engines: as `subject.opened` takes them.
        cases: each is measured with every engine.
        ticks: timed in each round, rounded up so that all slots finish equally often.
        references: of `subject.REFERENCES`; the first one's ratio is a result's `reference_ratio`.
        command: as typed, recorded with the figures.
        span: seconds that each matrix product of the floor is run for.
    """

    engines: tuple[str, ...]
    cases: tuple[Case, ...]
    ticks: int = TICKS
    references: tuple[str, ...] = ()
    command: str = ""
    span: float = SPAN

    def __post_init__(self) -> None:
        check_whole("ticks", self.ticks, 1, 100_000, "a hundred are enough for percentiles")
        if not self.engines or not self.cases:
            raise InputError("there is nothing to measure", "an engine and a guidance are needed", "name one of each")


def run(plan: Plan, source: Source, tell: Tell = lambda _: None, keep: Keep = lambda _: None) -> dict[str, Any]:
    """Measure all cases and return the figures as JSON data.

    Args:
        tell: called with what is measured now; what it raises ends the run.
        keep: given the figures so far, after each case.

    Raises:
        InputError: for a case that an engine does not take.
        EngineError: for an engine that does not run here.
        MemoryShortage: when something does not fit.
    """
    tell("references")
    beside = references(plan.references, source)
    cuda, results = source.device.type == "cuda", list[dict[str, Any]]()
    found: dict[str, Any] = {**dict.fromkeys(TOP), **origin(source.device, plan.command), "results": results}
    for choice in plan.engines:
        with _bench(plan, source, choice, beside, tell) as bench:
            for case in plan.cases:
                tell(f"{choice}: {case.command()}")
                results.append(bench.measure(case))
                found["floor_ms"] = results[0]["floor_ms"]
                keep(found)
        del bench  # with the engine, before the next one is opened
    if not cuda:
        return found
    for i, choice in enumerate(plan.engines):
        own = results[i * len(plan.cases) : (i + 1) * len(plan.cases)]
        with _bench(plan, source, choice, {}, tell) as bench:
            for case, one in zip(plan.cases, own, strict=True):
                tell(f"calls of {choice}: {case.command()}")
                one |= bench.calls(case)
                keep(found)
        del bench
    return found


@contextmanager
def _bench(plan: Plan, source: Source, choice: str, beside: Mapping[str, Reference], tell: Tell) -> Iterator[Bench]:
    """Open one engine for the length of a block."""
    tell(choice)
    gc.collect()  # what was opened before
    taken = _taken(source.device)
    with opened(choice, source) as engine:
        yield Bench(plan, source, choice, engine, beside, _taken(source.device) - taken)


class Bench:
    """One engine, opened.

    Args:
        resident: bytes of device memory that it took.
    """

    def __init__(
        self,
        plan: Plan,
        source: Source,
        choice: str,
        engine: Engine,
        beside: Mapping[str, Reference],
        resident: int,
    ) -> None:
        self.plan, self.source, self.choice, self.engine, self.beside = plan, source, choice, engine, beside
        self.resident, self.precision = resident, precision_of(choice, engine)
        self.floor = Floor(engine.device, engine.dtype, NARROW.get(self.precision), plan.span)
        self.cuda = engine.device.type == "cuda"

    def measure(self, case: Case) -> dict[str, Any]:
        """Time a case. Calls are counted later, because a profiler that has run may leave calls slower."""
        mine, laps, firsts, peaks = _Times(), {name: _Times() for name in self.beside}, list[float](), list[int]()
        for _ in range(ROUNDS):
            before = self._emptied()
            played, reserved = self.timed(self.engine, case, mine, True)
            firsts.append(played.first_s)
            peaks.append(reserved - before + self.resident)
            for name, (engine, captured) in self.beside.items():
                self.timed(engine, case, laps[name], captured)
        floor = self.floor.ms(products(self.source.config, case))
        peak = max(peaks) if self.cuda else None
        return self._result(case, mine, laps, peak, floor, min(firsts), played.work)

    def timed(self, engine: Engine, case: Case, times: _Times, captured: bool) -> tuple[Steady, int]:
        """Time one round; returns what played, and the most bytes that PyTorch held (memory of CUDA graphs counts as
        free)."""
        ticks = case.whole(self.plan.ticks)
        with steady(engine, case, ticks, captured) as played:
            reserved = torch.cuda.max_memory_reserved(engine.device) if self.cuda else 0
            times.rounds.append(played.run(ticks))
            return played, reserved

    def _emptied(self) -> int:
        """Empty the caches, reset the memory peak, and return the bytes that PyTorch still holds; 0 on the CPU."""
        if not self.cuda:
            return 0
        device = self.engine.device
        self.engine.ready()  # what it makes of its weights is not the case's
        self.engine.rest()
        gc.collect()
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_reserved(device)

    def calls(self, case: Case) -> dict[str, Any]:
        """Count a tick's calls, for the entries that `measure` leaves open."""
        ticks = case.whole(PROFILED)
        with steady(self.engine, case, ticks) as played:
            found = count_calls(played, ticks)
        return {
            "joins_per_tick": found.joins / ticks,
            "launches_per_tick": sum(found.launches) / ticks,
            "allocations_per_tick": found.allocations / ticks,
            "kernels_per_tick": found.kernels / ticks,
            "calls_per_tick": found.per_tick(),
        }

    def _result(
        self,
        case: Case,
        mine: _Times,
        beside: Mapping[str, _Times],
        peak: int | None,
        floor: float,
        first_s: float,
        work: str,
    ) -> dict[str, Any]:
        given = case.as_json()
        ratios = {name: other.median / mine.median for name, other in beside.items()}
        each = [n / mine.seconds for n in mine.finished]
        return {
            "size": self.source.name,
            "engine": self.choice,
            "precision": self.precision,
            **{name: given[name] for name in CASE},
            "tick_ms": mine.as_json(),
            "latents_per_s": sum(each),
            "realtime": sum(each) * ACE_STEP.seconds(case.frames),
            "joins_per_tick": None,
            "launches_per_tick": None,
            "peak_bytes": peak,
            "reference_ratio": next(iter(ratios.values()), None),
            **{name: given[name] for name in ("tokens", "controls", "sessions", "ahead", "every")},
            "floor_ms": floor,
            "mean_ms": mine.mean,
            "quiet_ms": mine.quiet,
            "rounds_ms": mine.medians,
            "time_to_first_s": first_s,
            "latents_per_s_by_session": each,
            "references": {
                name: {"tick_ms": other.as_json(), "rounds_ms": other.medians, "ratio": ratios[name]}
                for name, other in beside.items()
            },
            "allocations_per_tick": None,
            "kernels_per_tick": None,
            "calls_per_tick": None,
            "ticks": sum(len(laps.ms) for laps in mine.rounds),
            "work": work,
            "kept_wide": getattr(self.engine, "kept_wide", ""),
        }


class _Times:
    """The rounds of one engine at one case."""

    def __init__(self) -> None:
        self.rounds: list[Laps] = []

    @property
    def ms(self) -> list[float]:
        return [ms for laps in self.rounds for ms in laps.ms]

    @property
    def median(self) -> float:
        return statistics.median(self.ms)

    @property
    def quiet(self) -> float | None:
        """Return the median of the ticks in which no request took a slot; None where one always does."""
        found = [ms for laps in self.rounds for ms, quiet in zip(laps.ms, laps.quiet, strict=True) if quiet]
        return statistics.median(found) if found else None

    @property
    def mean(self) -> float:
        return statistics.fmean(self.ms)

    @property
    def medians(self) -> list[float]:
        return [statistics.median(laps.ms) for laps in self.rounds]

    @property
    def seconds(self) -> float:
        return sum(self.ms) / 1e3

    @property
    def finished(self) -> list[int]:
        return [sum(counts) for counts in zip(*(laps.finished for laps in self.rounds), strict=True)]

    def as_json(self) -> dict[str, float]:
        p95, p99 = (float(p) for p in np.percentile(self.ms, (95, 99)))
        host = statistics.median(ms for laps in self.rounds for ms in laps.host_ms)
        return {"median": self.median, "p95": p95, "p99": p99, "host": host}


def _taken(device: torch.device) -> int:
    """Return the device bytes in use, without torch's cache; 0 on the CPU."""
    if device.type != "cuda":
        return 0
    free, total = torch.cuda.mem_get_info(device)
    return total - free - torch.cuda.memory_reserved(device) + torch.cuda.memory_allocated(device)
