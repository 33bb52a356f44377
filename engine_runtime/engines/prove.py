"""Checks of an engine before it plays: seeded rows at the corners of a profile, compared with a reference engine.

B rows, T frames, L condition tokens, H condition width. Works for any kind of engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor

from ..device.lane import Lane
from ..errors import EngineError
from ..machine import driver_cuda
from .contract import Engine, Rows
from .factors import Factors, Targets
from .profiles import Profile


@dataclass(frozen=True)
class Tolerance:
    """The largest allowed difference of a velocity from the reference's.

    Attributes:
        relative: L2 norm of the difference over that of the reference.
        peak: largest difference over the largest magnitude of the reference.
    """

    relative: float
    peak: float


# By the coarser dtype of the two engines, or that of the products. Eager bfloat16 lies up to 0.036 (relative) from
# float32 on random weights of the 2B size, and float8 products up to 0.063 from eager bfloat16 (both kinds of 8 bits
# leave out products until they are within 0.06); TF32 products, which an
# fp32 engine may be built with, have 10 bits of mantissa.
TOLERANCES = {
    torch.float32: Tolerance(2e-3, 5e-3),
    torch.float16: Tolerance(2e-2, 5e-2),
    torch.bfloat16: Tolerance(6e-2, 1.5e-1),
    torch.float8_e4m3fn: Tolerance(1.2e-1, 3e-1),
    torch.int8: Tolerance(1.2e-1, 3e-1),
}
_BY_NAME = {str(dtype).removeprefix("torch."): limit for dtype, limit in TOLERANCES.items()}


@dataclass(frozen=True)
class Corner:
    """The figures of one corner: differences from the reference, as in `Tolerance`.

    Attributes:
        tokens: 0 for a VAE.
        max_abs: largest difference.
        relative: L2 norm of the difference over that of the reference.
        peak: largest magnitude of the reference.
        finite: false where the engine gave NaN or infinity; the other figures are then 0, but for `peak`.
    """

    name: str
    batch: int
    frames: int
    tokens: int
    rank: int | None
    max_abs: float
    relative: float
    peak: float
    finite: bool = True

    def within(self, tolerance: Tolerance) -> bool:
        return self.finite and self.relative <= tolerance.relative and self.max_abs <= tolerance.peak * self.peak

    def __str__(self) -> str:
        rank = "" if self.rank is None else f", adapters of rank {self.rank}"
        tokens = f", {self.tokens} tokens" if self.tokens else ""
        shape = f"{self.name} ({self.batch} rows, {self.frames} frames{tokens}{rank})"
        if not self.finite:
            return f"{shape}: values that are not finite"
        return f"{shape}: relative {self.relative:.2g}, largest {self.max_abs:.2g} of {self.peak:.3g}"


@dataclass(frozen=True)
class Proof:
    """The record of a check, for the sidecar.

    Attributes:
        engine, reference: identities of the two engines.
        gpu: name of the device, `cpu` without one.
        driver: newest CUDA version that its driver runs.
        date: UTC, ISO 8601.
        seed: of the inputs.
        dtype: name of the coarser of the two engines' dtypes, or of the engine's products; it decides the tolerance.
        corners: the figures.
    """

    engine: str
    reference: str
    gpu: str
    driver: str
    date: str
    seed: int
    dtype: str
    corners: tuple[Corner, ...]

    @property
    def tolerance(self) -> Tolerance:
        """Return the tolerance of today's table; a file cannot widen it."""
        return _BY_NAME[self.dtype]

    @property
    def passed(self) -> bool:
        return bool(self.corners) and all(corner.within(self.tolerance) for corner in self.corners)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "corners": [asdict(corner) for corner in self.corners]}

    @classmethod
    def of(cls, data: Mapping[str, Any] | None) -> Proof | None:
        """Read what `as_json` wrote; returns None for anything else, and for a check that was not passed."""
        try:
            given = dict(data or {})
            corners = tuple(Corner(**corner) for corner in given.pop("corners"))
            proof = cls(**given, corners=corners)
            return proof if proof.passed else None
        except (KeyError, TypeError, ValueError):
            return None

    def summary(self) -> str:
        worst = max((c.relative for c in self.corners), default=float("nan"))
        return f"checked on {self.gpu} at {self.date[:10]}: within {worst:.2g} of eager (relative L2)"


class Refused(EngineError):
    """An engine that failed its check.

    Args:
        proof: the figures.
    """

    def __init__(self, proof: Proof) -> None:
        bad = [str(corner) for corner in proof.corners if not corner.within(proof.tolerance)]
        super().__init__(
            f"the engine is not the reference: {'; '.join(bad)}",
            f"allowed is a relative difference of {proof.tolerance.relative:g}, at most {proof.tolerance.peak:g} of the"
            " largest value, and no value that is not finite",
            "do not play it: build it again, with fp32 or another release of the library, or play on eager",
        )
        self.proof = proof


def prove(
    engine: Engine,
    reference: Engine,
    profile: Profile,
    seed: int,
    lane: Lane | None = None,
    products: torch.dtype | None = None,
) -> Proof:
    """Compare an engine with a reference at the minimum, optimum and maximum of a profile. Waits for the device.

    Both get the same bits: inputs are rounded to the coarser of their dtypes. The reference runs row by row.

    Args:
        engine: the engine to check.
        reference: the eager engine on the same weights and device.
        profile: one of the engine's own.
        seed: of the inputs.
        lane: of the device; needed where either engine may play meanwhile.
        products: dtype of the engine's matrix products, where it is not the engine's own.

    Raises:
        Refused: with the figures, for values that are not finite or out of tolerance.
        MemoryShortage: where the device has no room; other errors of an engine are passed on too.
    """
    dtype = min((engine.dtype, reference.dtype), key=lambda d: -torch.finfo(d).eps)
    lane = lane or Lane(engine.device)
    figures = []
    engine.ready()  # may open a plan, which nobody does who holds a lane
    reference.ready()
    with lane.lock, lane.use(), torch.inference_mode(False), torch.no_grad():
        for i, at in enumerate(corners(profile)):
            figures.append(_corner(at, engine, reference, dtype, seed + i))
    return concluded(engine.identity, reference.identity, engine.device, seed, products or dtype, figures)


def concluded(
    engine: str, reference: str, device: torch.device, seed: int, dtype: torch.dtype, figures: Iterable[Corner]
) -> Proof:
    """Make the proof of these figures; raises `Refused` where one is out of tolerance.

    Args:
        engine, reference: identities.
    """
    driver = driver_cuda() if device.type == "cuda" else None
    proof = Proof(
        engine,
        reference,
        gpu_name(device),
        ".".join(map(str, driver)) if driver else "none",
        datetime.now(UTC).isoformat(timespec="seconds"),
        seed,
        str(dtype).removeprefix("torch."),
        tuple(figures),
    )
    if not proof.passed:
        raise Refused(proof)
    return proof


def corners(profile: Profile) -> Iterator[tuple[str, int, int, int, int | None]]:
    """Yield (name, rows, frames, tokens, adapters' rank or None) of each different corner."""
    seen = set()
    for name, at in (("minimum", "min"), ("optimum", "opt"), ("maximum", "max")):
        batch, frames = getattr(profile.batch, at), getattr(profile.frames, at)
        tokens = getattr(profile.tokens, at) if profile.tokens else 0
        sizes = (batch, frames, tokens, getattr(profile.rank, at) if profile.rank else None)
        if sizes not in seen:
            seen.add(sizes)
            yield (name, *sizes)


def gpu_name(device: torch.device) -> str:
    """Return the device's own name; `cpu` for the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _corner(
    at: tuple[str, int, int, int, int | None], engine: Engine, reference: Engine, dtype: torch.dtype, seed: int
) -> Corner:
    _, batch, frames, tokens, rank = at
    ours, theirs = engine.rows(batch, frames, tokens), reference.rows(batch, frames, tokens)
    fill((ours, theirs), batch, frames, tokens, engine.width, dtype, seed)
    if rank is not None and engine.targets is not None:
        ours = ours.adapted(_factors(engine.targets, rank, dtype, engine, seed))
        theirs = theirs.adapted(_factors(engine.targets, rank, dtype, reference, seed))
    got = engine(ours).clone().float()  # before the reference runs: it may be the same engine
    want = torch.cat([reference(theirs.part(i, i + 1)).float().clone() for i in range(batch)])
    return compared(at, got, want)


def compared(at: tuple[str, int, int, int, int | None], got: Tensor, want: Tensor) -> Corner:
    """Compute the figures of one corner; `got` and `want` are float32 of one shape and device. Waits for the device."""
    gap, peak = got - want, want.abs().max().item()
    if not bool(got.isfinite().all()):
        return Corner(*at, 0.0, 0.0, peak, finite=False)
    return Corner(*at, gap.abs().max().item(), (gap.norm() / want.norm()).item(), peak)


def fill(
    targets: tuple[Rows, ...], batch: int, frames: int, tokens: int, width: int, dtype: torch.dtype, seed: int
) -> None:
    """Write the same seeded rows into each target: noise, times over the whole schedule, conditions of several lengths.

    The first row's condition has all L tokens; with several rows, the last one's has a single token.
    """
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    lengths = torch.randint(1, tokens + 1, (batch,), generator=generator).tolist()
    lengths[-1], lengths[0] = 1, tokens
    (_, padded, channels), beside = targets[0].hidden_states.shape, targets[0].context_latents.shape[2]
    x, times = drawn(batch, padded, channels), torch.linspace(1.0, 0.0, batch + 1)[:-1]
    for row, length in enumerate(lengths):
        condition, context = drawn(length, width), drawn(frames, beside)
        context[:, channels:] = 1.0  # ACE-Step's chunk mask, of text to music
        for rows in targets:
            rows.write(row, condition.to(rows.hidden_states), context.to(rows.hidden_states))
    for rows in targets:
        rows.hidden_states.copy_(x)
        rows.timestep.copy_(times)


def _factors(targets: Targets, rank: int, dtype: torch.dtype, engine: Engine, seed: int) -> Factors:
    """Make seeded adapters for every kind of layer, each adding about a tenth of the layer's own output."""
    generator = torch.Generator().manual_seed(~seed % 2**63)

    def drawn(scale: float, *shape: int) -> Tensor:
        return (
            (scale * torch.randn(targets.layers, *shape, generator=generator)).to(dtype).to(engine.device, engine.dtype)
        )

    a, b = {}, {}
    for kind, (width_in, width_out) in targets.kinds.items():
        a[kind] = drawn(width_in**-0.5, rank, width_in)
        b[kind] = drawn(0.1 * rank**-0.5, width_out, rank)
    return Factors(targets, rank, a, b, frozenset(targets.kinds), False, (), (), (f"check at rank {rank}",), None)
