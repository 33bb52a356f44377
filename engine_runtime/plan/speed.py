"""About how fast a tick is on a card: measured on that very card, or estimated from the floor by its public figures.

The rated floor is the time of a tick's products at the card's rated speed, or of their bytes at its rated bandwidth,
whichever is longer. What a tick takes over it was measured where the kept benchmarks ran (Hopper, at its power cap);
there the estimate is within 15 % of every measurement. Cards that hold their rated clock better come out too slow.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from ..bench.case import Case
from ..bench.floor import Product, products
from ..bench.kept import runs
from .cards import CARDS, Card
from .memory import NARROW, WIDTH, released

MEASURED, ESTIMATE = "measured", "estimate"
KERNEL_MS = 3e-3  # from kernel to kernel, beyond its work: short ticks take as much longer


@dataclass(frozen=True)
class Speed:
    """Milliseconds of a tick.

    Attributes:
        source: `MEASURED` or `ESTIMATE`.
        low, high: of all runs, where it was measured.
        runs: the names of those.
    """

    ms: float
    source: str
    low: float | None = None
    high: float | None = None
    runs: tuple[str, ...] = ()


def speed(
    card: Card, size: str | None, config: Mapping[str, Any], kind: str, precision: str, case: Case
) -> Speed | None:
    """Return how long a tick takes; None where nothing tells.

    Args:
        size: the weights' size, of which measurements are looked for; None estimates.
        config: of the decoder.
        precision: of the weights; float32 was timed on no GPU.
    """
    found = measured(card, size, kind, case) if size and precision == "bf16" else {}
    if found:
        ms = list(found.values())
        return Speed(statistics.median(ms), MEASURED, min(ms), max(ms), tuple(found))
    floor = floor_ms(card, config, kind, precision, case)
    over = overhead(kind)
    if floor is None or over is None or precision == "fp32":
        return None
    ratio, kernels = over
    return Speed(ratio * floor + KERNEL_MS * kernels * config["num_hidden_layers"], ESTIMATE)


def measured(card: Card, size: str, kind: str, case: Case) -> dict[str, float]:
    """Return the median of every kept run of this case on this card, by the run's name."""
    return {
        name: one["tick_ms"]["median"]
        for name, device, one in _results()
        if (device, one["size"], one["engine"]) == (card.device, size, kind) and _case(one) == case
    }


@cache
def overhead(kind: str) -> tuple[float, float] | None:
    """Return what a tick of this kind takes over its rated floor, and its kernels a layer: medians of the kept runs of
    released sizes. None where there is no run.
    """
    cards, ratios, counts = {card.device: card for card in CARDS}, list[float](), list[float]()
    of_kind = [(device, one) for _, device, one in _results() if one["engine"] == kind and device in cards]
    for _, one in of_kind:
        if kernels := one.get("kernels_per_tick"):
            counts.append(kernels / released(one["size"]).config["num_hidden_layers"])
    if not counts:
        return None
    kernels = statistics.median(counts)
    for device, one in of_kind:
        config = released(one["size"]).config
        floor = floor_ms(cards[device], config, kind, "bf16", _case(one))
        assert floor is not None, "it ran there"
        ratios.append((one["tick_ms"]["median"] - KERNEL_MS * kernels * config["num_hidden_layers"]) / floor)
    return statistics.median(ratios), kernels


def floor_ms(card: Card, config: Mapping[str, Any], kind: str, precision: str, case: Case) -> float | None:
    """Return the milliseconds of a tick's products at rated speed, attention's too; None where the card has no such
    arithmetic.
    """
    total = 0.0
    for product in (*products(config, case), *_attention(config, case)):
        narrow = kind in NARROW and product.layer
        rate = card.rate(kind if narrow else precision)
        if rate is None or card.bandwidth is None:
            return None
        moved = _bytes(product, kind if narrow else precision, precision)
        total += max(product.flops / rate, moved / card.bandwidth / 1e9)
    return 1e3 * total


def _bytes(product: Product, given: str, made: str) -> float:
    m, n, k = product.m, product.n, product.k
    return product.count * (WIDTH[given] * (m * k + n * k) + WIDTH[made] * m * n)


def _attention(config: Mapping[str, Any], case: Case) -> Iterator[Product]:
    """List attention's own products: scores and values, half of the layers over a band, and all over the condition."""
    rows = case.slots * (2 if case.row_mode == "full" else 1)
    n = -(-case.frames // config["patch_size"])
    width, layers = config["num_attention_heads"] * config["head_dim"], config["num_hidden_layers"]
    band = min(n, 2 * config["sliding_window"] + 1)
    for reach, count in ((n, layers / 2), (band, layers / 2), (case.tokens, layers)):
        yield Product(n, reach, width, 2 * rows * count, layer=False)


def _case(one: Mapping[str, Any]) -> Case:
    names = ("depth", "steps", "seconds", "tokens", "cfg", "dcw", "controls", "every")
    sessions = one.get("sessions", 1)
    return Case(**{n: one[n] for n in names if n in one} | {"depth": one["depth"] * sessions})


@cache
def _results() -> tuple[tuple[str, str, Mapping[str, Any]], ...]:
    """List the results of all kept runs of released sizes with graphs: the run's name, its GPU, the result."""
    captured = {name: run for name, run in runs().items() if run["versions"].get("allocator", "native") == "native"}
    found = ((name, run["gpu"] or "", one) for name, run in captured.items() for one in run["results"])
    return tuple(each for each in found if each[2]["size"] in ("2b", "xl"))
