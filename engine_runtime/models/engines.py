"""Engines on a loaded model's transformer; any but eager has proven itself before it plays."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from ..constants import KINDS, ROWS
from ..device.memory import guarded
from ..engines.compiled.engine import CompiledEngine
from ..engines.contract import limits_of
from ..engines.eager import EagerEngine
from ..engines.kinds import make_engine
from ..engines.profiles import Profile, Span
from ..engines.prove import prove
from .loading import ROOM, Model

_PROVEN = Profile(Span(1, 2, 4), Span(26, 250, 750), Span(9, 64, 128))  # what an engine is checked at


def eager_engine(model: Model, max_rows: int = ROWS) -> EagerEngine:
    """Make the eager engine on this model's transformer.

    Args:
        model: the loaded pipeline.
        max_rows: rows it takes in one execute, which bounds the memory of a tick.
    """
    limits = limits_of(max_rows)
    model.ready()
    engine = EagerEngine(model.pipe.transformer, model.identity, limits, model.ready)
    engine.recipe, engine.model = _recipe(model, engine, max_rows), model.id
    return engine


def torch_engine(
    model: Model, kind: str = KINDS[0], max_rows: int = ROWS, ops: ModuleType | None = None
) -> EagerEngine | CompiledEngine:
    """Make an engine on this model's transformer; any kind but eager is first checked against eager.

    Args:
        model: the loaded pipeline.
        kind: one of `engines.kinds.KINDS`.
        max_rows: rows it takes in one execute.
        ops: as in `make_engine`.

    Raises:
        InputError: for another kind.
        EngineError: for what this machine lacks, or `Refused` with the figures of a check that failed.
        MemoryShortage: when the device has no room for it.
    """
    if kind == KINDS[0]:
        return eager_engine(model, max_rows)
    model.ready()
    with guarded(f"the {kind} engine found no room on {model.device}", *ROOM):
        engine = make_engine(kind, model.pipe.transformer, model.identity, max_rows, model.ready, ops)
        assert isinstance(engine, CompiledEngine)
        reference = EagerEngine(model.pipe.transformer, model.identity, engine.limits, model.ready)
        try:
            engine.proof = prove(engine, reference, _PROVEN, seed=0, products=engine.products).summary()
        finally:
            engine.rest()
    engine.recipe, engine.model = _recipe(model, engine, max_rows) | {"kind": kind}, model.id
    return engine


def _recipe(model: Model, engine: EagerEngine | CompiledEngine, max_rows: int) -> dict[str, Any]:
    return {
        "model": model.source,
        "precision": str(engine.dtype).removeprefix("torch."),
        "device": engine.device.type,
        "max_rows": max_rows,
        **({"given": given} if (given := model.given.named()) else {}),
    }
