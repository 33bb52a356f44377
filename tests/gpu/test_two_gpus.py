"""A session on each of two GPUs in one process, at the same time: the bits of each alone, memory on its own card."""

from __future__ import annotations

import copy
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from ostinato.engine_runtime.audio.decode import decode
from ostinato.engine_runtime.audio.live_vae import LiveVae
from ostinato.engine_runtime.config import Guidance, Sampling, StreamConfig
from ostinato.engine_runtime.engines.contract import Engine
from ostinato.engine_runtime.engines.eager import EagerEngine
from ostinato.engine_runtime.engines.kinds import KINDS, make_engine
from ostinato.engine_runtime.engines.profiles import Profile, Span
from ostinato.engine_runtime.errors import EngineError
from ostinato.engine_runtime.lora.stack import Mix, stack
from ostinato.engine_runtime.models.engines import torch_engine
from ostinato.engine_runtime.models.loading import Model, load
from ostinato.engine_runtime.stream.request import Condition, Request
from ostinato.engine_runtime.stream.sessions import runtime
from torch import Tensor

from .. import trt_stand_in as stand_in
from ..adapters import made_adapter
from ..helpers import drawn, made_up

CARDS = [torch.device("cuda", 0), torch.device("cuda", 1)]
FOUND = torch.cuda.device_count()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(FOUND < len(CARDS), reason=f"two GPUs are needed; PyTorch sees {FOUND}"),
]
FRAMES, REQUESTS, ROUNDS = 50, 10, 2
STAND_IN = "tensorrt stand-in"
WIDE = Profile(Span(1, 8, 16), Span(2, FRAMES, 60), Span(1, 16, 512))
PATIENCE = 300.0  # seconds until a thread that hangs fails the test
SPARE = 16 << 20  # bytes that the driver may take for itself
_names = itertools.count()


@pytest.fixture(scope="module")
def models(cache: None) -> list[Model]:
    return [load("random-base", card, torch.float32) for card in CARDS]


def engine_of(kind: str, model: Model) -> Engine:
    """Make an engine of its own weights, in bfloat16 but for the stand-in."""
    transformer = copy.deepcopy(model.pipe.transformer)
    if kind == STAND_IN:
        return stand_in.load(stand_in.make(EagerEngine(transformer, kind), WIDE, label=f"{kind} {next(_names)}"))
    try:
        return make_engine(kind, transformer.to(torch.bfloat16), "two GPUs")
    except EngineError as error:
        pytest.skip(str(error))


def condition(engine: Engine, seed: int) -> Condition:
    made = made_up(seed, FRAMES, 5 + seed % 7, width=engine.width)
    assert made.null_tokens is not None
    return Condition(*(x.to(engine.device) for x in (made.tokens, made.context, made.null_tokens)))


def played(engine: Engine, captured: bool, mix: Mix = ()) -> list[Tensor]:
    """Play guided requests under a knob that moves, in a session of their own; the latents on the CPU, in order."""
    config = StreamConfig(4, "full", queue=REQUESTS, captured=captured)
    with runtime().playing(f"two GPUs {next(_names)}", engine, config) as session:
        if mix:
            assert engine.targets is not None
            session.adapt(stack(mix, engine.targets, engine.dtype, engine.device, session.lane))
        requests = [
            Request(condition(engine, i), Sampling(4 + i % 3, seed=i, solver=("ode", "sde")[i % 2]), Guidance(3.0))
            for i in range(REQUESTS)
        ]
        scales = itertools.cycle((1.0, 0.9, torch.linspace(0.8, 1.2, FRAMES)))
        done = {
            id(f.request): f.take().cpu()
            for f in session.play(requests, lambda: session.set(velocity_scale=next(scales)))
        }
    return [done[id(request)] for request in requests]


@contextmanager
def on_the_other(card: torch.device) -> Iterator[None]:
    """Make the other card the thread's current one; it must still be that when the block ends."""
    (other,) = (one for one in CARDS if one != card)
    before = torch.cuda.current_device()
    torch.cuda.set_device(other)
    try:
        yield
        assert torch.cuda.current_device() == other.index, "the thread's current device was changed"
        for one in CARDS:
            stream, default = torch.cuda.current_stream(one), torch.cuda.default_stream(one)
            assert stream == default, f"the thread's current stream on {one} was changed"
    finally:
        torch.cuda.set_device(before)


def together(calls: list[Callable[[], Any]]) -> list[Any]:
    """Make each call in a thread of its own, whose current device is the other card, all at the same time."""
    results: list[Any] = [None] * len(calls)
    errors: list[BaseException] = []
    start = threading.Barrier(len(calls), timeout=PATIENCE)

    def run(i: int) -> None:
        try:
            with on_the_other(CARDS[i]):
                start.wait()
                results[i] = calls[i]()
        except BaseException as error:
            errors.append(error)
            start.abort()

    threads = [threading.Thread(target=run, args=(i,), name=f"card {i}", daemon=True) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads), f"not done within {PATIENCE:g} s"
    return results


def check_equal(got: list[Tensor], want: list[Tensor]) -> None:
    assert len(got) == len(want) and all(bool(latent.isfinite().all()) for latent in want)
    assert len({latent.numpy().tobytes() for latent in want}) == len(want), "each request makes music of its own"
    for i, (one, other) in enumerate(zip(got, want, strict=True)):
        assert torch.equal(one, other), f"latent {i} differs by {(one - other).abs().max().item():g}"


@pytest.mark.parametrize("captured", [True, False], ids=["captured", "plain"])
@pytest.mark.parametrize("kind", [*KINDS, STAND_IN])
def test_both_at_once_make_what_each_makes_alone(models: list[Model], kind: str, captured: bool) -> None:
    engines = [engine_of(kind, model) for model in models]
    alone = []
    for card, engine in zip(CARDS, engines, strict=True):
        with on_the_other(card):
            alone.append(played(engine, captured))
    for _ in range(ROUNDS):
        both = together([partial(played, engine, captured) for engine in engines])
        for got, want in zip(both, alone, strict=True):
            check_equal(got, want)


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_go_to_their_own_card(models: list[Model], kind: str, tmp_path: Path) -> None:
    engines = [engine_of(kind, model) for model in models]
    assert engines[0].targets is not None
    mix, alone = [(made_adapter(tmp_path, engines[0].targets, 4, seed=1), 0.7)], []
    for card, engine in zip(CARDS, engines, strict=True):
        with on_the_other(card):
            alone.append(played(engine, True, mix))
            assert not torch.equal(alone[-1][0], played(engine, True)[0]), "the adapter is not heard"
    both = together([partial(played, engine, True, mix) for engine in engines])
    for got, want in zip(both, alone, strict=True):
        check_equal(got, want)


def taken(card: torch.device) -> tuple[int, int]:
    """Count the tensors that PyTorch has ever made on a card, and the blocks it has taken of the driver."""
    figures = torch.cuda.memory_stats(card)
    return figures["allocation.all.allocated"], figures["num_device_alloc"]


@pytest.mark.parametrize("kind", [*KINDS, STAND_IN])
@pytest.mark.parametrize("place", range(len(CARDS)))
def test_memory_is_taken_on_the_own_card_alone(models: list[Model], kind: str, place: int) -> None:
    """From the making of the engine to the last latent, while the other card is the current one."""
    own, other = CARDS[place], CARDS[1 - place]
    for card in CARDS:
        torch.cuda.synchronize(card)
    before, mine, free = taken(other), taken(own), torch.cuda.mem_get_info(other)[0]
    with on_the_other(own):
        latents = played(engine_of(kind, models[place]), True)
    for card in CARDS:
        torch.cuda.synchronize(card)
    assert len(latents) == REQUESTS and taken(own)[0] > mine[0]
    assert taken(other) == before, f"tensors were made on {other}"
    assert free - torch.cuda.mem_get_info(other)[0] < SPARE, f"the driver took memory on {other}"


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("place", range(len(CARDS)))
def test_an_engine_proves_itself_on_its_own_card(models: list[Model], kind: str, place: int) -> None:
    engine_of(kind, models[place])  # skips where this machine lacks what the kind needs
    with on_the_other(CARDS[place]):
        engine = torch_engine(load("random-base", CARDS[place], torch.bfloat16), kind)
    assert engine.device == CARDS[place] and torch.cuda.get_device_name(CARDS[place]) in engine.summary()


def test_live_decoders_on_both(models: list[Model]) -> None:
    """Their windows are captured once and replayed in other threads; the bits stay."""
    decoders = [LiveVae(model.pipe.vae) for model in models]
    clips = [drawn(seed, 1, FRAMES, 64) for seed in range(4)]

    def decoded(place: int) -> list[Tensor]:
        return [decode(decoders[place], clip.to(CARDS[place])).cpu() for clip in clips for _ in range(3)]

    alone = []
    for place, card in enumerate(CARDS):
        with on_the_other(card):
            decoded(place)  # tries kernels, then captures
            alone.append(decoded(place))
    for _ in range(ROUNDS):
        both = together([partial(decoded, place) for place in range(len(CARDS))])
        for got, want in zip(both, alone, strict=True):
            assert len(got) == 12 and all(map(torch.equal, got, want))
