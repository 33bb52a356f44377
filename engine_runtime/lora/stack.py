"""Adapters with their strengths: stacked into factors, or merged into weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ..constants import MAX_STRENGTH
from ..device.lane import Lane
from ..engines.factors import Factors, Targets, bucket
from ..errors import InputError, check_range
from .adapter import Adapter

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


def stack(
    mix: Mix,
    targets: Targets,
    dtype: torch.dtype,
    device: torch.device,
    lane: Lane,
    before: Factors | None = None,
) -> Factors:
    """Concatenate the factors of all adapters over the rank, padded with zeros to a bucket.

    The copies are enqueued on the caller's current stream; `Factors.ready` is recorded after them. No adapter gives
    zeros of rank 1. At strength 0 an adapter keeps its place, so that moving a slider through 0 changes no shape.

    Args:
        mix: adapters and their strengths, -10 to 10; 1 is the adapter's own.
        targets, dtype, device: the engine's.
        lane: of the device.
        before: factors of the same adapters with other strengths, whose A is kept.

    Raises:
        InputError: for strengths out of range, adapters of another model, or more rank than the largest bucket.
    """
    check_mix(mix, targets)
    rank = bucket(sum(adapter.rank for adapter, _ in mix))
    digests = tuple(adapter.digest for adapter, _ in mix)
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
    return Factors(targets, rank, a, b, used, silent, digests, strengths, names, lane.mark())


def merged(parameters: Mapping[str, Tensor], mix: Mix, targets: Targets) -> dict[str, Tensor]:
    """Return the weights that adapters change, `W + sum(strength * scale * B A)`, in float32 on the host.

    Args:
        parameters: pristine, by their names in the reference model, in any precision and on any device.

    Raises:
        InputError: as `stack`.
    """
    check_mix(mix, targets)
    changed: dict[str, Tensor] = {}
    for adapter, strength in mix:
        for (layer, kind), (a, b, scale) in adapter.pairs.items():
            name = targets.parameter(layer, kind)
            if name not in changed:
                changed[name] = parameters[name].detach().to("cpu", torch.float32, copy=True)
            changed[name].addmm_(b.float(), a.float(), alpha=strength * scale)
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


def _spare(targets: Targets, rank: int, used: frozenset[str], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Make zeros that all unused kinds share."""
    widest = max((width for kind, pair in targets.kinds.items() if kind not in used for width in pair), default=0)
    return torch.zeros(targets.layers * rank * widest, dtype=dtype, device=device)
