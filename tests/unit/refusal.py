"""How a refusal is judged: one sentence, the right type, and a runtime that plays on."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from ostinato.engine_runtime.config import Sampling
from ostinato.engine_runtime.engines.eager import EagerEngine
from ostinato.engine_runtime.errors import OstinatoError
from ostinato.engine_runtime.stream.request import Condition, Request

from ..helpers import play


def check_sentence(error: OstinatoError) -> None:
    """What was given, what is allowed, what to do: all there, in one sentence."""
    parts = (error.given, error.allowed, error.remedy)
    assert all(part.strip() and not part.endswith(".") for part in parts)
    text = str(error)
    assert all(part in text for part in parts) and text.endswith(".")
    assert "\n" not in text and not re.search(r"[.!?]\s+[A-Z]", text), f"more than one sentence: {text}"


@contextmanager
def refused(engine: EagerEngine, good: Condition, kind: type[OstinatoError], given: str) -> Iterator[None]:
    """The block raises exactly `kind`, well worded, naming `given`; a good request plays on `engine` afterwards."""
    with pytest.raises(kind) as caught:
        yield
    assert type(caught.value) is kind
    check_sentence(caught.value)
    assert given in caught.value.given
    assert bool(play(engine, [Request(good, Sampling(steps=1))], depth=1)[0].isfinite().all())


def with_one(tensor: torch.Tensor, value: float = math.nan) -> torch.Tensor:
    """A copy with one bad value in the middle."""
    broken = tensor.clone()
    broken.view(-1)[broken.numel() // 2] = value
    return broken
