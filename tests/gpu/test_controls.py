"""The controls on a GPU: no host join, no allocation, no kernel that nobody asked for, the same bits in any company."""

from __future__ import annotations

import itertools

import pytest
import torch
from ostinato.engine_runtime.config import NO_GUIDANCE, Guidance, Sampling, StreamConfig
from ostinato.engine_runtime.controls.automation import Track
from ostinato.engine_runtime.controls.knobs import KNOBS, Knobs
from ostinato.engine_runtime.engines.contract import LIMITS
from ostinato.engine_runtime.engines.eager import EagerEngine
from ostinato.engine_runtime.models.conditioning import encode_prompt
from ostinato.engine_runtime.models.loading import load
from ostinato.engine_runtime.models.prompt import Prompt
from ostinato.engine_runtime.stream.request import Part, Request, Target
from ostinato.engine_runtime.stream.sessions import runtime
from ostinato.engine_runtime.takes.replay import replay
from ostinato.engine_runtime.takes.take import Log
from torch.profiler import ProfilerActivity, profile

from ..helpers import drawn

pytestmark = pytest.mark.gpu
FRAMES = 125
RING = {"depth": 4, "guidance": "full", "conditions": 2, "tokens": 64, "queue": 64, "spread": False}


@pytest.fixture(scope="module")
def engine():
    model = load("random-base", torch.device("cuda", 0), torch.float32)
    engine = EagerEngine(model.pipe.transformer.to(torch.bfloat16), "gpu-test", LIMITS)
    model.pipe.transformer.to(torch.float32)
    conditions = [encode_prompt(model, Prompt(tags, seconds=FRAMES / 25)) for tags in ("piano", "drums and bass, loud")]
    model.pipe.transformer.to(torch.bfloat16)
    return engine, conditions


def every_kind(conditions, count: int, steps: int = 8) -> list[Request]:
    """Requests of all solvers and modes, with and without masks, targets and several conditions."""
    modes = itertools.cycle(["full", "initialize", "self", "off"])
    made = []
    for i in range(count):
        mode, masked = next(modes), i % 3 == 1
        source = drawn(50 + i, FRAMES, 64)
        made.append(
            Request(
                (Part(conditions[0]), Part(conditions[1], 0.5, 0.0, 0.8)) if i % 2 else conditions[0],
                Sampling(steps, seed=i, solver=("ode", "sde")[i % 5 > 2]),
                NO_GUIDANCE if mode == "off" else Guidance(4.0, mode=mode, rescale=0.3),
                source,
                mask=(drawn(i, FRAMES, 64) > 0).float() if masked else None,
                mask_strength=(1.0, 0.5),
                target=Target(drawn(70 + i, FRAMES, 64), 0.3) if i % 3 == 2 else None,
                initial_noise=0.8 if i % 4 == 3 else None,
            )
        )
    return made


def all_on() -> Knobs:
    line = torch.linspace(0.9, 1.1, FRAMES)
    return Knobs(
        velocity_scale=line,
        ode_noise=0.1 * line,
        sde=line - 0.3,
        target_strength=0.2,
        channel_gain=drawn(3, FRAMES, 64).abs().clamp(0.5, 1.5),
        blend=0.4,
        dcw=True,
        dcw_low=0.05 * line,
        dcw_wavelet="db2",
    )


def play(engine, requests, knobs=None, **config):
    with runtime().playing("gpu test", engine, StreamConfig(**{**RING, **config}), knobs) as session:
        return {id(f.request): f.take() for f in session.play(requests)}


def steady(session, conditions, steps: int = 200) -> None:
    for request in every_kind(conditions, 4, steps):
        session.submit(request)
    for _ in range(4):
        session.step()
    torch.cuda.synchronize()


def test_everything_at_once_without_a_join(engine):
    """PyTorch raises at every synchronising call it knows of, also while knobs are turned between the ticks."""
    engine, conditions = engine
    line = torch.linspace(0.8, 1.0, FRAMES)
    turns = [{"velocity_scale": line}, {"blend": 0.7}, {"dcw_high": 0.1}, {"ode_noise": 0.2}]
    there = {name: getattr(all_on(), name).cuda() for name in ("velocity_scale", "channel_gain", "dcw_low")}
    with runtime().playing("gpu test", engine, StreamConfig(**RING), all_on().changed(**there)) as session:
        session.automate([Track("target_strength", [0.1, 0.2, 0.3], loop=True)])  # beside curves that lie on the GPU
        steady(session, conditions)
        for turn in turns:
            session.set(**turn)
            session.step()
        torch.cuda.synchronize()
        allocated = torch.cuda.memory_stats()["num_device_alloc"]
        torch.cuda.set_sync_debug_mode("error")
        try:
            for i in range(40):
                session.set(**turns[i % 4])
                session.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert torch.cuda.memory_stats()["num_device_alloc"] == allocated


def test_seating_every_kind_does_not_join(engine):
    engine, conditions = engine
    with runtime().playing("gpu test", engine, StreamConfig(**RING), all_on()) as session:
        list(session.play(every_kind(conditions, 12, 2)))
        waiting = every_kind(conditions, 12, 2)
        for request in waiting:
            session.submit(request)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            finished = [f for _ in range(8) for f in session.step()]
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert len(finished) == 12 and all(bool(f.take().isfinite().all()) for f in finished)


def kernels(engine, conditions, knobs: Knobs) -> int:
    """Kernels and copies on the GPU in 5 ticks of one plain request."""
    with runtime().playing("gpu test", engine, StreamConfig(depth=2, spread=False), knobs) as session:
        session.submit(Request(conditions[0], Sampling(64, seed=1), source=drawn(5, FRAMES, 64)))
        for _ in range(3):
            session.step()
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            for _ in range(5):
                session.step()
            torch.cuda.synchronize()
        return sum(e.count for e in profiler.key_averages() if e.device_type == torch.autograd.DeviceType.CUDA)


def test_what_is_neutral_runs_no_kernel(engine):
    engine, conditions = engine
    plain = kernels(engine, conditions, Knobs())
    neutral = {n: k.neutral for n, k in KNOBS.items() if k.neutral is not None and not n.startswith("dcw")}
    as_curves = {name: torch.full((FRAMES,), value) for name, value in neutral.items()}
    assert kernels(engine, conditions, Knobs(**neutral)) == plain
    assert kernels(engine, conditions, Knobs(**as_curves)) == plain
    assert kernels(engine, conditions, Knobs(dcw=True, dcw_low=0.0, dcw_high=0.0)) == plain
    assert kernels(engine, conditions, Knobs(velocity_scale=0.9)) > plain


@pytest.mark.parametrize("guidance", ["full", "initialize"])
def test_company_does_not_matter(engine, guidance):
    engine, conditions = engine
    for mine in every_kind(conditions, 12):
        if guidance == "initialize" and mine.guidance.mode == "full":
            continue
        alone = play(engine, [mine], all_on(), guidance=guidance)[id(mine)]
        others = [r for r in every_kind(conditions, 9) if guidance == "full" or r.guidance.mode != "full"]
        together = play(engine, [*others[:3], mine, *others[3:]], all_on(), guidance=guidance)
        assert torch.equal(together[id(mine)], alone)


def test_a_take_is_replayed_bit_by_bit(engine, tmp_path):
    engine, conditions = engine
    config = StreamConfig(**RING)
    log = Log.of(engine, config, all_on())
    moves = [("velocity_scale", 0.95), ("blend", 1.0), ("dcw_mode", "high"), ("guidance_scale", 6.0), ("dcw", False)]
    with runtime().playing("gpu test", engine, config, all_on(), log) as session:
        session.configure(depth=4)
        played = []
        for request in every_kind(conditions, 8, 5):
            session.submit(request)
        while not session.idle:
            if session.ticks % 2 == 0 and moves:
                session.set(**dict([moves.pop(0)]))
            if session.ticks == 6:
                session.configure(depth=6)
            played += [f.take() for f in session.step()]
        log.ticks = session.ticks
    log.finished(played)
    log.save(tmp_path / "take.safetensors")
    again = replay(Log.load(tmp_path / "take.safetensors"), engine)
    assert again.differing == [] or again.differing == ()
