"""AutoencoderOobleck's arithmetic, laid out for fast training, with the same parameter names.

Audio is `[B, 2, samples]` at 48 kHz, latents `[B, 64, frames]` at 25 Hz. Convolutions run as `[B, C, 1, T]`, channels
last, which trains faster. The encoder is narrower than the class allows: engine_runtime/models/narrow.py loads it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RATIOS = (4, 8, 6, 10)  # samples a level, from the audio on: 48 kHz to 25 Hz
DECODER = (24, 48, 120, 240, 240)  # channels at 48 kHz, 12 kHz, 1.5 kHz, 250 Hz, 25 Hz; the first costs most on a CPU
ENCODER = (32, 64, 128, 256, 256)
RESIDUAL = (False, True, True, True)  # levels of the encoder that have residual units
LATENT = 64


class Conv(nn.Module):
    """A weight-normed convolution of any of the kinds the class has."""

    def __init__(
        self,
        i: int,
        o: int,
        k: int,
        stride: int = 1,
        pad: int = 0,
        dilation: int = 1,
        bias: bool = True,
        transposed: bool = False,
    ) -> None:
        super().__init__()
        c = (nn.ConvTranspose1d if transposed else nn.Conv1d)(i, o, k, bias=bias)
        self.weight_v = nn.Parameter(c.weight.detach().clone())
        self.weight_g = nn.Parameter(c.weight.detach().flatten(1).norm(dim=1).view(-1, 1, 1).clone())
        self.bias = nn.Parameter(c.bias.detach().clone()) if bias else None
        self.s, self.p, self.d, self.t = stride, pad, dilation, transposed

    @property
    def weight(self) -> Tensor:
        """Fold the norm in."""
        return self.weight_v * (self.weight_g / self.weight_v.flatten(1).norm(dim=1).view(-1, 1, 1))

    @torch.no_grad()
    def set_weight(self, w: Tensor) -> None:
        self.weight_v.copy_(w)
        self.weight_g.copy_(w.flatten(1).norm(dim=1).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight.unsqueeze(2)
        if self.t:
            return F.conv_transpose2d(x, w, self.bias, stride=(1, self.s), padding=(0, self.p))
        return F.conv2d(x, w, self.bias, stride=(1, self.s), padding=(0, self.p), dilation=(1, self.d))


class Snake(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.alpha, self.beta = nn.Parameter(torch.zeros(1, c, 1)), nn.Parameter(torch.zeros(1, c, 1))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.alpha.exp().unsqueeze(-1), self.beta.exp().unsqueeze(-1)
        y = x.float()
        return (y + (b + 1e-9).reciprocal() * torch.sin(a * y).pow(2)).to(x.dtype)


class Res(nn.Module):
    def __init__(self, c: int, d: int) -> None:
        super().__init__()
        self.snake1, self.conv1 = Snake(c), Conv(c, c, 7, pad=3 * d, dilation=d)
        self.snake2, self.conv2 = Snake(c), Conv(c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.snake2(self.conv1(self.snake1(x))))


class EncBlock(nn.Module):
    def __init__(self, i: int, o: int, s: int, res: bool) -> None:
        super().__init__()
        for n, d in enumerate((1, 3, 9), 1):
            setattr(self, f"res_unit{n}", Res(i, d) if res else nn.Identity())
        self.snake1, self.conv1 = Snake(i), Conv(i, o, 2 * s, stride=s, pad=math.ceil(s / 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv1(self.snake1(self.res_unit3(self.res_unit2(self.res_unit1(x)))))


class DecBlock(nn.Module):
    def __init__(self, i: int, o: int, s: int) -> None:
        super().__init__()
        self.snake1, self.conv_t1 = Snake(i), Conv(i, o, 2 * s, stride=s, pad=math.ceil(s / 2), transposed=True)
        for n, d in enumerate((1, 3, 9), 1):
            setattr(self, f"res_unit{n}", Res(o, d))

    def forward(self, x: Tensor) -> Tensor:
        return self.res_unit3(self.res_unit2(self.res_unit1(self.conv_t1(self.snake1(x)))))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = Conv(2, ENCODER[0], 7, pad=3)
        levels = zip(ENCODER, ENCODER[1:], RATIOS, RESIDUAL, strict=False)
        self.block = nn.ModuleList(EncBlock(*level) for level in levels)
        self.snake1, self.conv2 = Snake(ENCODER[-1]), Conv(ENCODER[-1], 2 * LATENT, 3, pad=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for b in self.block:
            x = b(x)
        return self.conv2(self.snake1(x))


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        widths = DECODER[::-1]
        self.conv1 = Conv(LATENT, widths[0], 7, pad=3)
        self.block = nn.ModuleList(DecBlock(*level) for level in zip(widths, widths[1:], RATIOS[::-1], strict=False))
        self.snake1, self.conv2 = Snake(widths[-1]), Conv(widths[-1], 2, 7, pad=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for b in self.block:
            x = b(x)
        return self.conv2(self.snake1(x))


def _wide(x: Tensor) -> Tensor:
    return x.unsqueeze(2).contiguous(memory_format=torch.channels_last)


class Vae(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(), Decoder()
        last = self.encoder.conv2  # let the latents speak over their noise from the first step
        with torch.no_grad():
            last.weight_g[:64] *= 8
            last.bias[64:] = -3.0

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, `[B, 64, T]`."""
        mean, scale = self.encoder(_wide(x)).squeeze(2).float().chunk(2, dim=1)
        return mean, F.softplus(scale) + 1e-4

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(_wide(z)).squeeze(2).float()

    @torch.no_grad()
    def normalise(self, latents: Tensor) -> Tensor:
        """Make channels of mean 0 and deviation 1 of what gave these latents `[64, n]`; their deviations `[64]`.

        Shift and scale go into the convolutions about the latent. The posterior's deviation is softplus, nearly exp
        where it is small, and follows. What is off by the decoder's zero padding is three frames.
        """
        mean, deviation = latents.mean(1), latents.std(1).clamp(min=1e-3)
        last, first = self.encoder.conv2, self.decoder.conv1
        last.weight_g[:LATENT] /= deviation[:, None, None]
        last.bias[:LATENT] = (last.bias[:LATENT] - mean) / deviation
        last.bias[LATENT:] -= deviation.log()
        w = first.weight
        first.bias += (w.sum(2) * mean[None]).sum(1)
        first.set_weight(w * deviation[None, :, None])
        return deviation


def load_vae(path: str, device: str) -> Vae:
    """A trained VAE, float32, not to be trained."""
    from safetensors.torch import load_file

    vae = Vae().eval().requires_grad_(False)
    vae.load_state_dict({name: t.float() for name, t in load_file(path).items()})
    return vae.to(device)


@torch.no_grad()
def silence_of(vae: Vae, device: str) -> Tensor:
    """One frame `[64]` of encoded silence, from the middle of a second of it."""
    mean = vae.encode(torch.zeros(1, 2, 48_000, device=device))[0]
    return mean[0, :, mean.shape[2] // 2].clone()
