"""Sessions of one stage: requests of each, knobs that differ, and how tests play them."""

from __future__ import annotations

import itertools

import torch
from ostinato.engine_runtime.config import Guidance, Sampling, StreamConfig
from ostinato.engine_runtime.stream.request import Part, Request, Target
from ostinato.engine_runtime.stream.sessions import runtime

from ...helpers import drawn, made_up

FRAMES = 12
CONFIG = StreamConfig(guidance="full", conditions=2, tokens=64, queue=32, spread=False)
LINE = torch.linspace(0.7, 1.3, FRAMES)
KNOBS = (
    {},
    {"dcw": True, "dcw_wavelet": "db4", "velocity_scale": LINE, "channel_gain": 1.1},
    {"dcw": True, "dcw_mode": "pix", "ode_noise": 0.2, "guidance_scale": 2.0},
    {"dcw": True, "dcw_mode": "low", "dcw_wavelet": "sym4", "dcw_low": LINE - 0.5, "target_strength": 0.3},
)
_names = itertools.count()


def requests_of(who: int, count: int = 6, width: int = 64) -> list[Request]:
    made = []
    for i in range(count):
        seed = 100 * who + i
        one = made_up(seed, FRAMES, 3 + i, width=width)
        what = (Part(one), Part(made_up(seed + 50, FRAMES, width=width))) if i % 3 == 2 else one
        extra = {"source": drawn(seed, FRAMES, 64)} if i % 2 else {"target": Target(drawn(seed, FRAMES, 64))}
        walk = Sampling(2 + (who + i) % 4, seed=seed, solver=("ode", "sde")[i % 2])
        made.append(Request(what, walk, Guidance(1.0 + i), **extra))
    return made


def joined(stage, depth=1, knobs=None, **live):
    return runtime().join(f"stage {next(_names)}", stage, depth, knobs, **live)


def play(stage, sessions, given, before=lambda tick: None):
    """Latents of every session, in the order of its requests."""
    for session, requests in zip(sessions, given, strict=True):
        for request in requests:
            session.submit(request)
    done = {}
    for tick in itertools.count():
        before(tick)
        for f in stage.step():
            done[id(f.request)] = f.session, f.take()
        if all(session.idle for session in sessions):
            break
    names = [[done[id(request)][0] for request in requests] for requests in given]
    assert all(set(row) == {session.name} for row, session in zip(names, sessions, strict=True))
    return [[done[id(request)][1] for request in requests] for requests in given]


def same(one, other):
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
