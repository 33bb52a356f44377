"""What a ring is rebuilt with for a request that needs more than the session asked for."""

from __future__ import annotations

import pytest
from ostinato.engine_runtime.config import StreamConfig
from ostinato.engine_runtime.stream.fit import widened
from ostinato.engine_runtime.stream.request import Request

from ...helpers import made_up


@pytest.mark.parametrize(("conditions", "tokens"), [(1, 1), (3, 64)])
def test_a_ring_keeps_what_was_asked_for_and_gets_what_is_needed(conditions: int, tokens: int) -> None:
    config = widened(StreamConfig(conditions=conditions, tokens=tokens), Request(made_up(1, 5, tokens=9)), "full")
    assert (config.conditions, config.tokens, config.guidance) == (conditions, max(9, tokens), "full")
