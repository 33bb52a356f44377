"""Counts a tick's CUDA calls with torch's profiler: launches, allocations, and calls that wait for the device."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from .play import Steady

TICK = "bench tick"
# Names of CUDA's runtime and driver calls.
_JOIN = re.compile(r"cu(da)?((Device|Stream|Event|Ctx)Synchronize|Memcpy(?!.*Async))")
_LAUNCH = re.compile(r"cu(da)?(LaunchKernel|LaunchCooperativeKernel|GraphLaunch)")
_ALLOCATION = re.compile(
    r"cuda(Malloc|Free|Host(Alloc|Register|Unregister))"
    r"|cuMem(Alloc|Free|Create|Release|Map|Unmap|HostAlloc|Address(Reserve|Free))"
)
_COPY = re.compile(r"Mem(cpy|set) ")  # as the profiler names them on the device


@dataclass(frozen=True)
class Calls:
    """The CUDA calls of several ticks, by name.

    Attributes:
        ticks: calls of the host, by tick.
        kernels: run by the device in all ticks together.
        pageable: copies in all ticks together from or to memory that is not pinned.
    """

    ticks: tuple[Counter[str], ...]
    kernels: int
    pageable: int

    @property
    def launches(self) -> list[int]:
        """Count the kernels and graphs launched by each tick."""
        return [_count(_LAUNCH, names) for names in self.ticks]

    @property
    def joins(self) -> int:
        """Count the calls of all ticks together that wait for the device."""
        return self.pageable + sum(_count(_JOIN, names) for names in self.ticks)

    @property
    def allocations(self) -> int:
        """Count the calls of all ticks together that take memory from the driver or give it back."""
        return sum(_count(_ALLOCATION, names) for names in self.ticks)

    def per_tick(self) -> dict[str, float]:
        """Average every call per tick by name, most frequent first."""
        sums = sum(self.ticks, Counter[str]())
        return {name: n / len(self.ticks) for name, n in sums.most_common()}


def count_calls(played: Steady, ticks: int) -> Calls:
    """Profile so many steady ticks; on a device that is not CUDA's there are no calls to count."""
    played.drive.settle()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        played.run(ticks, partial(record_function, TICK))
    return sorted_out(profiler.events() or [])


def sorted_out(events: Iterable[Any]) -> Calls:
    """Count the calls that began inside the ticks' ranges."""
    ranges, calls, device = [], [], Counter[str]()
    for event in events:
        if event.device_type != DeviceType.CPU:
            if not getattr(event, "is_user_annotation", False):
                device[event.name] += 1
        elif event.name == TICK:
            ranges.append((event.time_range.start, event.time_range.end, Counter[str]()))
        elif event.name.startswith("cu"):
            calls.append((event.time_range.start, event.name))
    ranges.sort(key=lambda r: r[0])
    calls.sort()
    place = 0
    for start, name in calls:
        while place < len(ranges) and ranges[place][1] < start:
            place += 1
        if place < len(ranges) and ranges[place][0] <= start:
            ranges[place][2][name] += 1
    kernels = sum(n for name, n in device.items() if not _COPY.match(name))
    pageable = sum(n for name, n in device.items() if "Pageable" in name)
    return Calls(tuple(names for _, _, names in ranges), kernels, pageable)


def _count(pattern: re.Pattern[str], names: Counter[str]) -> int:
    return sum(n for name, n in names.items() if pattern.match(name))
