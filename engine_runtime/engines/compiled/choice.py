"""Chooses which products of an engine in 8 bits stay in the model's dtype, by what 8 bits do to the velocity.

Released weights have channels in front of `down` that are hundreds of times as large as the others (Sun et al.,
Massive Activations in Large Language Models, 2024): what 8 bits round off them may be as large as all the rest. So
each product is measured: the velocity with that one in 8 bits against the velocity with none. The squares of the errors
nearly add up, and the products that weigh most for their size are left out until the sum is within a budget.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ..prove import fill
from .engine import CompiledEngine
from .rows import CompiledRows
from .weights import PRODUCTS, Layer, Narrow, Product, bind

BUDGET = 0.052  # relative L2 of the velocity; what bfloat16 itself rounds off (0.012 to 0.015) comes to it
ROWS, FRAMES, TOKENS, SEED = 1, 250, 64, 0  # of what is measured: a row of noise, which has the largest errors


def none_of(layers: int, dtype: torch.dtype) -> Narrow:
    """Return the choice of an engine that could play products in this dtype and plays none."""
    return Narrow(dtype, frozenset((i, name) for i in range(layers) for name in PRODUCTS))


def choose(engine: CompiledEngine, budget: float = BUDGET) -> Narrow:
    """Measure an engine's products in 8 bits and return the choice. Waits for the device.

    Args:
        engine: with none of its products in 8 bits (see `none_of`), ready, on the transformer of the engine to be made.
        budget: of all products together.
    """
    none = engine.decoder.narrow
    assert none is not None
    rows = engine.rows(ROWS, FRAMES, TOKENS)
    fill((rows,), ROWS, FRAMES, TOKENS, engine.width, engine.dtype, SEED)
    with torch.no_grad():
        alone, together = _errors(engine, rows, replace(none, wide=frozenset()))
    least = min(alone.values())  # what any change does, by the rounding of the model's own dtype behind it
    shares = {product: error * error - least * least for product, error in alone.items()}
    scale, left = together**2 / max(sum(shares.values()), 1e-30), together**2
    layers, wide = rows.weights.layers, list[Product]()

    def weight(product: Product) -> float:
        layer, name = product
        return shares[product] / getattr(layers[layer], name).values.numel()

    for product in sorted(shares, key=weight, reverse=True):
        if left <= budget**2:
            break
        wide.append(product)
        left -= scale * shares[product]
    return replace(none, wide=frozenset(wide))


def _errors(engine: CompiledEngine, rows: CompiledRows, whole: Narrow) -> tuple[dict[Product, float], float]:
    """Return the relative L2 of the velocity with each product alone in 8 bits, and with all of them."""
    decoder, wide, narrow = engine.decoder, rows.weights.layers, bind(engine.decoder.model, whole).layers
    want = decoder(rows).float()

    def gap(*layers: Layer) -> torch.Tensor:
        got = decoder(replace(rows, weights=replace(rows.weights, layers=layers))).float()
        return (got - want).norm() / want.norm()

    gaps = {
        (i, name): gap(*wide[:i], replace(layer, **{name: getattr(narrow[i], name)}), *wide[i + 1 :])
        for i, layer in enumerate(wide)
        for name in PRODUCTS
    }
    *alone, together = torch.stack([*gaps.values(), gap(*narrow)]).tolist()
    return dict(zip(gaps, alone, strict=True)), together
