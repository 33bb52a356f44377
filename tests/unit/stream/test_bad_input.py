"""A wrong value gets one sentence: what was given, what is allowed, what to do. And the runtime plays on."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from ostinato.engine_runtime.audio.decode import decode, decode_clips
from ostinato.engine_runtime.config import Guidance, Sampling, StreamConfig
from ostinato.engine_runtime.engines.contract import Limits
from ostinato.engine_runtime.engines.eager import EagerEngine
from ostinato.engine_runtime.errors import EngineLimitError, InputError, OstinatoError
from ostinato.engine_runtime.models.conditioning import encode_prompt
from ostinato.engine_runtime.models.engines import eager_engine
from ostinato.engine_runtime.models.loading import pick_device, pick_dtype
from ostinato.engine_runtime.models.prompt import Prompt
from ostinato.engine_runtime.spec import ACE_STEP
from ostinato.engine_runtime.stream.request import Condition, Request
from ostinato.engine_runtime.takes.render import render, take_batch
from ostinato.nodes.shared import layout

from ...helpers import play
from ..refusal import refused, with_one

NAN, INF = math.nan, math.inf
FRAMES = 10


@pytest.fixture(scope="module")
def kit(turbo, base, conditions) -> SimpleNamespace:
    engine = eager_engine(turbo)
    (good,) = conditions(turbo, FRAMES, 1)
    return SimpleNamespace(
        model=turbo,
        engine=engine,
        good=good,
        guided=conditions(base, FRAMES, 1)[0],
        latent=torch.zeros(FRAMES, 64),
        small=EagerEngine(turbo.pipe.transformer, "small", Limits(2, 2 * FRAMES, 150)),
    )


@pytest.fixture(scope="module")
def refuses(kit) -> Callable:
    return partial(refused, kit.engine, kit.good)


VALUES = {
    Sampling: {
        "steps": (0, -1, NAN, INF, 10**6),
        "shift": (0.0, -1.0, NAN, 1e9),
        "denoise": (-0.1, NAN, 1.1, INF),
        "seed": (-1, 2**64, 10**400, NAN),
    },
    Guidance: {
        "scale": (-1.0, NAN, INF, 101.0),
        "start": (-0.1, 1.1, NAN),
        "end": (-0.1, 1.1, NAN),
        "momentum": (-1.1, 1.1, NAN),
        "eta": (-0.1, 1.1, NAN),
        "norm_limit": (0.0, -1.0, NAN, INF),
        "every": (0, -1, 1.5, NAN, 1001),
    },
    StreamConfig: {"depth": (0, -1, 9, NAN), "queue": (0, -1, 10**9, NAN), "tokens": (-1, 10**9, NAN)},
    Prompt: {
        "seconds": (0.0, -1.0, NAN, INF, 601.0, 1e30),
        "bpm": (-1, 1001, NAN),
        "repaint_start": (-1.0, NAN, 1e9),
        "repaint_end": (-1.0, NAN, 1e9),
        "task": ("", "extend"),
        "tags": ("", " \n\t"),
    },
}
FLAT = [(kind, name, value) for kind, names in VALUES.items() for name, values in names.items() for value in values]


@pytest.mark.parametrize(("kind", "name", "value"), FLAT, ids=lambda v: getattr(v, "__name__", str(v)[:9]))
def test_a_value_out_of_range(refuses, kind: type, name: str, value: object) -> None:
    needed = {"tags": "piano"} if kind is Prompt else {}
    with refuses(InputError, name.replace("_", " ")):
        kind(**(needed | {name: value}))


def test_a_large_seed_is_named_in_full(refuses) -> None:
    with refuses(InputError, str(2**64)):
        Sampling(seed=2**64)


def prompted(kit, source=None, timbre=None, **fields):
    return encode_prompt(kit.model, Prompt(**({"tags": "piano", "seconds": 0.4} | fields)), source, timbre)


def samples(*shape: int, **more) -> dict:
    return {"samples": torch.zeros(shape), **more}


def submit(kit, condition: Condition, engine=None, depth: int = 1, **fields):
    return play(engine or kit.engine, [Request(condition, Sampling(steps=1), **fields)], depth=depth)


CASES: dict[str, tuple[type[OstinatoError], str, Callable]] = {
    "guidance ends before it starts": (InputError, "guidance", lambda k: Guidance(start=0.6, end=0.4)),
    "repaint ends before it starts": (InputError, "repaint", lambda k: Prompt("p", repaint_start=2, repaint_end=1)),
    "window too long": (InputError, "seconds", lambda k: ACE_STEP.frames_of(601)),
    "max rows 0": (InputError, "max rows", lambda k: eager_engine(k.model, 0)),
    "max rows 65": (InputError, "max rows", lambda k: eager_engine(k.model, 65)),
    "condition NaN": (InputError, "tokens", lambda k: Condition(with_one(k.good.tokens), k.good.context)),
    "context infinite": (InputError, "context", lambda k: Condition(k.good.tokens, with_one(k.good.context, INF))),
    "context width": (InputError, "context", lambda k: Condition(k.good.tokens, k.good.context[:, :64])),
    "no tokens": (InputError, "0 tokens", lambda k: Condition(k.good.tokens[:0], k.good.context)),
    "no frames": (InputError, "0 frames", lambda k: Condition(k.good.tokens, k.good.context[:0])),
    "null NaN": (InputError, "null", lambda k: Condition(k.good.tokens, k.good.context, with_one(k.good.tokens[:1]))),
    "null width": (InputError, "null", lambda k: Condition(k.good.tokens, k.good.context, torch.zeros(1, 1))),
    "noise NaN": (InputError, "noise", lambda k: Request(k.good, noise=with_one(k.latent))),
    "noise infinite": (InputError, "noise", lambda k: Request(k.good, noise=with_one(k.latent, -INF))),
    "noise length": (InputError, "noise", lambda k: Request(k.good, noise=k.latent[1:])),
    "noise width": (InputError, "noise", lambda k: Request(k.good, noise=k.latent[:, 1:])),
    "source NaN": (InputError, "source", lambda k: Request(k.good, source=with_one(k.latent))),
    "source length": (InputError, "source", lambda k: Request(k.good, source=torch.zeros(FRAMES + 1, 64))),
    "source batch": (InputError, "source", lambda k: Request(k.good, source=k.latent[None])),
    "schedule empty": (InputError, "sigmas", lambda k: Request(k.good, schedule=())),
    "schedule of one": (InputError, "sigmas", lambda k: Request(k.good, schedule=(1.0,))),
    "schedule NaN": (InputError, "sigmas", lambda k: Request(k.good, schedule=(NAN, 0.0))),
    "schedule rising": (InputError, "sigmas", lambda k: Request(k.good, schedule=(1.0, 0.2, 0.5, 0.0))),
    "denoise without a source": (InputError, "sigma", lambda k: Request(k.good, Sampling(denoise=0.5))),
    "guidance on turbo": (InputError, "guidance", lambda k: Request(k.good, guidance=Guidance())),
    "sources and count": (InputError, "2 sources", lambda k: take_batch(k.good, Sampling(), 3, 1, None, [0, 0])),
    "count 0": (InputError, "count", lambda k: take_batch(k.good, Sampling(), 0, 1)),
    "nothing to render": (InputError, "requests", lambda k: render("r", k.engine, [])),
    "the same request twice": (InputError, "request", lambda k: render("r", k.engine, [Request(k.good)] * 2)),
    "cover without a source": (InputError, "cover", lambda k: prompted(k, task="cover")),
    "repaint without a source": (InputError, "repaint", lambda k: prompted(k, task="repaint")),
    "repaint after the source": (
        InputError,
        "from 0.4 to 0.4 s",
        lambda k: prompted(k, k.latent, task="repaint", repaint_start=0.4),
    ),
    "repaint past the source": (
        InputError,
        "to 0.48 s",
        lambda k: prompted(k, k.latent, task="repaint", repaint_end=0.48),
    ),
    "prompt source NaN": (InputError, "source", lambda k: prompted(k, with_one(k.latent), task="cover")),
    "prompt source empty": (InputError, "frames", lambda k: prompted(k, k.latent[:0])),
    "prompt source width": (InputError, "source", lambda k: prompted(k, k.latent[:, 1:], task="cover")),
    "timbre NaN": (InputError, "timbre", lambda k: prompted(k, timbre=with_one(torch.zeros(750, 64)))),
    "timbre width": (InputError, "timbre", lambda k: prompted(k, timbre=torch.zeros(750, 32))),
    "tags too long": (InputError, "tags", lambda k: prompted(k, tags="piano " * 300)),
    "lyrics too long": (InputError, "lyrics", lambda k: prompted(k, lyrics="love me " * 1200)),
    "condition of another width": (
        InputError,
        "64 wide",
        lambda k: submit(k, Condition(torch.zeros(5, 64), k.good.context)),
    ),
    "too many frames": (
        EngineLimitError,
        "21 frames",
        lambda k: submit(k, Condition(k.good.tokens, torch.zeros(21, 128)), k.small),
    ),
    "too many tokens": (
        EngineLimitError,
        "151 condition tokens",
        lambda k: submit(k, Condition(torch.zeros(151, k.engine.width), k.good.context), k.small),
    ),
    "too many rows": (EngineLimitError, "depth is 3", lambda k: submit(k, k.good, k.small, depth=3)),
    "device": (InputError, "tpu", lambda k: pick_device("tpu")),
    "precision": (InputError, "int3", lambda k: pick_dtype("int3", torch.device("cpu"))),
    "decode NaN": (InputError, "latent", lambda k: decode(k.model.pipe.vae, with_one(k.latent)[None])),
    "decode width": (InputError, "latent", lambda k: decode(k.model.pipe.vae, k.latent[None, :, 1:])),
    "decode no frames": (InputError, "latent", lambda k: decode(k.model.pipe.vae, k.latent[None, :0])),
    "decode no clips": (InputError, "clips", lambda k: decode_clips(k.model.pipe.vae, [])),
    "decode window": (InputError, "window", lambda k: decode(k.model.pipe.vae, k.latent[None], -1)),
    "noise mask": (InputError, "noise mask", lambda k: layout.single(samples(1, 64, 3, noise_mask=1), "x")),
    "LATENT of 8 channels": (InputError, "[1, 8, 3]", lambda k: layout.from_latent(samples(1, 8, 3), "x")),
    "LATENT of an image": (InputError, "[1, 64, 3, 3]", lambda k: layout.from_latent(samples(1, 64, 3, 3), "x")),
    "LATENT of no frames": (InputError, "[1, 64, 0]", lambda k: layout.from_latent(samples(1, 64, 0), "x")),
    "LATENT of no clips": (InputError, "[0, 64, 3]", lambda k: layout.from_latent(samples(0, 64, 3), "x")),
    "LATENT of two": (InputError, "2 clips", lambda k: layout.single(samples(2, 64, 3), "x")),
    "AUDIO missing": (InputError, "the timbre", lambda k: layout.from_audio(None, "the timbre")),
    "AUDIO of two": (
        InputError,
        "[2, 2, 9]",
        lambda k: layout.from_audio({"waveform": torch.ones(2, 2, 9), "sample_rate": 48_000}, "x"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_refused(kit, refuses, name: str) -> None:
    kind, given, wrong = CASES[name]
    with refuses(kind, given):
        wrong(kit)


def test_a_null_condition_may_be_longer_than_the_tokens(kit) -> None:
    """The ring then takes its length from the longer one."""
    tokens = kit.guided.tokens
    condition = Condition(tokens, kit.guided.context, torch.zeros(tokens.shape[0] + 200, tokens.shape[1]))
    assert bool(submit(kit, condition, guidance=Guidance(scale=2.0))[0].isfinite().all())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_where_there_is_none(refuses) -> None:
    with refuses(InputError, "cuda"):
        pick_device("cuda")


def test_ends_of_the_ranges_are_allowed(turbo, conditions) -> None:
    source = torch.zeros(FRAMES, 64)
    (good,) = conditions(turbo, FRAMES, 1)
    request = Request(good, Sampling(steps=1, shift=0.01, denoise=0.0, seed=2**64 - 1), source=source)
    assert play(eager_engine(turbo), [request], depth=8, queue=1)[0].shape == (FRAMES, 64)
