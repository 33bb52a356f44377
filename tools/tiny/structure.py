"""The audio tokenizer and detokenizer of covers, with the parameter names of their classes, differentiable.

Latents `[B, T, 64]` at 25 Hz become one token of 16 numbers of 8 levels for 5 frames, and hints `[B, T, 64]` again.
Hints say which notes sound and start: they are trained on nothing else, so that instruments cannot pass.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .net import Mlp, Norm, attend, lin, rms, rope, turn

WIDTH, HEADS, HEAD_DIM, INNER = 128, 4, 32, 224
PATCH, NUMBERS, LEVELS = 5, 16, 8  # frames of a token, its numbers, and the levels of each: 48 bits
LATENT = 64


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = lin(WIDTH, HEADS * HEAD_DIM), lin(WIDTH, HEAD_DIM), lin(WIDTH, HEAD_DIM)
        self.to_out = nn.ModuleList([lin(HEADS * HEAD_DIM, WIDTH)])
        self.norm_q, self.norm_k = Norm(HEAD_DIM), Norm(HEAD_DIM)


class Layer(nn.Module):
    """Sees the frames of one token only."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(), Mlp(WIDTH, INNER)
        self.input_layernorm, self.post_attention_layernorm = Norm(WIDTH), Norm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        a, h = self.self_attn, rms(x, self.input_layernorm)
        q, k, v = (m(h).unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2) for m in (a.to_q, a.to_k, a.to_v))
        turns = rope(x.shape[1], HEAD_DIM, 1_000_000.0, x.device)
        x = x + a.to_out[0](attend(turn(rms(q, a.norm_q), turns), turn(rms(k, a.norm_k), turns), v))
        m, h = self.mlp, rms(x, self.post_attention_layernorm)
        return x + m.down_proj(F.silu(m.gate_proj(h)) * m.up_proj(h))


class Pooler(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens, self.norm = lin(WIDTH, WIDTH, True), Norm(WIDTH)
        self.special_token = nn.Parameter(torch.randn(1, 1, WIDTH) * 0.02)
        self.layers = nn.ModuleList([Layer()])

    def forward(self, x: Tensor) -> Tensor:
        """`[n, PATCH, WIDTH]` to `[n, WIDTH]`."""
        x = torch.cat([self.special_token.to(x.dtype).expand(len(x), -1, -1), self.embed_tokens(x)], 1)
        for layer in self.layers:
            x = layer(x)
        return rms(x, self.norm)[:, 0]


class Quantizer(nn.Module):
    """Finite scalar quantisation whose gradient passes straight through."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.project_in, self.project_out = lin(WIDTH, numbers, True), lin(numbers, WIDTH, True)

    def forward(self, x: Tensor) -> Tensor:
        most = LEVELS - 1.0
        soft = 1 + 1 / most
        with torch.autocast(x.device.type, enabled=False):
            x = (self.project_in(x.float()) / soft).tanh() * soft
            levels = torch.floor(most * (x.clamp(-1, 1) + 1) / 2 + 0.5)
            x = x + (2 * levels / most - 1 - x).detach()
            return self.project_out(x)


class Tokenizer(nn.Module):
    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.audio_acoustic_proj, self.attention_pooler = lin(LATENT, WIDTH, True), Pooler()
        self.quantizer = Quantizer(numbers)

    def forward(self, z: Tensor) -> Tensor:
        x = self.audio_acoustic_proj(z.unflatten(1, (-1, PATCH)).flatten(0, 1))
        return self.quantizer(self.attention_pooler(x)).unflatten(0, (len(z), -1))


class Detokenizer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens, self.norm = lin(WIDTH, WIDTH, True), Norm(WIDTH)
        self.special_tokens = nn.Parameter(torch.randn(1, PATCH, WIDTH) * 0.02)
        self.layers, self.proj_out = nn.ModuleList([Layer()]), lin(WIDTH, LATENT, True)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens `[B, T / PATCH, WIDTH]` to hints `[B, T, 64]`."""
        h = (self.embed_tokens(x).unsqueeze(2) + self.special_tokens.to(x.dtype)).flatten(0, 1)
        for layer in self.layers:
            h = layer(h)
        return self.proj_out(rms(h, self.norm)).unflatten(0, (len(x), -1)).flatten(1, 2)


class Structure(nn.Module):
    """Both; named as the pipeline names them."""

    def __init__(self, numbers: int = NUMBERS) -> None:
        super().__init__()
        self.audio_tokenizer, self.audio_token_detokenizer = Tokenizer(numbers), Detokenizer()

    def forward(self, z: Tensor) -> Tensor:
        """Latents to hints, T a multiple of `PATCH`."""
        return self.audio_token_detokenizer(self.audio_tokenizer(z))

    @torch.no_grad()
    def normalise(self, hints: Tensor) -> Tensor:
        """Give the hints' channels mean 0 and deviation 1, which these `[n, 64]` have not; their deviations."""
        mean, deviation = hints.mean(0), hints.std(0).clamp(min=1e-3)
        last = self.audio_token_detokenizer.proj_out
        last.weight /= deviation[:, None]
        last.bias.copy_((last.bias - mean) / deviation)
        return deviation


def load_structure(path: str, device: str) -> Structure:
    """A trained pair, float32, not to be trained."""
    from safetensors.torch import load_file

    found = {name: t.float() for name, t in load_file(path).items()}
    numbers = len(found["audio_tokenizer.quantizer.project_in.weight"])
    structure = Structure(numbers).eval().requires_grad_(False)
    structure.load_state_dict(found)
    return structure.to(device)
