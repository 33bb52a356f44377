"""A live session on a GPU gives all its memory back when it rests, and goes on with the same music."""

import gc

import pytest
import torch
from ostinato.engine_runtime.audio.live_vae import LiveVae
from ostinato.engine_runtime.config import Sampling
from ostinato.engine_runtime.live.score import Score
from ostinato.engine_runtime.live.session import LiveSession
from ostinato.engine_runtime.models.engines import torch_engine
from ostinato.engine_runtime.models.loading import load

from ..helpers import made_up
from ..unit.live.test_session import Ear, loudness

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda", 0)


def held() -> int:
    """Return the bytes in use, without the workspaces of cuBLAS: 34 MB a stream that stay with the process."""
    gc.collect()
    torch.cuda.synchronize()
    torch._C._cuda_clearCublasWorkspaces()
    return torch.cuda.memory_allocated()


@pytest.mark.parametrize("kind", ["eager", "compiled"])
@pytest.mark.parametrize("mode", ["loop", "endless"])
def test_a_resting_session_holds_no_device_memory(cache, kind, mode):
    model = load("random", CUDA, torch.bfloat16)
    engine = torch_engine(model, kind)
    condition = made_up(0, 50, guided=False, width=engine.width)
    weights = held()
    live = LiveSession(f"gpu {kind} {mode}", Score(engine, LiveVae(model.pipe.vae), condition, Sampling(4), mode=mode))
    try:
        ear = Ear(live)
        live.start()
        ear.until(ear.played(2.0))
        playing = torch.cuda.memory_allocated() - weights
        for i in range(3):
            live.rest()
            # the line itself stays: two latents of a few kilobytes
            assert held() - weights < 0.05 * playing + 2e6, i
            live.start()
            ear.until(ear.played(4.0 + 2.0 * i))
        assert not ear.errors and (loudness(ear)[2:] > 0).all()
    finally:
        live.close()
