import copy, torch
import ostinato.engine_runtime.tick as tick
from ostinato.engine_runtime.config import *
from ostinato.engine_runtime.models.conditioning import encode_prompt
from ostinato.engine_runtime.prompt import Prompt
from ostinato.engine_runtime import guidance as G
from ..helpers import drawn
from .test_parity import by_pipeline, by_ring, TAGS, LYRICS

def apg64(p, a, *r):
    *r, on = r
    return G.apg(p.double(), a.double(), *[v.double() for v in r], on).float()

def test_tmp(base, monkeypatch):
    base64 = copy.copy(base.pipe)
    import dataclasses
    from ostinato.engine_runtime.models.loading import load; b64 = load("tiny-base", torch.device("cpu"), torch.float64)
    for frames in (2, 25, 30, 31):
        for steps, shift in ((1,1.),(1,3.),(2,1.), (2,3.),(8,1.),(8,3.)):
            for seed in (range(2)):
                p = Prompt(TAGS, LYRICS, seconds=frames/25); noise = drawn(seed, frames, 64)
                s, g = Sampling(steps, shift), Guidance(7.)
                truth = by_pipeline(b64, p, s, g, noise.double())
                pipe = by_pipeline(base, p, s, g, noise)
                c = encode_prompt(base, p)
                ring = by_ring(base, c, s, g, noise)
                with monkeypatch.context() as m:
                    m.setattr(tick, "apg", apg64)
                    ring64 = by_ring(base, c, s, g, noise)
                d = lambda a, b: f"{(a-b).abs().max().item():.1e}"
                print(frames, steps, shift, seed, truth.dtype, "pipe-truth", d(pipe, truth), "ring-truth", d(ring, truth), "ring-pipe", d(ring, pipe), "ring64-pipe", d(ring64, pipe), "ring64-truth", d(ring64, truth))
