"""Adapters with their strengths: stacked into factors, or merged into weights."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from ..constants import MAX_STRENGTH
from ..device.lane import Lane
from ..engines.contract import Engine
from ..engines.factors import Factors, Targets, bucket, required
from ..errors import InputError, check_range, plain
from .adapter import Adapter
from .keys import Place

log = logging.getLogger(__name__)
Mix = Sequence[tuple[Adapter, float]]  # adapters with their strengths


def check_mix(mix: Mix, targets: Targets) -> None:
    """Raise `InputError` for a strength out of range or an adapter of another model."""
    for adapter, strength in mix:
        check_range(f"the strength of {adapter.name}", strength, -MAX_STRENGTH, MAX_STRENGTH, "1 is the adapter's own")
        if adapter.targets != targets:
            raise InputError(
                f"{adapter.name} was read for {adapter.targets.layers} layers of other widths or number",
                f"this engine's model has {targets.layers}",
                "read the adapter for this model",
            )


def stacked_for(engine: Engine, mix: Mix, lane: Lane) -> Factors:
    """Stack adapters for an engine; raises `InputError` as `stack`, and where it takes none."""
    most = None if engine.krons else engine.limits.rank
    return stack(mix, required(engine.targets), engine.dtype, engine.device, lane, low_rank=most)


def stack(
    mix: Mix,
    targets: Targets,
    dtype: torch.dtype,
    device: torch.device,
    lane: Lane,
    before: Factors | None = None,
    low_rank: int | None = None,
) -> Factors:
    """Concatenate the factors of all adapters over the rank, padded with zeros to a bucket.

    The copies are enqueued on the caller's current stream; `Factors.ready` is recorded after them. No adapter gives
    zeros of rank 1. At strength 0 an adapter keeps its place, so that moving a slider through 0 changes no shape.

    Args:
        mix: adapters and their strengths, -10 to 10; 1 is the adapter's own.
        targets, dtype, device: the engine's.
        lane: of the device.
        before: factors of the same adapters with other strengths, whose A is kept.
        low_rank: the largest rank of an engine that takes low-rank factors only: each LoKr is cut down to what is left
            of it, and the log says how much that leaves out.

    Raises:
        InputError: for strengths out of range, adapters of another model, or more rank than the largest bucket.
    """
    check_mix(mix, targets)
    digests = tuple(adapter.digest for adapter, _ in mix)
    mix, error = (mix, 0.0) if low_rank is None else _cut_down(mix, low_rank)
    rank = bucket(sum(adapter.rank for adapter, _ in mix))
    used = frozenset(kind for adapter, _ in mix for _, kind in adapter.pairs)
    kept = before if before is not None and _same(before, digests, targets, dtype, device) else None
    if kept is not None and kept.ready is not None:  # its A may have been sent on another stream
        torch.cuda.current_stream(device).wait_event(kept.ready)
    spare = _spare(targets, rank, used, dtype, device)

    def empty(*shape: int) -> Tensor:  # pinned: a copy from pageable memory would wait for the stream
        return torch.zeros(targets.layers, *shape, dtype=dtype, pin_memory=device.type == "cuda")

    a, b = {}, {}
    for kind, (width_in, width_out) in targets.kinds.items():
        if kind not in used:
            a[kind] = spare[: targets.layers * rank * width_in].view(-1, rank, width_in)
            b[kind] = spare[: targets.layers * rank * width_out].view(-1, width_out, rank)
            continue
        if kept is None:
            a[kind] = _downs(kind, mix, targets, empty(rank, width_in)).to(device, non_blocking=True)
        else:
            a[kind] = kept.a[kind]
        b[kind] = _ups(kind, mix, targets, empty(width_out, rank)).to(device, non_blocking=True)
    silent = not any(strength for _, strength in mix)
    strengths, names = tuple(float(s) for _, s in mix), tuple(adapter.name for adapter, _ in mix)
    krons = {kind: made for kind in targets.kinds if (made := _krons(kind, mix, targets, empty, device))}
    return Factors(targets, rank, a, b, used, silent, digests, strengths, names, lane.mark(), krons, error)


def merged(parameters: Mapping[str, Tensor], mix: Mix, targets: Targets) -> dict[str, Tensor]:
    """Return the weights that adapters change, `W + sum(strength * scale * B A)`, in float32 on the host.

    A LoKr has its Kronecker product in the place of B A.

    Args:
        parameters: pristine, by their names in the reference model, in any precision and on any device.

    Raises:
        InputError: as `stack`.
    """
    check_mix(mix, targets)
    changed: dict[str, Tensor] = {}

    def weight(place: Place) -> Tensor:
        name = targets.parameter(*place)
        if name not in changed:
            changed[name] = parameters[name].detach().to("cpu", torch.float32, copy=True)
        return changed[name]

    for adapter, strength in mix:
        for place, (a, b, scale) in adapter.pairs.items():
            weight(place).addmm_(b.float(), a.float(), alpha=strength * scale)
        for place, (w1, w2, scale) in adapter.krons.items():
            weight(place).add_(torch.kron(w1, w2), alpha=strength * scale)
    return changed


def _same(factors: Factors, digests: tuple[str, ...], *where: object) -> bool:
    """Return whether factors are of these adapters, targets, dtype and device."""
    return (factors.digests, factors.targets, factors.dtype, factors.device) == (digests, *where)


def label(mix: Mix) -> str:
    return ", ".join(f"{adapter.name} {strength:g}" for adapter, strength in mix) or "no adapter"


def _downs(kind: str, mix: Mix, targets: Targets, stacked: Tensor) -> Tensor:
    """Write A of every layer, `[layers, rank, in]`."""
    for layer, start, (a, _, _), _ in _places(kind, mix, targets):
        stacked[layer, start : start + a.shape[0]] = a
    return stacked


def _ups(kind: str, mix: Mix, targets: Targets, stacked: Tensor) -> Tensor:
    """Write B of every layer, `[layers, out, rank]`, with strength and alpha in it; rounded once."""
    for layer, start, (a, b, scale), strength in _places(kind, mix, targets):
        stacked[layer, :, start : start + a.shape[0]] = b.float() * (strength * scale)
    return stacked


def _places(kind: str, mix: Mix, targets: Targets) -> Iterator[tuple[int, int, tuple[Tensor, Tensor, float], float]]:
    """(layer, first rank, factors, strength) of every layer of a kind that an adapter changes."""
    start = 0
    for adapter, strength in mix:
        for layer in range(targets.layers):
            if (layer, kind) in adapter.pairs:
                yield layer, start, adapter.pairs[layer, kind], strength
        start += adapter.rank


def _krons(
    kind: str, mix: Mix, targets: Targets, empty: Callable[..., Tensor], device: torch.device
) -> tuple[tuple[Tensor, Tensor], ...]:
    """Stack the matrices of each LoKr over the layers, `[layers, p, q]` and `[layers, m, n]`; those of one shape
    together, for layers may differ in theirs. Strength and scale are in the first; where a layer has none it is zeros.
    """
    stacked = []
    for adapter, strength in mix:
        found = {layer: adapter.krons[layer, kind] for layer in range(targets.layers) if (layer, kind) in adapter.krons}
        for shapes in dict.fromkeys((w1.shape, w2.shape) for w1, w2, _ in found.values()):
            pair = empty(*shapes[0]), empty(*shapes[1])
            for layer, (w1, w2, scale) in found.items():
                if (w1.shape, w2.shape) == shapes:
                    pair[0][layer], pair[1][layer] = w1 * (strength * scale), w2
            stacked.append((pair[0].to(device, non_blocking=True), pair[1].to(device, non_blocking=True)))
    return tuple(stacked)


def _cut_down(mix: Mix, most: int) -> tuple[Mix, float]:
    """Replace each LoKr by low-rank factors of what other adapters leave of a rank; returns the largest error too."""
    whole = [adapter for adapter, _ in mix if adapter.krons]
    left = (most - sum(adapter.rank for adapter, _ in mix)) // max(len(whole), 1)
    if not whole:
        return mix, 0.0
    if left < 1:
        raise InputError(
            f"{whole[0].name} is a LoKr, and the other adapters have the whole rank of the engine, {most}",
            "this engine takes low-rank factors only, to which a LoKr is cut down",
            "use fewer adapters, build the engine for more rank, or play them on an engine of PyTorch",
        )
    made = [(*cut_down(adapter, left), strength) for adapter, strength in mix]
    for adapter, error, _ in made:
        if adapter.name in {one.name for one in whole}:
            log.warning(
                "%s is a LoKr, and this engine takes low-rank factors only: at rank %d it is %.1f %% off",
                plain(adapter.name),
                left,
                100 * error,
            )
    return [(adapter, strength) for adapter, _, strength in made], max(error for _, error, _ in made)


@lru_cache(maxsize=8)
def cut_down(adapter: Adapter, rank: int) -> tuple[Adapter, float]:
    """Replace the Kronecker products of a LoKr by their best low-rank factors.

    The singular values of `W1 (x) W2` are all products of one of each, and so are its vectors (Horn and Johnson, Topics
    in Matrix Analysis, theorem 4.2.15).

    Returns:
        the adapter, and `|W - B A| / |W|` over all its layers, in the Frobenius norm.
    """
    pairs, lost, whole = dict(adapter.pairs), 0.0, 0.0
    for place, (w1, w2, scale) in adapter.krons.items():
        (u1, s1, v1), (u2, s2, v2) = torch.linalg.svd(w1, False), torch.linalg.svd(w2, False)
        values, order = torch.outer(s1, s2).flatten().sort(descending=True)
        i, j = order[:rank] // len(s2), order[:rank] % len(s2)
        root = values[:rank].sqrt()
        b = torch.einsum("pr,mr->pmr", u1[:, i], u2[:, j]).flatten(0, 1) * root
        a = torch.einsum("rq,rn->rqn", v1[i], v2[j]).flatten(1) * root[:, None]
        pairs[place] = (a, b, scale)
        lost += scale**2 * float(values[rank:].square().sum())
        whole += scale**2 * float(values.square().sum())
    largest = max((a.shape[0] for a, _, _ in pairs.values()), default=0)
    return replace(adapter, pairs=pairs, krons={}, rank=largest), math.sqrt(lost / whole) if whole else 0.0


def _spare(targets: Targets, rank: int, used: frozenset[str], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Make zeros that all unused kinds share."""
    widest = max((width for kind, pair in targets.kinds.items() if kind not in used for width in pair), default=0)
    return torch.zeros(targets.layers * rank * widest, dtype=dtype, device=device)
