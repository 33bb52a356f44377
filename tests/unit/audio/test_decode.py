"""Decoding in windows is decoding: same samples, no seams, no level of its own."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderOobleck
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ostinato.engine_runtime.audio.decode import decode, decode_clips, margin_frames
from ostinato.engine_runtime.device.workers import Workers, in_turn, workers
from ostinato.engine_runtime.errors import InputError
from ostinato.engine_runtime.registry import registry

from ...fuzz import examples
from ...helpers import helping

HOP = 1920  # samples a frame

TINY, FULL = (10, 8, 6, 4), (2, 4, 4, 6, 10)  # strides of the preset's VAE, and of ACE-Step 1.5's


def small_vae(strides: tuple[int, ...]) -> AutoencoderOobleck:
    """A narrow VAE with the reach of a real one and weights that let every tap count."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates the weight norm that this class uses
        vae = AutoencoderOobleck(
            encoder_hidden_size=4,
            downsampling_ratios=list(strides),
            channel_multiples=[1] * len(strides),
            decoder_channels=4,
            decoder_input_channels=64,
            sampling_rate=48_000,
        )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in vae.named_parameters():
            if name.endswith(("bias", "alpha", "beta")):
                weight.zero_()
            elif name.endswith("weight_g"):
                weight.fill_(1.0)
            else:
                weight.copy_(torch.randn(weight.shape, generator=generator))
    return vae.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=[TINY, FULL], ids=["tiny", "full"])
def vae(request: pytest.FixtureRequest) -> Iterator[AutoencoderOobleck]:
    yield small_vae(request.param)


def latents(clips: int, frames: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(clips, frames, 64, generator=torch.Generator().manual_seed(seed))


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal to 1e-4 of the louder one's peak."""
    return bool((a - b).abs().max() <= 1e-4 * b.abs().max())


@settings(max_examples=examples(15), deadline=None)
@given(frames=st.integers(1, 60), window=st.sampled_from([1, 2, 3, 7, 25, 64]), clips=st.integers(1, 2))
@example(frames=1, window=1, clips=1)
@example(frames=1, window=25, clips=2)
@example(frames=24, window=25, clips=1)
@example(frames=25, window=25, clips=1)
@example(frames=26, window=25, clips=1)
@example(frames=90, window=64, clips=2)
@example(frames=37, window=7, clips=2)
@example(frames=9, window=2, clips=1)
def test_windows_equal_the_whole(vae: AutoencoderOobleck, frames: int, window: int, clips: int) -> None:
    z = latents(clips, frames)
    whole, parts = decode(vae, z), decode(vae, z, window)
    assert whole.shape == parts.shape == (clips, 2, HOP * frames)
    assert whole.dtype == parts.dtype == torch.float32
    assert close(parts, whole)


def test_windows_of_the_preset(turbo) -> None:
    z = latents(2, 45)
    whole = decode(turbo.pipe.vae, z)
    for window in (7, 25, 44):
        assert close(decode(turbo.pipe.vae, z, window), whole)


def reach(vae: AutoencoderOobleck, frames: int, at: int) -> tuple[int, int]:
    """How many frames before and after `at` change when the latent frame `at` does."""
    z = latents(1, frames).double().transpose(1, 2)
    other = z.clone()
    other[:, :, at] += 1.0
    changed = vae.decoder(z) != vae.decoder(other)
    hit = changed.unflatten(-1, (frames, HOP)).any(-1).any(1)[0].nonzero().flatten()
    return at - int(hit.min()), int(hit.max()) - at


def test_the_margin_is_enough_and_no_waste(vae: AutoencoderOobleck) -> None:
    margin = margin_frames(vae)
    double = small_vae(TINY if len(vae.upsampling_ratios) == len(TINY) else FULL).double()
    before, after = reach(double, 2 * margin + 21, margin + 10)
    assert max(before, after) <= margin
    assert margin - max(before, after) <= 8


def test_a_frame_beyond_the_margin_changes_nothing(vae: AutoencoderOobleck) -> None:
    margin = margin_frames(vae)
    frames = 2 * margin + 5
    z = latents(1, frames)
    middle = decode(vae, z)[:, :, (frames // 2) * HOP : (frames // 2 + 1) * HOP]
    for far in (frames // 2 - margin - 1, frames // 2 + margin + 1):
        other = z.clone()
        other[:, far] = 100.0
        moved = decode(vae, other)[:, :, (frames // 2) * HOP : (frames // 2 + 1) * HOP]
        assert torch.allclose(moved, middle, rtol=0, atol=1e-6 * float(middle.abs().max()))


@given(frames=st.integers(1, 80), window=st.integers(1, 80))
def test_each_frame_is_decoded_once_with_what_it_depends_on(frames: int, window: int) -> None:
    """The windows that the decoder is given, on a decoder whose audio is the latent."""
    seen: list[int] = []
    strides = list(FULL)

    def decoder(part: torch.Tensor) -> torch.Tensor:
        seen.append(part.shape[2])
        return part[:, :2].repeat_interleave(HOP, 2)

    cpu = torch.device("cpu")
    config = SimpleNamespace(audio_channels=2, decoder_input_channels=64)
    vae = SimpleNamespace(config=config, upsampling_ratios=strides, decoder=decoder, device=cpu, dtype=torch.float32)
    z, margin = latents(1, frames), margin_frames(vae)
    assert torch.equal(decode(vae, z, window), z[..., :2].mT.repeat_interleave(HOP, 2))
    starts = range(0, frames, window)
    # in any order: they may be decoded side by side
    assert sorted(seen) == sorted(min(frames, at + window + margin) - max(0, at - margin) for at in starts)


def test_windows_side_by_side_are_those_in_turn(turbo, threads) -> None:
    z = latents(1, 60)
    threads(1)
    with in_turn():
        one_by_one = decode(turbo.pipe.vae, z, 7)
    threads(3)
    before = helping()
    with registry.fresh(Workers):
        together = decode(turbo.pipe.vae, z, 7)
        assert len(helping() - before) == 3
        workers().close()
    assert torch.equal(one_by_one, together)


def test_the_level_is_the_models_own(turbo) -> None:
    vae, z = turbo.pipe.vae, latents(2, 12)
    z[1] *= 0.01  # a quiet clip beside a loud one
    both = decode(vae, z)
    with torch.inference_mode():
        reference = vae.decode(z.transpose(1, 2)).sample
    assert torch.equal(both, reference)
    for i in range(2):
        assert close(both[i : i + 1], decode(vae, z[i : i + 1]))
    assert both[1].abs().max() < 0.5 * both[0].abs().max()


def test_clips_one_by_one_equal_the_batch(turbo) -> None:
    z, asked = latents(3, 9), []
    audio = decode_clips(turbo.pipe.vae, list(z), check=lambda: asked.append(1))
    assert len(asked) >= 3
    assert close(audio, decode(turbo.pipe.vae, z))


@pytest.mark.parametrize("window", [0, 2])
def test_the_user_is_asked_within_a_clip(turbo, window: int) -> None:
    """Before each group of windows that are decoded side by side, and before each block of a whole pass; in the thread
    that asked for the sound, and with the same sound."""
    asked, z = [], latents(1, 12)
    audio = decode(turbo.pipe.vae, z, window, lambda: asked.append(threading.get_ident()))
    assert torch.equal(audio, decode(turbo.pipe.vae, z, window))
    blocks = len(turbo.pipe.vae.decoder.block)
    assert len(asked) == (1 + blocks if window == 0 else math.ceil(6 / workers().count))
    assert set(asked) == {threading.get_ident()}
    assert not any(block._forward_pre_hooks for block in turbo.pipe.vae.decoder.block)


@pytest.mark.parametrize("window", [0, 2])
def test_a_cancel_ends_the_clip_and_keeps_those_before(turbo, window: int) -> None:
    z, asked, kept = latents(3, 12), [], []
    decode(turbo.pipe.vae, z[:1], window, lambda: asked.append(1))
    one = len(asked)

    def stop() -> None:
        asked.append(1)
        if len(asked) == 3 * one:  # the last question of the second clip
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode_clips(turbo.pipe.vae, list(z), window, stop, kept.extend)
    assert len(kept) == 1 and torch.equal(kept[0], decode(turbo.pipe.vae, z[:1], window)[0])


def test_an_error_keeps_nothing(turbo) -> None:
    z, kept = list(latents(2, 9)), []
    z[1] = z[1] * torch.nan
    with pytest.raises(InputError):
        decode_clips(turbo.pipe.vae, z, stopped=kept.extend)
    assert not kept


@pytest.mark.parametrize("window", [0, 3])
def test_the_latent_is_left_as_it_was(turbo, window: int) -> None:
    z = latents(1, 8)
    before = z.clone()
    decode(turbo.pipe.vae, z, window)
    assert torch.equal(z, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused(turbo, value: float) -> None:
    z = latents(1, 4)
    z[0, 2, 7] = value
    with pytest.raises(InputError, match="NaN or infinite"):
        decode(turbo.pipe.vae, z)
