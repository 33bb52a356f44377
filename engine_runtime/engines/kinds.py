"""The engines that run the reference transformer's weights in PyTorch, by name."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

from diffusers import AceStepTransformer1DModel

from ..constants import KINDS, ROWS
from ..errors import check_choice
from .compiled.choice import choose, none_of
from .compiled.engine import CompiledEngine
from .compiled.needs import operations
from .compiled.plain import NARROW
from .contract import limits_of
from .eager import EagerEngine


def make_engine(
    kind: str,
    transformer: AceStepTransformer1DModel,
    identity: str,
    max_rows: int = ROWS,
    ready: Callable[[], None] = lambda: None,
    ops: ModuleType | None = None,
) -> EagerEngine | CompiledEngine:
    """Make an engine of the given kind on these weights; never falls back to another kind.

    Args:
        kind: one of `KINDS`.
        transformer: the reference model, on the device and in the dtype for the engine.
        identity: names the weights.
        max_rows: rows in one execute.
        ready: brings the weights to the device, before a session opens.
        ops: the fused operations; None takes this machine's kernels.

    Raises:
        InputError: for another kind, or rows out of range.
        EngineError: for what this machine lacks.
    """
    check_choice("the kind of engine", kind, KINDS)
    limits = limits_of(max_rows)
    if kind == "eager":
        return EagerEngine(transformer, identity, limits, ready)
    ops = ops or operations(transformer, kind)
    if kind not in NARROW:
        return CompiledEngine(transformer, identity, limits, ready, ops)
    engine = CompiledEngine(transformer, identity, limits, ready, ops, none_of(len(transformer.layers), NARROW[kind]))
    engine.ready()
    try:
        chosen = choose(engine)
    finally:
        engine.rest()
    return CompiledEngine(transformer, identity, limits, ready, ops, chosen)
