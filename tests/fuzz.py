"""The length of the fuzzers' search: half as long in CI, as long as OSTINATO_FUZZ says by hand."""

import os

from hypothesis import HealthCheck, settings


def examples(count: int) -> int:
    """Return how many examples a test looks at: `count` times OSTINATO_FUZZ (1), and half of it in CI (0.5)."""
    times = float(os.environ.get("OSTINATO_FUZZ") or (0.5 if os.environ.get("CI") else 1.0))
    return max(1, round(count * times))


def budget(count: int) -> settings:
    """Settings for a fuzzer: `count` examples, each within 10 s."""
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
    return settings(max_examples=examples(count), deadline=10_000, suppress_health_check=quiet)
