"""The decoder as it is exported, in operators that ONNX and TensorRT take.

B rows, T frames (even), N = T / 2 decoder tokens, L condition tokens, H condition width, r adapter rank. The module
shares the weights of the model that it is made from, except the few with another layout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AceStepTransformer1DModel
from torch import Tensor, nn

from ...engines.factors import KINDS
from ...errors import EngineBuildError
from ...spec import ACE_STEP

MAX_FRAMES = ACE_STEP.max_frames  # rows of the rotary table

# Where a graph of bfloat16 weights computes in float32, as the reference does; part of the recipe. The softmax is one
# of them where it is written out; otherwise the library's attention operator decides.
ISLANDS = ("timestep sinusoid", "time embedding of 0", "rms norm statistics", "rotary product")

Factors = dict[str, tuple[Tensor, Tensor]]  # kind -> A [r, in] and B [out, r] of one layer
Project = Callable[[Tensor, str, nn.Linear], Tensor]


class DecoderGraph(nn.Module):
    """`MaskedDecoder` with operators that build: patch convolutions as matrix products, rotary angles from a table.

    `time_embed_r` is constant, because inference always passes it 0.

    Args:
        transformer: the reference model, on the CPU.
        fused: whether the target has operators for attention and RMS norm (ONNX opset 23); else they are written out.

    Attributes:
        prefix: of its weights' names, before the model's own.
        made: buffers computed from weights, and the parts of the model that each replaces; those that are float32
            whatever the weights are rounded where they are used.
    """

    patch_in: Tensor  # [hidden, 2 * 192]
    patch_out: Tensor  # [2 * 64, hidden]
    patch_out_bias: Tensor  # [2 * 64]
    still: Tensor  # [1, hidden], float32
    still_modulation: Tensor  # [1, 6, hidden], float32
    frequency: Tensor  # [128], float32
    cosine: Tensor  # [7500, head_dim / 2], float32
    sine: Tensor

    prefix = "model."
    made: dict[str, tuple[str, ...]] = {
        "patch_in": ("proj_in_conv.weight",),
        "patch_out": ("proj_out_conv.weight",),
        "patch_out_bias": ("proj_out_conv.bias",),
        "still": ("time_embed_r",),
        "still_modulation": ("time_embed_r",),
        "frequency": (),
        "cosine": (),
        "sine": (),
    }

    def __init__(self, transformer: AceStepTransformer1DModel, fused: bool = True) -> None:
        super().__init__()
        self.model, self.fused = transformer, fused
        conv_in, conv_out = transformer.proj_in_conv, transformer.proj_out_conv
        with torch.no_grad():
            # [out, in, patch] and [in, out, patch] as linear layers over a token's frames, in order
            self.register_buffer("patch_in", conv_in.weight.permute(0, 2, 1).flatten(1))
            self.register_buffer("patch_out", conv_out.weight.permute(2, 1, 0).flatten(0, 1))
            self.register_buffer("patch_out_bias", conv_out.bias.repeat(ACE_STEP.patch))
            self.register_buffer("frequency", _frequencies(transformer.time_embed.time_sinusoid.num_channels))
            still, modulation = _time(transformer.time_embed_r, self._wave(torch.zeros(1)), torch.float32)
            self.register_buffer("still", still)
            self.register_buffer("still_modulation", modulation)
            angles = _angles(transformer)
            self.register_buffer("cosine", angles.cos())
            self.register_buffer("sine", angles.sin())

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor,
        context_latents: Tensor,
        lora: Sequence[Tensor] = (),
    ) -> Tensor:
        """Return the velocity `[B, T, 64]`.

        Shapes as in `Rows`; `lora` has A `[layers, r, in]` and B `[layers, out, r]` of each of `KINDS` in turn.
        """
        model = self.model
        dtype = model.condition_embedder.weight.dtype
        temb, modulation = _time(model.time_embed, self._wave(timestep), dtype)
        temb = (temb.float() + self.still).to(dtype)
        modulation = (modulation.float() + self.still_modulation).to(dtype)
        x = torch.cat([context_latents, hidden_states], dim=-1)
        batch, tokens = x.shape[0], x.shape[1] // ACE_STEP.patch
        x = F.linear(x.reshape(batch, tokens, ACE_STEP.patch * x.shape[2]), self.patch_in, model.proj_in_conv.bias)
        condition = model.condition_embedder(encoder_hidden_states)
        rotary = (self.cosine[:tokens].to(dtype).unsqueeze(1), self.sine[:tokens].to(dtype).unsqueeze(1))
        band = self._band(tokens)
        mask = encoder_attention_mask[:, None, None].expand(-1, -1, tokens, -1)  # attention may need the full shape
        for i, (kind, layer) in enumerate(zip(model.layer_types, model.layers, strict=True)):
            factors = {k: (lora[2 * j][i], lora[2 * j + 1][i]) for j, k in enumerate(KINDS)} if lora else {}
            x = self._layer(
                layer, x, modulation, rotary, band if kind == "sliding_attention" else None, condition, mask, factors
            )
        table = model.scale_shift_table + temb[:, None]
        x = self._norm(x, model.norm_out) * (1 + table.narrow(1, 1, 1)) + table.narrow(1, 0, 1)
        x = F.linear(x, self.patch_out, self.patch_out_bias)
        return x.reshape(batch, ACE_STEP.patch * tokens, ACE_STEP.channels)

    def _wave(self, t: Tensor) -> Tensor:
        """Return the sinusoid of times `[B]`: `[B, 256]` float32.

        Its frequencies come from a table: at angles up to 1000, rounding them otherwise changes the fifth digit.
        """
        angle = (t.float() * self.model.time_embed.scale)[:, None] * self.frequency
        return torch.cat([angle.cos(), angle.sin()], dim=-1)

    def _layer(
        self,
        layer: Any,
        x: Tensor,
        modulation: Tensor,
        rotary: tuple[Tensor, Tensor],
        band: Tensor | None,
        condition: Tensor,
        mask: Tensor,
        factors: Factors,
    ) -> Tensor:
        """Run one block, `[B, N, hidden]` to the same shape; `rotary` is `[N, 1, head_dim / 2]` twice."""

        def project(value: Tensor, kind: str, linear: nn.Linear) -> Tensor:
            out = linear(value)
            if kind in factors:
                a, b = factors[kind]
                out = out + (value @ a.mT) @ b.mT
            return out

        table = layer.scale_shift_table + modulation
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = (table.narrow(1, i, 1) for i in range(6))
        normed = self._norm(x, layer.self_attn_norm) * (1 + scale) + shift
        x = x + self._attend("self", layer.self_attn, normed, normed, rotary, band, project) * gate
        normed = self._norm(x, layer.cross_attn_norm)
        x = x + self._attend("cross", layer.cross_attn, normed, condition, None, mask, project)
        normed = self._norm(x, layer.mlp_norm) * (1 + mlp_scale) + mlp_shift
        inner = F.silu(project(normed, "gate", layer.mlp.gate_proj)) * project(normed, "up", layer.mlp.up_proj)
        return x + project(inner, "down", layer.mlp.down_proj) * mlp_gate

    def _attend(
        self,
        place: str,
        attention: Any,
        x: Tensor,
        source: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        mask: Tensor | None,
        project: Project,
    ) -> Tensor:
        heads, groups, width = attention.heads, attention.kv_heads, attention.head_dim
        q = project(x, f"{place}_q", attention.to_q).unflatten(-1, (heads, width))
        k = project(source, f"{place}_k", attention.to_k).unflatten(-1, (groups, width))
        v = project(source, f"{place}_v", attention.to_v).unflatten(-1, (groups, width)).transpose(1, 2)
        q, k = self._norm(q, attention.norm_q), self._norm(k, attention.norm_k)
        if rotary is not None:
            q, k = _rotate(q, *rotary), _rotate(k, *rotary)
        q, k = q.transpose(1, 2), k.transpose(1, 2)  # [B, heads, N, head_dim]
        if self.fused:
            out = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, scale=attention.scaling, enable_gqa=heads != groups
            )
        else:
            out = _attention(q, k, v, mask, attention.scaling)
        return project(out.transpose(1, 2).flatten(2), f"{place}_o", attention.to_out[0])

    def _norm(self, x: Tensor, norm: Any) -> Tensor:
        """Apply RMS norm over the last dimension; statistics in float32, rounded before the gain."""
        if self.fused:
            return F.rms_norm(x, (x.shape[-1],), norm.weight, norm.eps)
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + norm.eps)).to(x.dtype) * norm.weight

    def _band(self, tokens: int) -> Tensor:
        """Return a `[1, 1, N, N]` bool mask, True where `|i - j| <= sliding_window`."""
        index = torch.arange(tokens)
        return ((index[:, None] - index[None, :]).abs() <= self.model.config.sliding_window)[None, None]


def check_decoder(model: AceStepTransformer1DModel) -> None:
    """Raise `EngineBuildError` for a transformer of other sizes than the graph is written for."""
    config = model.config
    given = config.patch_size, config.in_channels, config.audio_acoustic_hidden_dim
    channels = ACE_STEP.channels
    if given != (needed := (ACE_STEP.patch, channels + ACE_STEP.context, channels)):
        raise EngineBuildError(
            f"the decoder has patch size, input and output channels {given}", f"allowed are {needed}",
            "choose an ACE-Step 1.5 model",
        )  # fmt: skip


def _time(embed: Any, wave: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the time embedding `[B, hidden]` and modulation `[B, 6, hidden]` of a sinusoid, computed in `dtype`."""

    def linear(x: Tensor, layer: nn.Linear) -> Tensor:
        return F.linear(x, layer.weight.to(dtype), layer.bias.to(dtype))

    one = linear(wave.to(dtype), embed.linear_1)
    one = linear(F.silu(one), embed.linear_2)
    return one, linear(F.silu(one), embed.time_proj).unflatten(1, (6, -1))


def _frequencies(channels: int) -> Tensor:
    """Return `[channels / 2]` float32 frequencies `10000 ** (-i / (channels / 2))`."""
    half = channels // 2
    return torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float32) / half)


def _angles(model: AceStepTransformer1DModel) -> Tensor:
    """Return `[MAX_FRAMES / 2, head_dim / 2]` float32: position times frequency."""
    exponent = torch.arange(0, model.head_dim, 2, dtype=torch.float32) / model.head_dim
    place = torch.arange(MAX_FRAMES // ACE_STEP.patch, dtype=torch.float32)
    return torch.outer(place, 1.0 / model.rope_theta**exponent)


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Apply rotary embedding to `[B, N, heads, head_dim]`: a head's halves are the real and imaginary parts."""
    half = x.shape[-1] // 2
    a, b = x.narrow(-1, 0, half).float(), x.narrow(-1, half, half).float()
    return torch.cat([a * cosine - b * sine, b * cosine + a * sine], dim=-1).to(x.dtype)


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Compute `softmax(q k^T * scale + mask) v`, softmax in float32; K and V are repeated for the heads that share
    them."""
    share = q.shape[1] // k.shape[1]
    if share > 1:
        k, v = (t[:, :, None].expand(-1, -1, share, -1, -1).flatten(1, 2) for t in (k, v))
    scores = (q @ k.mT).float() * scale
    if mask is not None:
        scores = scores + torch.where(mask, 0.0, -math.inf)
    return scores.softmax(-1).to(q.dtype) @ v
