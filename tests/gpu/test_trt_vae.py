"""A VAE's engine on a GPU, over the stand-in that poisons its output and sleeps: order with the caller's stream."""

import pytest
import torch
from ostinato.engine_runtime.audio.decode import decode
from ostinato.engine_runtime.engines.profiles import Profile, Span
from ostinato.engine_runtime.models.loading import load
from ostinato.engine_runtime.trt.play.vae import TrtVae

from .. import trt_stand_in as stand_in
from ..helpers import SPIN, spin
from ..trt_plan import VaeHalf

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def vae():
    return load("random", torch.device("cuda", 0), torch.float32).pipe.vae


def unordered(self, work):
    """`TrtVae._beside` without its two waits."""
    with torch.cuda.stream(self._stream):
        return work()


@pytest.mark.parametrize("stream", ["default", "another"])
@pytest.mark.parametrize("held", [True, False], ids=["the rule holds", "without the rule"])
def test_a_decode_lies_between_what_its_caller_does(vae, monkeypatch, held, stream):
    """The caller makes the latents just before, and reads the audio and overwrites the latents just after."""
    plan = stand_in.make_vae(VaeHalf(vae, "vae_decoder"), Profile(Span(1, 1, 2), Span(1, 20, 60)))
    engine = stand_in.load_vae(plan)
    given = torch.randn(1, 40, 64, generator=torch.Generator().manual_seed(0)).to("cuda")
    want = decode(vae, given).cpu()
    decode(engine, given)
    torch.cuda.synchronize()
    if not held:
        monkeypatch.setattr(TrtVae, "_beside", unordered)
    plan.before = plan.after = SPIN
    caller = torch.cuda.default_stream() if stream == "default" else torch.cuda.Stream()
    with torch.cuda.stream(caller):
        spin(SPIN // 4)
        latents = given.mT.contiguous()
        audio = engine(latents)
        got = audio.clone()
        latents.zero_()
    torch.cuda.synchronize()
    assert torch.allclose(got.cpu(), want, atol=1e-4) == held
