"""The live VAE decoder on a GPU: the model's own audio, also from several threads and beside a tick."""

import threading

import pytest
import torch
from ostinato.engine_runtime.audio.decode import decode
from ostinato.engine_runtime.audio.live_vae import LiveVae
from ostinato.engine_runtime.models.loading import load

from ..helpers import spin

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda", 0)


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def vae(request, cache):
    return load("random", CUDA, torch.float32).pipe.vae.to(request.param)


@pytest.fixture(scope="module")
def exact(cache):
    return load("random", CUDA, torch.float32).pipe.vae


def latents(seed, frames):
    return torch.randn(1, frames, 64, generator=torch.Generator().manual_seed(seed)).cuda()


def test_equal_to_the_models_own(vae, exact):
    """In bfloat16, where the model's own is far from float32, no farther than it; in float32 rounding is TF32's."""
    live = LiveVae(vae)
    for seed, frames in enumerate((20, 95, 20, 300)):
        want, own = (decode(model, latents(seed, frames)) for model in (exact, vae))
        for _ in range(3):  # plain, captured, replayed
            got = decode(live, latents(seed, frames))
            assert (got - want).norm() <= 1.1 * (own - want).norm() + 2e-3 * want.norm()


def test_a_replay_has_the_same_bits_for_every_thread(vae):
    """Each on a stream of its own, whose work before is waited for and whose work after sees the audio whole."""
    live, given = LiveVae(vae), [latents(i, 40) for i in range(3)]
    decode(live, given[0])  # in inference mode, and the others out of it
    torch.cuda.synchronize()
    for one in given:
        live.decoder(one.mT.to(vae.dtype))
    want = [live.decoder(one.mT.to(vae.dtype)).clone() for one in given]
    torch.cuda.synchronize()
    got = [[] for _ in given]

    def run(i):
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(10):
                late = torch.full_like(given[i], torch.nan)
                spin(1_000_000)
                late.copy_(given[i])
                got[i].append(live.decoder(late.mT.to(vae.dtype)) * 1.0)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.cuda.synchronize()
    assert all(torch.equal(one, want[i]) for i, row in enumerate(got) for one in row)
