"""Wavelet bands over time against PyWavelets, and the factors of each band."""

from __future__ import annotations

import numpy as np
import pytest
import pywt
import torch
from ostinato.engine_runtime.controls.knobs import DCW_MODES, WAVELETS
from ostinato.engine_runtime.numerics import correction

from ...helpers import drawn

FRAMES = [1, 2, 3, 7, 8, 25]
ON = torch.tensor([True, False]).view(2, 1, 1)
T = torch.tensor([0.75, 0.5]).view(2, 1, 1)


@pytest.mark.parametrize("frames", FRAMES)
@pytest.mark.parametrize("name", WAVELETS)
def test_bands_are_those_of_pywavelets_and_join_again(name, frames):
    x, wavelet = drawn(1, 2, frames, 64), correction.filters(name)
    bands = correction.split(x, wavelet)
    for band, want in zip(bands, pywt.dwt(x.double().numpy(), name, mode="zero", axis=1), strict=True):
        assert band.shape[1] == wavelet.coefficients(frames)
        np.testing.assert_allclose(band, want, atol=1e-5)
    torch.testing.assert_close(correction.join(*bands, wavelet, frames), x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("frames", FRAMES)
@pytest.mark.parametrize("name", WAVELETS)
def test_bands_are_pushed_by_their_own_factors(name, frames):
    x, x0, wavelet = drawn(1, 2, frames, 64), drawn(2, 2, frames, 64), correction.filters(name)
    low, high = (drawn(seed, 2, wavelet.coefficients(frames), 1) for seed in (3, 4))
    made = correction.corrected(x, x0, low, high, T, wavelet, ON)
    slow, fast = pywt.dwt((x - x0).double().numpy(), name, mode="zero", axis=1)
    pushed = pywt.idwt(slow * (T * low).numpy(), fast * ((1 - T) * high).numpy(), name, mode="zero", axis=1)
    np.testing.assert_allclose(made[0], x[0].numpy() + pushed[0, :frames], atol=2e-5)
    assert torch.equal(made[1], x[1])


def test_pix_pushes_all_by_one_factor():
    x, x0, factor = drawn(1, 2, 7, 64), drawn(2, 2, 7, 64), drawn(3, 2, 7, 1)
    made = correction.corrected_whole(x, x0, factor, ON)
    torch.testing.assert_close(made[0], (x + factor * (x - x0))[0])
    assert torch.equal(made[1], x[1])


@pytest.mark.parametrize("name", WAVELETS)
def test_a_curve_is_sampled_at_the_middle_of_its_coefficient(name):
    """Of a line the value is the place: 2k + 1 - (n - 1) / 2 for n taps, held at both ends."""
    wavelet = correction.filters(name)
    taps = pywt.Wavelet(name).dec_len
    assert wavelet.taps == taps
    made = correction.to_band(np.arange(25.0), wavelet)
    want = np.clip(2 * np.arange((25 + taps - 1) // 2) + 1 - (taps - 1) / 2, 0, 24)
    np.testing.assert_allclose(made, want)
    assert made.dtype == np.float32


def test_every_correction_has_a_number_of_its_own():
    numbers = {correction.number_of(mode, wavelet) for mode in DCW_MODES for wavelet in WAVELETS}
    assert sorted(numbers) == list(range(1, 2 + len(WAVELETS)))
    assert correction.BY[correction.number_of("pix", "db2")] is None
    assert all(correction.BY[correction.number_of("high", wavelet)] == wavelet for wavelet in WAVELETS)
