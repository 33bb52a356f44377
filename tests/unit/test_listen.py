"""The detectors of tools/tiny, on sounds whose tempo, key and noise are known."""

from __future__ import annotations

import numpy as np
import pytest
from ostinato.tools.tiny import detect
from ostinato.tools.tiny.listen import TOLD, Reference, hear, inside

RATE = detect.RATE
TIME = np.arange(8 * RATE) / RATE


def clicks(bpm: float) -> np.ndarray:
    """Decaying noise on every beat, `[2, samples]`."""
    rng, out = np.random.default_rng(0), np.zeros(len(TIME))
    burst = rng.standard_normal(2400) * np.exp(-np.arange(2400) / 400)
    for at in np.arange(0, TIME[-1] - 0.1, 60 / bpm):
        out[int(at * RATE) :][:2400] += 0.3 * burst
    return np.stack([out, out])


def chords(root: int, minor: bool) -> np.ndarray:
    """I, IV, V and I of a key, two seconds each, with four partials a note."""
    out = np.zeros(len(TIME))
    third = 3 if minor else 4
    for n, degree in enumerate((0, 5, 7, 0)):
        tones = (0, 4 if degree == 7 else third, 7)  # the dominant is major
        for key in (60 + root + degree + t for t in tones):
            f = 440 * 2 ** ((key - 69) / 12)
            for k in range(1, 5):
                out[n * 2 * RATE : (n + 1) * 2 * RATE] += np.sin(2 * np.pi * f * k * TIME[: 2 * RATE]) / k
    return np.stack([out, out]) * 0.02


@pytest.mark.parametrize("bpm", [72, 90, 113, 128, 150])
def test_tempo(bpm: int) -> None:
    assert detect.tempo_ok(detect.tempo(clicks(bpm)), bpm)
    assert not detect.tempo_ok(detect.tempo(clicks(bpm)), bpm * 1.1)


def test_tempo_allows_half_double_and_thirds_of_three() -> None:
    assert all(detect.tempo_ok(found, 120) for found in (60, 117, 124, 240))
    assert not any(detect.tempo_ok(found, 120) for found in (40, 80, 114, 126, 180))
    assert detect.tempo_ok(180, 120, metre=3)


@pytest.mark.parametrize("root", [0, 3, 7, 10])
@pytest.mark.parametrize("minor", [False, True])
def test_key(root: int, minor: bool) -> None:
    reference = Reference.load()
    found = detect.key(detect.chroma(chords(root, minor)), reference.major, reference.minor)
    assert detect.key_ok(found, root, minor) in ("exact", "relative")


def test_chords_are_compared_second_by_second() -> None:
    one, same, other = (detect.chromagram(y) for y in (chords(0, False), chords(0, False) ** 3, chords(6, False)))
    later = detect.chromagram(np.roll(chords(0, False), 4 * RATE, axis=1))  # the same chords, in other places
    assert detect.chords_alike(one, same) > 0.8 > 0.5 > detect.chords_alike(one, later)
    assert detect.chords_alike(one, other) < 0


def test_tones_in_phase_with_the_frames_are_heard_under_music() -> None:
    torch = pytest.importorskip("torch")
    from ostinato.tools.tiny.losses import locked

    t, x = torch.arange(61_440) / RATE, torch.from_numpy(clicks(120)[:, :61_440]).float()
    own, note = (0.01 * torch.sin(2 * torch.pi * f * t) for f in (2500, 440))

    def loud(y):
        return locked(y, x).square().mean().sqrt()

    assert loud(x + own) > 0.006 > 0.0005 > loud(x + note)


def test_uneven_taps_are_evened_for_what_is_slow() -> None:
    torch = pytest.importorskip("torch")
    from ostinato.tools.tiny.even import even, moments
    from ostinato.tools.tiny.vae import Vae

    torch.manual_seed(0)
    vae, latents = Vae().eval().requires_grad_(False), torch.randn(2, 64, 25)

    def slow_tones() -> list[float]:
        found = []
        for block in vae.decoder.block[1:]:
            conv = block.conv_t1
            sums = conv.weight.double().unflatten(-1, (-1, conv.s)).sum(-2)
            uneven = (sums - sums.mean(-1, keepdim=True)).flatten(1)
            found.append((uneven.T @ moments(vae, conv, latents)[0] @ uneven).trace().item())
        return found

    before = slow_tones()
    even(vae, latents, 1e-3)
    assert all(after < 1e-3 * was for was, after in zip(before, slow_tones(), strict=True))


def test_keys_that_share_notes_are_told() -> None:
    assert detect.key_ok((9, True), 9, True) == "exact"
    assert detect.key_ok((0, False), 9, True) == detect.key_ok((9, True), 0, False) == "relative"
    assert detect.key_ok((7, False), 0, False) == "fifth"
    assert detect.key_ok((6, False), 0, False) == "wrong"


def test_noise_silence_and_a_drone_are_no_music() -> None:
    noise = np.random.default_rng(0).standard_normal((2, len(TIME))) * 0.1
    assert detect.flatness(noise) > 0.4 and detect.flatness(chords(0, False)) < 0.01
    assert detect.silence(noise * 0) == 1.0 and detect.silence(noise) == 0.0
    assert detect.regularity(clicks(120)) > 0.7 > 0.3 > detect.regularity(noise)
    music = [hear(clicks(120) + chords(0, False))]
    assert inside(music, music) == 1.0
    assert inside([hear(noise), hear(noise * 0)], music) == 0.0


def test_the_reference_tells_what_it_was_learnt_for() -> None:
    reference = Reference.load()
    assert {name: len(reference.values[name]["classes"]) for name in TOLD} == {"style": 8, "drums": 2, "only": 4}
    assert reference.told(hear(clicks(120)), "only") == "drums"
