"""Windows of a line against the whole of it."""

from __future__ import annotations

import numpy as np
import torch
from ostinato.engine_runtime.audio.decode import decode, margin_frames
from ostinato.engine_runtime.audio.live_vae import LiveVae
from ostinato.engine_runtime.live.line import Endless, Heard, Loop
from ostinato.engine_runtime.live.window import CPU_MARGIN, FADE, Windows
from ostinato.engine_runtime.models.loading import Model, load
from ostinato.engine_runtime.spec import ACE_STEP

from ...helpers import drawn

HOP, SAMPLE_RATE = ACE_STEP.hop, ACE_STEP.sample_rate


def tiny() -> Model:
    return load("tiny", torch.device("cpu"), torch.float32)


def heard(windows: Windows, line: Loop | Endless, sizes: list[int]) -> np.ndarray:
    start, parts = 0, []
    for count in sizes:
        parts.append(windows.sound(windows.latents(line, start, count), count))
        start += count
    return np.concatenate(parts, axis=1)


def test_windows_of_music_are_the_whole_of_it_as_far_as_an_ear_can_tell(cache: None) -> None:
    model = tiny()
    vae = LiveVae(model.pipe.vae)
    mean, deviation = 0.0, 1.5  # about those of this model's latents
    latent = mean + deviation * drawn(0, 40, 64)
    line = Endless(40, 64)
    line.add(latent, 0, 0, 0, Heard())
    whole = decode(vae, latent[None])[0].numpy()
    with torch.inference_mode():
        sound = heard(Windows(vae), line, [4, 6, 2, 8, 4])
    error = sound - whole[:, : sound.shape[1]]
    assert 10 * np.log10((error**2).mean() / (whole**2).mean()) < -45
    assert sound.shape == (2, 24 * HOP)


def test_two_pieces_of_music_meet_in_a_fade(turbo: Model) -> None:
    """At a window where the latent is another, the old music goes into the new within `FADE` frames."""
    vae = turbo.pipe.vae
    one, two = drawn(1, 30, 64), drawn(2, 30, 64)
    loop, windows = Loop(), Windows(vae)
    windows.margin = margin_frames(vae)
    loop.add(one, Heard())
    windows.sound(windows.latents(loop, 0, 4), 4)
    loop.add(two, Heard())
    met = windows.sound(windows.latents(loop, 4, 4), 4)
    before, after = (decode(vae, torch.cat([x, x, x])[None])[0].numpy()[:, 34 * HOP : 38 * HOP] for x in (one, two))
    np.testing.assert_allclose(met[:, FADE * HOP :], after[:, FADE * HOP :], atol=2e-3)
    rise = np.sin(np.linspace(0, np.pi / 2, FADE * HOP)) ** 2
    mix = before[:, : FADE * HOP] * (1 - rise) + after[:, : FADE * HOP] * rise
    np.testing.assert_allclose(met[:, : FADE * HOP], mix, atol=2e-3)


def test_an_engine_gets_the_frames_it_needs(turbo: Model) -> None:
    class Least:
        """The model's VAE as an engine that takes no fewer than 32 frames."""

        least, seen = 32, []
        config, upsampling_ratios = turbo.pipe.vae.config, turbo.pipe.vae.upsampling_ratios
        device, dtype = turbo.pipe.vae.device, turbo.pipe.vae.dtype

        def decoder(self, latents: torch.Tensor) -> torch.Tensor:
            self.seen.append(latents.shape[2])
            return turbo.pipe.vae.decoder(latents)

    line = Endless(8, 64)
    line.add(drawn(3, 8, 64), 0, 0, 0, Heard())
    vae = Least()
    sound = heard(Windows(vae), line, [4, 4])
    assert vae.seen == [32, 32] and sound.shape == (2, 8 * HOP)


def test_margins_are_whole_but_on_a_cpu_where_fewer_frames_were_measured(turbo: Model) -> None:
    class There:
        """The model's VAE as if it were on a GPU."""

        upsampling_ratios, device = turbo.pipe.vae.upsampling_ratios, torch.device("cuda")

    assert Windows(turbo.pipe.vae).margin == CPU_MARGIN
    assert Windows(There()).margin == margin_frames(turbo.pipe.vae) > CPU_MARGIN
