"""The live decoder gives what the model's own gives."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from diffusers import AutoencoderOobleck
from ostinato.engine_runtime.audio.decode import decode
from ostinato.engine_runtime.audio.live_vae import LiveVae
from ostinato.engine_runtime.audio.snake import Bend, snake
from ostinato.engine_runtime.device.capture import Capture
from ostinato.engine_runtime.device.undisturbed import Neighbours
from ostinato.engine_runtime.registry import registry
from ostinato.engine_runtime.stream.sessions import runtime

from ...graph_stand_in import CUDA, Graph, noting
from ...helpers import drawn


@pytest.fixture(scope="module")
def vae() -> AutoencoderOobleck:
    """Odd widths and strides, and snakes that bend."""
    torch.manual_seed(0)
    made = AutoencoderOobleck(24, [2, 4, 4, 6, 10], [1, 2, 3, 4, 5], 12, 64, 2, 48000).eval().requires_grad_(False)
    for name, parameter in made.named_parameters():
        if name.endswith(("alpha", "beta")):
            parameter.uniform_(-1.0, 1.0)
    return made


@pytest.mark.parametrize("frames", [1, 2, 7, 20])
@pytest.mark.parametrize("clips", [1, 3])
def test_equal_to_the_models_own(vae, frames, clips) -> None:
    latents = drawn(frames, clips, frames, 64)
    want, got = decode(vae, latents), decode(LiveVae(vae), latents)
    assert got.shape == want.shape and want.abs().max() > 1e-3
    torch.testing.assert_close(got, want, atol=1e-5 * want.abs().max().item(), rtol=1e-4)


def test_windows_sum_to_the_whole(vae) -> None:
    live, latents = LiveVae(vae), drawn(3, 1, 40, 64)
    torch.testing.assert_close(decode(live, latents, window=11), decode(live, latents), atol=1e-5, rtol=1e-4)


def test_the_model_is_left_as_it_was(vae) -> None:
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    LiveVae(vae).decoder(drawn(1, 1, 64, 5))
    after = vae.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_snake_in_place_has_the_bits_of_its_formula(added, layout) -> None:
    x, more = (drawn(seed, 2, 5, 1, 40).contiguous(memory_format=layout) for seed in (0, 1))
    bias, frequency, reciprocal = (drawn(seed, 5) for seed in (2, 3, 4))
    column = [t[:, None, None] for t in (bias, frequency, reciprocal)]
    y = x + column[0] + more if added else x + column[0]
    want = y + column[2] * torch.sin(column[1] * y).square()
    got = snake(x, bias, Bend(frequency, reciprocal), more if added else None)
    assert torch.equal(got[0], y) and torch.equal(got[1], want) and got[0].data_ptr() == x.data_ptr()


@pytest.mark.parametrize(
    ("on", "still", "runs"),
    [
        (True, True, ["held", "captured"]),
        (True, False, ["held", "held", "held", "held"]),
        (False, True, ["held", "held", "free", "free"]),
    ],
    ids=["captured", "the host is at work", "nothing is captured"],
)
def test_ticks_wait_only_for_a_first_decode_or_a_capture(vae, monkeypatch, on, still, runs) -> None:
    """The first decode of a shape is run twice: the second run is the one that may be captured."""
    noting(monkeypatch)
    live, lock, found = LiveVae(vae), runtime().lane(torch.device("cpu")).lock, list[str]()
    live._capture = Capture(CUDA, on=on)

    def layers(latents):
        found.append("captured" if Graph.now is not None else "held" if lock._is_owned() else "free")
        assert found[-1] != "captured" or lock._is_owned()
        return torch.zeros(1, 2, 1920 * latents.shape[2])

    live._made_layers = layers
    with registry.fresh(Neighbours):
        registry.one(Neighbours).still = lambda: nullcontext(still)
        for _ in range(3):
            live._replayed(drawn(1, 1, 64, 5))
            assert not lock._is_owned()
    assert found == runs
