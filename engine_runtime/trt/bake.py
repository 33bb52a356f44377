"""Writes adapters into the weights of a refittable engine, and checks the result before it plays."""

from __future__ import annotations

import copy
import hashlib

import torch
from torch import nn

from ..device.memory import guarded
from ..engines.eager import EagerEngine
from ..engines.factors import Targets
from ..engines.prove import prove
from ..lora.stack import Mix, label, merged
from ..models.loading import Model
from ..registry import registry
from ..stream.sessions import runtime
from .loader import Place, busy, count_change, drop
from .play.engine import TrtEngine
from .play.refit import Refit, Source
from .play.room import MakeRoom
from .play.tensorrt import tensorrt


class _Baking:
    def __init__(self, engine: TrtEngine, refit: Refit) -> None:
        self.engine, self.refit = engine, refit
        self.identity, self.name = engine.identity, engine.name  # as built, without adapters
        self.mix: Mix | None = None  # the adapters it was last returned with
        self._executor, self._open = engine.executor, engine.wake
        engine.wake = self.wake

    def has(self, mix: Mix) -> bool:
        """Return whether exactly these adapters are in its weights."""
        return self.mix is not None and self.engine.identity == self._identity(mix)

    def say(self, mix: Mix) -> None:
        """Set the engine's identity and name to those of its adapters."""
        self.mix, self.engine.identity = mix, self._identity(mix)
        self.engine.name = self.name + (f" with {label(mix)}" if mix else "")

    def wake(self) -> None:
        """Open the engine again and write its adapters again; they passed the check when first written."""
        self._open()
        if self.engine.executor is self._executor:
            return
        self.refit.changed = frozenset()
        try:
            if self.mix:
                self.refit.apply(self.mix, lambda: None)
        except BaseException:
            self.engine.close()
            raise
        self._executor = self.engine.executor

    def _identity(self, mix: Mix) -> str:
        digests = hashlib.sha256("".join(f"{a.digest}:{strength!r};" for a, strength in mix).encode()).hexdigest()[:16]
        return self.identity + (f":{digests}" if mix else "")


class Baked:
    """The engines whose weights were changed in this process, by caller."""

    def __init__(self) -> None:
        self.held: dict[str, _Baking] = {}


def bake(who: str, name: str, place: Place, model: Model, mix: Mix) -> TrtEngine:
    """Open an engine for `who` alone, with exactly these adapters in its weights.

    Args:
        who: key of the caller, as in `Place.open`.
        place: its model is `model`.
        model: the engine was built from its weights.
        mix: adapters read for this model, and their strengths; none gives the engine as it was built.

    Raises:
        EngineFileError, EngineError, InputError, MemoryShortage: as `Place.open` and `Refit.apply`. The engine then has
            its original weights, or is closed where they could not be restored.
    """
    engine = place.open(who, name, alone=True)
    baked = registry.one(Baked).held
    held = baked.get(who)
    if held is None or held.engine is not engine:
        held = baked[who] = _Baking(engine, _refit(engine, model))
    if held.has(mix):
        return engine
    if held.mix is not None:  # the engine that was returned before changes
        count_change(who, name)
    try:
        with busy(engine):
            held.refit.apply(mix, lambda: _check(engine, model, mix, place.make_room))
    except BaseException:
        if not held.refit.changed:
            held.say(())
            held.mix = None
        if engine.executor.engine is None:
            del baked[who]
            drop(who)
        raise
    held.say(mix)
    return engine


def _refit(engine: TrtEngine, model: Model) -> Refit:
    transformer = model.pipe.transformer
    parameters = dict(transformer.named_parameters())  # read at each refit: a host that manages memory may move them
    source = Source(parameters, engine.sidecar.export.get("names", {}), Targets.of(transformer))
    library = tensorrt(engine.flavor.name)
    return Refit(engine, library.flavor, library.errors, source, runtime().lane(engine.device))


def _check(engine: TrtEngine, model: Model, mix: Mix, make_room: MakeRoom | None) -> None:
    """Compare the engine at every corner of every profile with the eager engine that has the same adapters merged."""
    transformer = model.pipe.transformer
    with guarded(
        f"the reference for the check found no room on {engine.device}",
        "a second copy of the decoder must fit beside the engine while it is compared",
        "unload other models",
    ):
        if make_room is not None:
            make_room(sum(weight.numel() for weight in transformer.parameters()) * engine.dtype.itemsize)
        reference: nn.Module = copy.deepcopy(transformer)
        with torch.no_grad():
            for name, value in merged(dict(transformer.named_parameters()), mix, Targets.of(transformer)).items():
                reference.get_parameter(name).copy_(value)
        reference = reference.to(engine.device, engine.dtype)
        eager = EagerEngine(reference, f"{model.identity} with {label(mix)}")
        for profile in engine.profiles:
            prove(engine, eager, profile, seed=0, lane=runtime().lane(engine.device))
