"""Fills the fields of a page's template. A field's words name a result: its file, then its engine and guidance, and its
depth, length and size where those are not 4, 60 s and the only one.

    {ms[targets compiled off]:.2f}         median ms of a tick; also `mean`, `quiet`, `floor`, `peak` (GB), `launches`,
                                           `rate` (latents a second), `realtime`, `kernels`
    {ms[scaling compiled off d8 240s]:.2f} of another depth and length
    {ref[targets fp8 full eager]:.2f}      how many times as long a reference takes
    {more[controls fp8 off | modes fp8 off]:+.1%}  how much longer a tick of the first is, by medians; `longer` by
                                           means, `floored` by floors, `quieter` by ticks in which nobody joins
    {at[vae window_ms.alone]:.2f}          any figure of a file, by its path; `gib` one of bytes, in GB of 2^30
    {live[live-fp8 hot heard]}             median and 95th percentile of a live benchmark
    {over[live-moving hot ready 45]:.0f}   how far that percentile is over the milliseconds named last
    {worst[fp8-errors 2b: all in fp8]}     largest error and smallest cosine of all draws
    {wide[chosen-2b fp8 off]}              products that an engine in 8 bits left out
    {kind[profile-2b-fp8 attention]:.2f}   ms of the layers of a kind in a profile; `rest` is what the page names
                                           no kind of, `layers` is all of them
    {soaked[soak host_bytes]} {blocks[soak]}  MiB that a soak grew by; how much longer each block took at its end
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

from ostinato.engine_runtime.bench import kept
from ostinato.engine_runtime.constants import KINDS

HOME = "h100-80gb"  # the folder of a file that is named without one
SIZES = ("2b", "xl", "2b-outliers", "xl-outliers", "tiny")


class Field:
    """Looks up what the words in a field's brackets name."""

    def __init__(self, find: Callable[[str], Any]) -> None:
        self.find = find

    def __getitem__(self, words: str) -> Any:
        try:
            return self.find(words)
        except (KeyError, IndexError, TypeError) as error:
            raise LookupError(f"no kept figure is {words!r}: {error}") from error


@cache
def file(name: str) -> dict[str, Any]:
    return kept.read(kept.RESULTS / f"{name if '/' in name else f'{HOME}/{name}'}.json")


def result(words: str) -> dict[str, Any]:
    """Return the one result that words name.

    Raises:
        LookupError: where none or several are of these words.
    """
    name, *rest = words.split()
    asked: dict[str, Any] = {"depth": 4, "seconds": 60.0}
    for word in rest:
        if match := re.fullmatch(r"d(\d+)", word):
            asked["depth"] = int(match[1])
        elif match := re.fullmatch(r"(\d+)s", word):
            asked["seconds"] = float(match[1])
        else:
            asked["engine" if word in KINDS else "size" if word in SIZES else "cfg"] = word
    found = [one for one in file(name)["results"] if all(one[key] == value for key, value in asked.items())]
    if len(found) != 1:
        raise LookupError(f"{len(found)} results are {words!r}")
    return found[0]


def at(words: str) -> Any:
    name, path = words.split()
    found: Any = file(name)
    for step in path.split("."):
        found = found[int(step)] if isinstance(found, list) else found[step]
    return found


def ref(words: str) -> float:
    named, _, reference = words.rpartition(" ")
    return float(result(named)["references"][reference]["ratio"])


def figures(one: dict[str, Any]) -> dict[str, Any]:
    return {
        "ms": one["tick_ms"]["median"],
        "mean": one["mean_ms"],
        "quiet": one["quiet_ms"],
        "floor": one["floor_ms"],
        "peak": one["peak_bytes"] / 1e9,
        "rate": one["latents_per_s"],
        "realtime": one["realtime"],
        "launches": one["launches_per_tick"],
        "kernels": one["kernels_per_tick"],
    }


def live(words: str) -> str:
    name, kind, stage = words.split()
    found = file(name)["ms"][kind][stage]
    return f"{found['median']:.0f} / {found['p95']:.0f}"


def change(first: str, second: str) -> Callable[[str], float]:
    """Make the field that says by how much the first result's figure is more than the second's."""

    def compare(words: str) -> float:
        ours, theirs = (figures(result(part)) for part in words.split("|"))
        return float(ours[first] / theirs[second] - 1.0)

    return compare


def worst(words: str) -> str:
    """Return the largest error and the smallest cosine of all draws."""
    (name, size), kind = words.split(": ")[0].split(), words.split(": ")[1]
    draws = file(name)[size][kind]
    return f"{max(one['relative'] for one in draws):.3f}, {min(one['cosine'] for one in draws):.4f}"


def wide(words: str) -> int:
    """Count the products that an engine in 8 bits left out."""
    spans = re.findall(r"(\d+)(?:-(\d+))?", result(words)["kept_wide"].replace("float8", ""))
    return sum(int(last or first) - int(first) + 1 for first, last in spans)


NAMED = ("matrix product", "attention", "normalization")  # kinds of layers that have a row in a page


def kind(words: str) -> float:
    """Sum the milliseconds of a profile's layers of a kind, of all, or of the kinds that are not `NAMED`."""
    name, which = words.split(" ", 1)
    layers = file(name)["layers"]
    kinds = {one for _, one, *_ in layers}
    asked = {"layers": kinds, "rest": kinds - set(NAMED)}.get(which, {which})
    if not asked <= kinds:
        raise LookupError(f"{name} has the kinds {sorted(kinds)}")
    return float(sum(ms for _, one, ms, _ in layers if one in asked))


def over(words: str) -> float:
    """Return how far the 95th percentile of a live benchmark is above the milliseconds named last."""
    name, kind, stage, asked = words.split()
    return float(file(name)["ms"][kind][stage]["p95"] - float(asked))


def soaked(words: str) -> str:
    first, last = at(words)
    return f"{(last - first) / 2**20:+.0f}"


def blocks(name: str) -> str:
    """Say by how much each block of a soak took longer at the end."""
    found = file(name)
    return ", ".join(f"{b / a - 1:+.0%}" for a, b in zip(found["first_ms"], found["last_ms"], strict=True))


def fields() -> dict[str, Field]:
    """Return all fields by their names."""
    names = figures(result("targets compiled off"))
    plain = {name: lambda words, name=name: figures(result(words))[name] for name in names}
    changes = {
        "more": change("ms", "ms"),
        "longer": change("mean", "mean"),
        "quieter": change("quiet", "quiet"),
        "floored": change("floor", "floor"),
    }
    of_files = {
        "at": at,
        "gib": lambda words: at(words) / 2**30,
        "ref": ref,
        "live": live,
        "worst": worst,
        "soaked": soaked,
        "blocks": blocks,
        "wide": wide,
        "over": over,
        "kind": kind,
    }
    return {name: Field(find) for name, find in (plain | changes | of_files).items()}
