"""Sigma schedules. Torch-free: a schedule is a tuple of floats from `t_0` down to 0."""

from __future__ import annotations

from collections.abc import Sequence

from ..config import Sampling
from ..constants import MAX_STEPS
from ..errors import InputError

MIN_DENOISE = 1e-4  # steps / denoise grows without bound below


def sigmas(sampling: Sampling) -> tuple[float, ...]:
    """Compute `t_i = linspace(t_0, 0, n + 1)`, shifted by `s * t / (1 + (s - 1) * t)`; `t_0` is 1, or `n / int(n / d)`.

    A denoise `d < 1` takes the last `n` of `int(n / d)` steps, as ComfyUI's samplers do. A denoise of 0 counts as
    `MIN_DENOISE`.

    Returns:
        `n + 1` floats, strictly falling, the last exactly 0.
    """
    n, total = sampling.steps, total_steps(sampling)
    line = [(n - i) / total for i in range(n)]
    return (*(shifted(t, sampling.shift) for t in line), 0.0)


def total_steps(sampling: Sampling) -> int:
    """Return the length of the schedule whose last `n` steps are played: `int(n / d)`, at least `n`."""
    return max(sampling.steps, int(sampling.steps / max(sampling.denoise, MIN_DENOISE)))


def shifted(t: float, shift: float) -> float:
    """Compute `s * t / (1 + (s - 1) * t)` (SD3, arXiv 2403.03206, equation 23), exactly 1 at `t = 1`."""
    return shift * t / (shift * t + (1.0 - t))


def explicit(values: Sequence[float]) -> tuple[float, ...]:
    """Check a schedule given by hand and return it as floats.

    Raises:
        InputError: unless it has 2 to `MAX_STEPS + 1` finite values in [0, 1] that fall strictly to exactly 0.
    """
    if len(values) > MAX_STEPS + 1:
        raise InputError(f"there are {len(values)} sigmas", f"allowed are at most {MAX_STEPS} steps", "take fewer")
    given = tuple(float(v) for v in values)
    falling = all(a > b for a, b in zip(given, given[1:], strict=False))
    if len(given) < 2 or given[0] > 1.0 or not falling or given[-1]:
        raise InputError(
            f"the sigmas are {', '.join(f'{v:g}' for v in given) or 'empty'}",
            "allowed are at least two values in [0, 1] that fall to exactly 0",
            "use a flow-matching scheduler",
        )
    return given
