"""How long the fuzzers look: seconds in CI, as long as OSTINATO_FUZZ says by hand."""

import os

from hypothesis import HealthCheck, settings


def budget(examples: int) -> settings:
    """Settings for a fuzzer: `examples` times OSTINATO_FUZZ (1), each within 10 s."""
    times = int(os.environ.get("OSTINATO_FUZZ", "1"))
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
    return settings(max_examples=examples * times, deadline=10_000, suppress_health_check=quiet)
