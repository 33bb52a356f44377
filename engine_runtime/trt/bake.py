"""Adapters baked into the weights of a refittable engine, and proven before it plays."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass, field

import torch
from torch import nn

from ..engines import EagerEngine
from ..lora.factors import Targets
from ..lora.stack import Mix, label, merged
from ..memory import guarded
from ..models.loading import Model
from ..runtime import runtime
from .engine import TrtEngine
from .loader import Place, drop, missing
from .prove import prove
from .refit import Refit, Source, check_refittable
from .runtime import tensorrt
from .sidecar import read_sidecar


@dataclass
class _Baked:
    engine: TrtEngine
    refit: Refit
    identity: str = field(init=False)  # with the weights it was built from
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.identity, self.name = self.engine.identity, self.engine.name

    def say(self, mix: Mix) -> None:
        """Let the engine's identity and name tell what is in its weights."""
        digests = hashlib.sha256("".join(f"{a.digest}:{strength!r};" for a, strength in mix).encode()).hexdigest()[:16]
        self.engine.identity = self.identity + (f":{digests}" if mix else "")
        self.engine.name = self.name + (f" with {label(mix)}" if mix else "")


_baked: dict[str, _Baked] = {}


def bake(who: str, name: str, place: Place, model: Model, mix: Mix) -> TrtEngine:
    """An engine of its own with these adapters, and no others, in its weights.

    Args:
        who: opens it, as `Place.open` has it.
        place: its model is `model`.
        model: the engine was built from its weights.
        mix: adapters read for this model, and their strengths; none gives the engine as it was built.

    Raises:
        EngineFileError, EngineError, InputError, MemoryShortage: as `Place.open` and `Refit.apply`; the engine then
            plays no half of an adapter, and is closed where it could not be brought back.
    """
    plan = place.find(name)
    if not plan.exists():
        raise missing(name, place.folders)
    check_refittable(read_sidecar(plan).refittable)
    engine = place.open(who, name, alone=True)
    held = _baked.get(who)
    if held is None or held.engine is not engine:
        held = _baked[who] = _Baked(engine, _refit(engine, model))
    try:
        held.refit.apply(mix, lambda: _check(engine, model, mix))
    except BaseException:
        if not held.refit.changed:
            held.say(())
        if engine.executor.engine is None:
            del _baked[who]
            drop(who)
        raise
    held.say(mix)
    return engine


def _refit(engine: TrtEngine, model: Model) -> Refit:
    transformer = model.pipe.transformer
    parameters = dict(transformer.named_parameters())  # wherever a host that manages memory moves them
    source = Source(parameters, engine.sidecar.export.get("names", {}), Targets.of(transformer))
    library = tensorrt(engine.flavor.name)
    return Refit(engine, library.flavor, library.errors, source, runtime().lane(engine.device))


def _check(engine: TrtEngine, model: Model, mix: Mix) -> None:
    """Compare it with the eager engine on the same adapters, merged, at every corner of every profile."""
    transformer = model.pipe.transformer
    with guarded(
        f"the reference for the check found no room on {engine.device}",
        "a second copy of the decoder must fit beside the engine while it is compared",
        "unload other models",
    ):
        reference: nn.Module = copy.deepcopy(transformer)
        with torch.no_grad():
            for name, value in merged(dict(transformer.named_parameters()), mix, Targets.of(transformer)).items():
                reference.get_parameter(name).copy_(value)
        reference = reference.to(engine.device, engine.dtype)
    eager = EagerEngine(reference, f"{model.identity} with {label(mix)}")
    for profile in engine.profiles:
        prove(engine, eager, profile, seed=0, lane=runtime().lane(engine.device))
