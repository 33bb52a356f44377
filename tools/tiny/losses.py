"""Losses of the VAE: mel, fine and complex spectra, and a discriminator of complex spectra at one scale."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

RATE = 48_000
FLOOR = 3e-3  # of spectral magnitudes: about -105 dB under full scale, above the rounding noise
MELS = ((2048, 160), (1024, 120), (512, 80), (256, 40), (128, 20), (64, 10))  # window, bands
FINE, COMPLEX = (8192, 4096), (2048, 512, 128)  # 2048 samples cannot part semitones of a bass


def mel_matrix(n_fft: int, n_mels: int) -> Tensor:
    """Filters `[n_mels, n_fft / 2 + 1]`, each of sum 1 and none empty."""

    def hz(mel: float) -> float:
        return 700 * (10 ** (mel / 2595) - 1)

    top = 2595 * math.log10(1 + RATE / 2 / 700)
    edges = [hz(top * i / (n_mels + 1)) for i in range(n_mels + 2)]
    f = torch.linspace(0, RATE / 2, n_fft // 2 + 1)
    step = RATE / n_fft
    rows = []
    for a, b, c in zip(edges, edges[1:], edges[2:], strict=False):
        a, c = min(a, b - step), max(c, b + step)
        rows.append(torch.minimum((f - a) / (b - a), (c - f) / (c - b)).clamp(min=0))
    m = torch.stack(rows)
    return m / m.sum(1, keepdim=True).clamp(min=1e-6)


class MelLoss(nn.Module):
    """Distance of log10 mel spectra at six scales."""

    def __init__(self) -> None:
        super().__init__()
        for n, m in MELS:
            self.register_buffer(f"w{n}", torch.hann_window(n))
            self.register_buffer(f"m{n}", mel_matrix(n, m))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Both `[B, samples]`."""
        loss = a.new_zeros(())
        for n, _ in MELS:
            w, m = getattr(self, f"w{n}"), getattr(self, f"m{n}")
            x, y = (m @ torch.stft(v, n, n // 4, window=w, return_complex=True).abs().clamp(min=1e-7) for v in (a, b))
            loss = loss + (x.clamp(min=FLOOR).log10() - y.clamp(min=FLOOR).log10()).abs().mean()
        return loss


class FineLoss(nn.Module):
    """Log spectra under 6 kHz at a few hertz, and complex spectra with every bin weighed alike."""

    def __init__(self) -> None:
        super().__init__()
        for n in FINE + COMPLEX:
            self.register_buffer(f"w{n}", torch.hann_window(n))

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        high = cplx = a.new_zeros(())
        for n in FINE:
            x, y = (self._spectrum(v, n)[:, : int(6000 * n / RATE)].abs().clamp(min=1e-2).log10() for v in (a, b))
            high = high + (x - y).abs().mean() / 2
        for n in COMPLEX:
            x, y = (self._spectrum(v, n) for v in (a, b))
            cplx = cplx + ((x - y).abs() / (y.abs().mean(-1, keepdim=True) + 0.02)).mean() / 3
        return high, cplx

    def _spectrum(self, x: Tensor, n: int) -> Tensor:
        return torch.stft(x, n, n // 4, window=getattr(self, f"w{n}"), return_complex=True)


LOCK = 192  # samples: the decoder's first upsampling makes 250 Hz of 25, and what it adds at every step is a tone


def locked(y: Tensor, x: Tensor) -> Tensor:
    """Compute what y has more than x at each place of the decoder's step of 4 ms, over all of them: `[..., LOCK]`.

    Sounds are off that grid and vanish in the mean; a tone at a multiple of 250 Hz, in phase with the frames, stays.
    What does not vanish of an error e dB under the music is e - 10 log10(steps) dB: over 80 steps that hides tones at
    -30 dB, over the 2,560 of a clip those at -45 dB.
    """
    return (y - x).unflatten(-1, (-1, LOCK)).mean(-2)


@torch.no_grad()
def figures(y: Tensor, truth: Tensor, mel: MelLoss) -> dict[str, float]:
    """Compare clips `[B, 2, samples]` with the truth, in dB: SI-SDR (mean, lowest tenth), log-mel distance, and how
    loud the decoder's own tones are beside the music (mean, loudest).
    """
    a, b = truth.flatten(1), y.flatten(1)
    s = (a * b).sum(1, keepdim=True) / a.square().sum(1, keepdim=True) * a
    sdr = 10 * torch.log10(s.square().sum(1) / (s - b).square().sum(1))
    mels = []
    for v in (truth, y):
        z = torch.stft(v.flatten(0, 1), 2048, 512, window=mel.w2048, return_complex=True).abs()
        mels.append(20 * (mel.m2048 @ z).clamp(min=FLOOR).log10())
    own = 10 * (locked(y, truth).square().mean((1, 2)) / truth.square().mean((1, 2))).log10()
    found = {"si_sdr": sdr.mean(), "si_sdr_low": sdr.quantile(0.1), "mel_db": (mels[0] - mels[1]).abs().mean()}
    found |= {"tones_db": own.mean(), "tones_worst": own.max()}
    return {name: round(v.item(), 3) for name, v in found.items()}


class ScaleD(nn.Module):
    """Judges complex spectra of one window, compressed so that quiet highs are heard. Its features come with it."""

    def __init__(self, n_fft: int, c: int = 32) -> None:
        super().__init__()
        self.n = n_fft
        self.register_buffer("w", torch.hann_window(n_fft))
        self.convs = nn.ModuleList(
            [weight_norm(nn.Conv2d(4, c, (3, 9), padding=(1, 4)))]
            + [weight_norm(nn.Conv2d(c, c, (3, 9), stride=(1, 2), dilation=(d, 1), padding=(d, 4))) for d in (1, 2, 4)]
            + [weight_norm(nn.Conv2d(c, c, (3, 3), padding=1))]
        )
        self.out = weight_norm(nn.Conv2d(c, 1, (3, 3), padding=1))

    def spec(self, x: Tensor) -> Tensor:
        z = torch.stft(x.flatten(0, 1), self.n, self.n // 4, window=self.w, return_complex=True, normalized=True)
        mag = z.abs() + 1e-5
        s = torch.view_as_real(z) * mag.pow(-0.6).unsqueeze(-1)
        b = x.shape[0]
        s = s.view(b, 2, *s.shape[1:]).permute(0, 1, 4, 3, 2).flatten(1, 2)  # [B, 4, T, F]
        return s.contiguous(memory_format=torch.channels_last)

    def forward(self, s: Tensor) -> list[Tensor]:
        feats = []
        for c in self.convs:
            s = F.leaky_relu(c(s), 0.2)
            feats.append(s)
        return [*feats, self.out(s)]
