"""The reference transformer with a mask on its condition tokens.

B rows, T frames (a multiple of the patch size), N = T / patch decoder tokens, L condition tokens, H condition width.
"""

from __future__ import annotations

import torch
from diffusers import AceStepTransformer1DModel
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from torch import Tensor, nn


class MaskedDecoder(nn.Module):
    """`diffusers.AceStepTransformer1DModel` run layer by layer, so that padding in the condition is not attended.

    The model's own forward passes no mask to cross-attention. With a mask of ones this gives what that forward gives
    (`r == t`, as at inference). The sinusoid of the time embedding is taken in float32 whatever the weights' dtype.
    """

    def __init__(self, transformer: AceStepTransformer1DModel) -> None:
        super().__init__()
        self.model = transformer
        self._kept: tuple | None = None

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor,
        context_latents: Tensor,
    ) -> Tensor:
        """Shapes as in `Rows`; returns the velocity `[B, T, 64]`."""
        model = self.model
        temb, modulation = self._time(timestep)
        x = torch.cat([context_latents, hidden_states], dim=-1)
        x = model.proj_in_conv(x.transpose(1, 2)).transpose(1, 2)  # [B, N, hidden]
        condition = model.condition_embedder(encoder_hidden_states)
        rotary, band = self._tables(x)
        mask = encoder_attention_mask[:, None, None, :]  # over heads and queries
        for kind, layer in zip(model.layer_types, model.layers, strict=True):
            x = layer(
                hidden_states=x,
                position_embeddings=rotary,
                temb=modulation,
                attention_mask=band if kind == "sliding_attention" else None,
                encoder_hidden_states=condition,
                encoder_attention_mask=mask,
            )
        shift, scale = (model.scale_shift_table + temb.unsqueeze(1)).chunk(2, dim=1)
        x = (model.norm_out(x) * (1 + scale) + shift).type_as(x)
        return model.proj_out_conv(x.transpose(1, 2)).transpose(1, 2)

    def _time(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of both time embeddings: `[B, hidden]`, and the modulation `[B, 6, hidden]`."""
        parts = []
        for embed, value in ((self.model.time_embed, t), (self.model.time_embed_r, torch.zeros_like(t))):
            wave = embed.time_sinusoid(value.float() * embed.scale).to(embed.linear_1.weight.dtype)
            one = embed.linear_2(embed.act1(embed.linear_1(wave)))
            parts.append((one, embed.time_proj(embed.act2(one)).unflatten(1, (6, -1))))
        (temb, modulation), (temb_r, modulation_r) = parts
        return temb + temb_r, modulation + modulation_r

    def _tables(self, x: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Rotary tables and the band of the sliding layers, kept for the last shape: they depend on nothing else."""
        key = (x.shape[1], x.device, x.dtype)
        if self._kept is None or self._kept[0] != key:
            self._kept = (key, (_rotary(self.model, x), _band(self.model, x)))
        return self._kept[1]


def _rotary(model: AceStepTransformer1DModel, x: Tensor) -> tuple[Tensor, Tensor]:
    position = torch.arange(x.shape[1], device=x.device, dtype=torch.float32)
    cos, sin = get_1d_rotary_pos_embed(
        model.head_dim, position, theta=model.rope_theta, use_real=True, repeat_interleave_real=False
    )
    return cos.to(x.dtype), sin.to(x.dtype)


def _band(model: AceStepTransformer1DModel, x: Tensor) -> Tensor:
    """`[1, 1, N, N]` bool, True where `|i - j| <= sliding_window`."""
    index = torch.arange(x.shape[1], device=x.device)
    return ((index[:, None] - index[None, :]).abs() <= model.config.sliding_window)[None, None]
