"""Merges adapters into the weights of a refittable engine, in place.

Every value is computed from the pristine weights, so no earlier adapter leaves a trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ...device.lane import Lane
from ...engines.factors import Targets
from ...errors import EngineError
from ...lora.stack import Mix, label, merged
from ..library.flavor import Flavor, to_torch
from ..library.messages import Errors, failed, logger, recorder

if TYPE_CHECKING:
    import tensorrt as trt


class Pausable(Protocol):
    """A `TrtEngine`, or its executor."""

    device: torch.device

    def paused(self) -> AbstractContextManager[trt.ICudaEngine]:
        """Yield the library's engine with nothing running and captured graphs dropped."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Source:
    """The weights that an engine was built from.

    Attributes:
        pristine: the model's parameters by name.
        names: of the export record: `{initializer: {"param": ..., "transposed": ...}}`; TensorRT's weights have the
            initializers' names.
        targets: the layers that adapters may change.
    """

    pristine: Mapping[str, Tensor]
    names: Mapping[str, Mapping[str, Any]]
    targets: Targets


class Refit:
    """Changes the weights of one engine. Not for use in a tick: it waits for the device, and ticks wait for it.

    Args:
        engine: refittable.
        flavor, errors: its library, and the errors that the library reports.
        source: the weights it was built from.
        lane: the stream that the engine plays on.

    Attributes:
        changed: parameters that are not pristine now.
        label: the adapters that are merged now.
    """

    def __init__(self, engine: Pausable, flavor: Flavor, errors: Errors, source: Source, lane: Lane) -> None:
        self._engine, self._flavor, self._errors = engine, flavor, errors
        self._source, self._lane = source, lane
        self._logger, self._recorder = logger(flavor), recorder(flavor, errors)  # the library holds no reference
        self.changed: frozenset[str] = frozenset()
        self.label = label(())

    def apply(self, mix: Mix, prove: Callable[[], object]) -> None:
        """Merge exactly these adapters into the weights; none gives the pristine engine.

        Args:
            mix: adapters and their strengths.
            prove: compares the engine with a reference that has the same adapters, and raises where they differ. It
                runs before the next tick.

        Raises:
            InputError: as `stack`.
            EngineError: where a weight cannot be refitted, with its name, and the engine keeps its adapters; or where
                the library fails half-way: the engine then has its pristine weights, or is closed where they could not
                be restored.
            Exception: whatever `prove` raises, after the pristine weights are restored.
        """
        values = merged(self._source.pristine, mix, self._source.targets)
        with self._lane.lock, self._lane.use():
            self._write(values, self.changed | values.keys(), what=label(mix))
            self.changed, self.label = frozenset(values), label(mix)
            try:
                prove()
            except BaseException:
                self._restore(values.keys(), what=label(mix))
                raise

    def _write(self, values: Mapping[str, Tensor], wanted: Iterable[str], what: str) -> None:
        with self._engine.paused() as engine:
            filled = self._filled(engine, values, wanted)
            error = self._run(filled, what)
        if error is not None:  # some of the weights may be written
            self._restore(filled.params, what)
            raise error

    def _restore(self, wanted: Iterable[str], what: str) -> None:
        """Restore the pristine weights, or close the engine: half an adapter never plays.

        Raises:
            EngineError: where they could not be restored.
        """
        try:
            with self._engine.paused() as engine:
                error = self._run(self._filled(engine, {}, {*wanted, *self.changed}), "the pristine weights")
        except EngineError as other:
            error = other
        self.changed, self.label = frozenset(), label(())
        if error is not None:
            self._engine.close()
            raise EngineError(
                f"{what} could not be refitted, and the pristine weights could not be brought back",
                "an engine with half an adapter never plays",
                "load the engine again",
                str(error),
            ) from error

    def _filled(self, engine: trt.ICudaEngine, values: Mapping[str, Tensor], wanted: Iterable[str]) -> _Filled:
        """Prepare a refitter with the wanted parameters and those coupled with them, pristine except for `values`.

        Raises:
            EngineError: for a weight that cannot be refitted.
        """
        check_refittable(engine.refittable)
        filled = _Filled(self._flavor.module.Refitter(engine, self._logger))
        filled.refitter.error_recorder = self._recorder
        initializers = {entry["param"]: name for name, entry in self._source.names.items()}
        own, wanted = set(filled.refitter.get_all_weights()), sorted(set(wanted))
        if fixed := [param for param in wanted if initializers.get(param) not in own]:
            raise _cannot(fixed)
        coming = [initializers[param] for param in wanted]
        while coming:
            for name in coming:
                if name not in self._source.names or name in filled.names:
                    raise _cannot([name or "one without a name, coupled with others"])
                self._set(filled, name, values)
            coming = list(filled.refitter.get_missing_weights())
        return filled

    def _set(self, filled: _Filled, name: str, values: Mapping[str, Tensor]) -> None:
        module, entry = self._flavor.module, self._source.names[name]
        param = entry["param"]
        value = values[param] if param in values else self._source.pristine[param].detach()
        prototype = filled.refitter.get_weights_prototype(name)
        value = (value.T if entry["transposed"] else value).to("cpu", to_torch(prototype.dtype)).contiguous()
        if prototype.size != value.numel():
            raise _cannot([f"{param}, which has {value.numel()} values here and {prototype.size} in the engine"])
        filled.names[name], filled.params[param] = value, name
        weights = module.Weights(prototype.dtype, value.data_ptr(), value.numel())
        if not filled.refitter.set_named_weights(name, weights, module.TensorLocation.HOST):
            raise failed(f"set_named_weights({name}) for {param}", self._errors)

    def _run(self, filled: _Filled, what: str) -> EngineError | None:
        """Refit, and wait until it is done; returns the error, or None where all weights are written."""
        cuda = self._engine.device.type == "cuda"
        stream = torch.cuda.current_stream(self._engine.device) if cuda else None
        detail = ""
        try:
            done = filled.refitter.refit_cuda_engine_async(stream.cuda_stream if stream else 0)
        except RuntimeError as error:  # some failures raise, most return False
            done, detail = False, str(error)
        if stream is not None:
            stream.synchronize()
        return None if done else failed(f"refit with {what}", self._errors, detail)


@dataclass
class _Filled:
    """A refitter and the memory whose addresses it holds without references."""

    refitter: trt.Refitter
    names: dict[str, Tensor] = field(default_factory=dict)  # values by initializer
    params: dict[str, str] = field(default_factory=dict)  # initializer by parameter


def check_refittable(refittable: bool) -> None:
    """Raise `EngineError` for an engine whose weights cannot be exchanged."""
    if not refittable:
        raise EngineError(
            "the engine was not built refittable",
            "its weights stay as they are",
            "build it with refit allowed, or with LoRA inputs, which need no refit",
        )


def _cannot(names: list[str]) -> EngineError:
    listed = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
    return EngineError(
        f"{len(names)} weights cannot be refitted ({listed})",
        "the engine must know each of them by its own name",
        "play the adapter on an engine with LoRA inputs, or build the engine again",
    )
