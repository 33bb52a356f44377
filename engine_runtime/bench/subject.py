"""The engines that are measured: by kind or from a plan, and the references beside them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import AceStepTransformer1DModel
from torch import Tensor

from ..engines.compiled.plain import NARROW
from ..engines.contract import Engine, Rows
from ..engines.eager import EagerEngine
from ..engines.kinds import KINDS, make_engine
from ..errors import InputError, check_choice
from ..models.loading import Model, load
from ..models.sized import PLANTED, SIZES, sized_decoder, sized_model
from ..trt.files.folder import engines_home
from ..trt.files.sidecar import read_sidecar
from ..trt.loader import Place, drop

GRAPH = "-graph"
REFERENCES = ("eager", "compile", f"eager{GRAPH}", f"compile{GRAPH}")
TINY = "tiny"  # a preset, and a size as well: that has random weights
ALL_SIZES = (*SIZES, *PLANTED, TINY)
SHAPES = 64  # that `torch.compile` may make kernels for
PLAN = ".plan"


class Source:
    """The source of weights: a model by its name, or random ones of a size.

    Args:
        model, size: one of them, or neither for the tiny preset.

    Attributes:
        name: what was given.
    """

    def __init__(self, model: str | None, size: str | None, device: torch.device, dtype: torch.dtype) -> None:
        if model and size:
            raise InputError(f"the model is {model} and the size {size}", "one of them is allowed", "leave one out")
        if size is not None:
            check_choice("the size", size, ALL_SIZES)
        self.name, self.device, self.dtype = model or size or TINY, device, dtype
        self._sized = size in SIZES or size in PLANTED
        self._files = "random" if size else self.name
        self._loaded = None if self._sized else load(self._files, device, dtype).pipe.transformer
        with torch.device("meta"):
            self.config: Mapping[str, Any] = (
                self._loaded or AceStepTransformer1DModel(**SIZES[PLANTED.get(self.name, self.name)])
            ).config

    def transformer(self) -> AceStepTransformer1DModel:
        """Return a transformer with weights of its own, because an engine may take them over."""
        if self._loaded is None:
            return sized_decoder(self.name, self.dtype, self.device)
        return copy.deepcopy(self._loaded)

    def model(self) -> Model:
        """Load a model that encodes prompts and decodes latents; what plays is `transformer`."""
        if self._sized:
            return sized_model(self.name, self.dtype, self.device)
        return load(self._files, self.device, self.dtype)


def source_for(
    engines: tuple[str, ...], model: str | None, size: str | None, device: torch.device, dtype: torch.dtype
) -> Source:
    """Return the named source; without a name, the model that the first plan among the engines was built from."""
    plans = [_plan(choice) for choice in engines if choice not in KINDS]
    if plans and not (model or size):
        spec = read_sidecar(plans[0]).spec
        model, size = spec.model, spec.size
        if spec.onnx:
            raise InputError(
                f"{plans[0].stem} was built from an exported graph", "its model is needed", "give --model or --size"
            )
    return Source(model, size, device, dtype)


@contextmanager
def opened(choice: str, source: Source) -> Iterator[Engine]:
    """Open an engine for the length of a block.

    Args:
        choice: one of `KINDS`, on weights of its own; or a TensorRT engine's file, or its name in the engines folder.

    Raises:
        InputError: for anything else.
        OstinatoError: as `make_engine` and `Place.open`.
    """
    if choice in KINDS:
        yield make_engine(choice, source.transformer(), source.name)
        return
    plan, who = _plan(choice), f"bench {choice}"
    try:
        yield Place([plan.parent]).open(who, plan.stem)
    finally:
        drop(who)


def _plan(choice: str) -> Path:
    plan = Path(choice).absolute() if choice.endswith(PLAN) else engines_home().absolute() / f"{choice}{PLAN}"
    if not plan.exists():
        raise InputError(
            f"the engine is {choice!r}",
            f"allowed are {', '.join(KINDS)} and TensorRT engines",
            "choose one that is there",
        )
    return plan


def precision_of(choice: str, engine: Engine) -> str:
    """Return the precision of an engine's matrix products."""
    names = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
    return choice if choice in NARROW else names[engine.dtype]


class Compiled(EagerEngine):
    """The reference under `torch.compile`, with kernels made for every shape."""

    def __init__(self, transformer: AceStepTransformer1DModel, identity: str, **options: Any) -> None:
        super().__init__(transformer, identity)
        self.name, self.wide = f"compile, {self.name}", True  # one thread may compile at a time
        torch._dynamo.config.cache_size_limit = SHAPES  # past it, torch would go on uncompiled
        self._compiled = torch.compile(self.decoder, dynamic=False, **options)
        self._seen = set[int]()

    def _decode(self, rows: Rows) -> Tensor:
        frames = rows.hidden_states.shape[1]
        if frames not in self._seen:  # the decoder makes its tables of this length, which `torch.compile` is not to see
            self._seen.add(frames)
            super()._decode(rows)
        fed = rows.hidden_states, rows.timestep, rows.encoder_hidden_states, rows.encoder_attention_mask
        return self._compiled(*fed, rows.context_latents)


class Reference(NamedTuple):
    """A reference measured beside an engine, replayed as CUDA graphs or not."""

    engine: EagerEngine
    captured: bool


def references(names: tuple[str, ...], source: Source, **options: Any) -> dict[str, Reference]:
    """Make the references, on one set of weights. Without CUDA graphs a slow host is measured with them.

    Args:
        names: of `REFERENCES`.
        options: further ones of `torch.compile`.
    """
    for name in names:
        check_choice("the reference", name, REFERENCES)
    if not names:
        return {}
    kinds: dict[str, Callable[..., EagerEngine]] = {"eager": EagerEngine, "compile": partial(Compiled, **options)}
    transformer = source.transformer()
    wanted = {name: name.removesuffix(GRAPH) for name in names}
    engines = {kind: kinds[kind](transformer, source.name) for kind in dict.fromkeys(wanted.values())}
    return {name: Reference(engines[kind], name != kind) for name, kind in wanted.items()}
