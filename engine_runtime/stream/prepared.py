"""Requests with their tensors on the device, so that taking a slot costs only copies there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..controls.knobs import KNOBS
from ..controls.values import Value, is_curve
from ..device.lane import Lane
from ..engines.contract import Engine
from ..errors import InputError
from ..numerics.steps import start
from .knob_state import column, to_device
from .request import Condition, Request

OWN = {name: knob.overrides for name, knob in KNOBS.items() if knob.overrides}  # knob: the request's own field


def noise(seed: int, frames: int, channels: int) -> Tensor:
    """Draw starting noise `[T, C]` float32, on the CPU as `[1, C, T]`: ComfyUI's layout, so that seeds agree."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, channels, frames, generator=generator)[0].T.contiguous()


@dataclass(frozen=True, eq=False)
class Prepared:
    """A request, ready to be written into a ring.

    Attributes:
        latent: `[T, C]` float32, the state at the first sigma.
        noise: `[T, C]` float32, the starting noise.
        source, mask, target: `[T, C]` float32 or None.
        positive: tokens `[L, H]` and context `[T, context]` of each condition.
        negative: tokens and context of the negative row.
        weights: share of each condition, a number or `[T, 1]`.
        guidance: the request's own scale, momentum and rescale, a number or `[T, 1]`, by the knobs' names.
        neutral: names in `guidance` whose value has no effect.
        ready: event after the work that made them.
    """

    request: Request
    latent: Tensor
    noise: Tensor
    source: Tensor | None
    mask: Tensor | None
    target: Tensor | None
    positive: list[tuple[Tensor, Tensor]]
    negative: tuple[Tensor, Tensor]
    weights: list[Value]
    guidance: dict[str, Value]
    neutral: frozenset[str]
    ready: torch.cuda.Event | None

    def tensors(self) -> list[Tensor]:
        """List the tensors that the lane will read."""
        rows = [tensor for row in (*self.positive, self.negative) for tensor in row]
        maybe = [self.source, self.mask, self.target, *self.weights, *self.guidance.values()]
        return [self.latent, self.noise, *rows, *(m for m in maybe if isinstance(m, Tensor))]

    @classmethod
    def prepare(cls, request: Request, engine: Engine, lane: Lane) -> Prepared:
        """Draw the noise and copy what is not on the device, on the caller's current stream.

        Raises:
            InputError: for a condition of another model.
            EngineLimitError: for more frames or tokens than the engine takes.
        """
        device = engine.device
        if request.spec != engine.spec:
            raise InputError(
                f"the request is for {request.spec}",
                f"the engine plays {engine.spec}",
                "encode the prompt with the model that the engine was made from",
            )
        _check_models(request, engine)
        engine.limits.check(1, request.frames, request.tokens)
        if request.first.tokens.shape[1] != engine.width:
            raise InputError(
                f"the condition is {request.first.tokens.shape[1]} wide",
                f"this engine's model takes {engine.width}",
                "encode the prompt with the model that the engine was made from",
            )

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else to_device(tensor, device)

        def value(given: Value) -> Value:
            return to_device(column(given), device) if is_curve(given) else given

        first = request.noise
        if first is None:
            first = noise(request.sampling.seed, request.frames, request.spec.channels)
        first = to_device(first, device)
        source = moved(request.source)
        share = None if request.initial_noise is None else value(request.initial_noise)
        return cls(
            request=request,
            latent=start(first, source, request.sigmas[0], share),
            noise=first,
            source=source,
            mask=moved(request.mask) if request.masked else None,
            target=None if request.target is None else moved(request.target.latent),
            positive=[(p.condition.tokens.to(device), p.condition.context.to(device)) for p in request.parts],
            negative=_negative(request.first, lambda tensor: tensor.to(device)),
            weights=[value(part.weight) for part in request.parts],
            guidance={name: value(getattr(request.guidance, own)) for name, own in OWN.items()},
            neutral=frozenset(
                name for name, own in OWN.items() if KNOBS[name].is_neutral(getattr(request.guidance, own))
            ),
            ready=lane.mark(),
        )


def _negative(condition: Condition, move: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    tokens = condition.tokens if condition.null_tokens is None else condition.null_tokens
    context = condition.context if condition.null_context is None else condition.null_context
    return move(tokens), move(context)


def _check_models(request: Request, engine: Engine) -> None:
    for made_by in (part.condition.model for part in request.parts):
        if made_by is not None and engine.model is not None and made_by.is_other(engine.model):
            raise InputError(
                f"the condition was made by the model {made_by.name}",
                f"the engine plays {engine.model.name}, which reads tokens of its own",
                "connect Encode Prompt and the engine to the same model",
            )
