"""The reference transformer with a mask on its condition tokens.

B rows, T frames (a multiple of the patch size), N = T / patch decoder tokens, L condition tokens, H condition width.
"""

from __future__ import annotations

import copy
import threading

import torch
from diffusers import AceStepTransformer1DModel
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from torch import Tensor, nn

from .factors import PLACES, Factors, kron_product


class MaskedDecoder(nn.Module):
    """`diffusers.AceStepTransformer1DModel` run layer by layer, so that padding in the condition is not attended.

    The model's own forward passes no mask to cross-attention. With a mask of ones both give the same (`r == t`, as at
    inference). The sinusoid of the time embedding is float32 whatever the weights' dtype.
    """

    def __init__(self, transformer: AceStepTransformer1DModel) -> None:
        super().__init__()
        self.model = transformer
        self._tables_of: dict[tuple, tuple[tuple[Tensor, Tensor], Tensor]] = {}
        self._adapted: tuple[nn.ModuleList, _Current] | None = None  # in a tuple, so that it is no submodule

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor,
        context_latents: Tensor,
        lora: Factors | None = None,
    ) -> Tensor:
        """Compute the velocity `[B, T, C]`; shapes as in `Rows`. Without factors no kernel is added."""
        model = self.model
        temb, modulation = self._time(timestep)
        x = torch.cat([context_latents, hidden_states], dim=-1)
        x = model.proj_in_conv(x.transpose(1, 2)).transpose(1, 2)  # [B, N, hidden]
        condition = model.condition_embedder(encoder_hidden_states)
        rotary, band = self._tables(x)
        mask = encoder_attention_mask[:, None, None, :]  # over heads and queries
        for kind, layer in zip(model.layer_types, self._layers(lora), strict=True):
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

    def _layers(self, lora: Factors | None) -> nn.ModuleList:
        """Return the model's own layers, or their twin, set to add these factors in this thread."""
        if lora is None or lora.silent:
            return self.model.layers
        if self._adapted is None:
            self._adapted = _twin(self.model.layers)
        layers, current = self._adapted
        current.factors = lora
        return layers

    def _time(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Sum both time embeddings: `[B, hidden]`, and the modulation `[B, 6, hidden]`."""
        parts = []
        for embed, value in ((self.model.time_embed, t), (self.model.time_embed_r, torch.zeros_like(t))):
            wave = embed.time_sinusoid(value.float() * embed.scale).to(embed.linear_1.weight.dtype)
            one = embed.linear_2(embed.act1(embed.linear_1(wave)))
            parts.append((one, embed.time_proj(embed.act2(one)).unflatten(1, (6, -1))))
        (temb, modulation), (temb_r, modulation_r) = parts
        return temb + temb_r, modulation + modulation_r

    def _tables(self, x: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Return the rotary tables and the band mask of the sliding layers.

        They depend on the shape alone, and are kept because a captured pass goes on reading them. The band is the
        larger, N^2 bytes: 0.6 MB for a minute of music.
        """
        key = (x.shape[1], x.device, x.dtype)
        if key not in self._tables_of:
            self._tables_of[key] = (_rotary(self.model, x), _band(self.model, x))
        return self._tables_of[key]


def _rotary(model: AceStepTransformer1DModel, x: Tensor) -> tuple[Tensor, Tensor]:
    position = torch.arange(x.shape[1], device=x.device, dtype=torch.float32)
    cos, sin = get_1d_rotary_pos_embed(
        model.head_dim, position, theta=model.rope_theta, use_real=True, repeat_interleave_real=False
    )
    return cos.to(x.dtype), sin.to(x.dtype)


def _band(model: AceStepTransformer1DModel, x: Tensor) -> Tensor:
    """Make the band mask `[1, 1, N, N]` bool, True where `|i - j| <= sliding_window`."""
    index = torch.arange(x.shape[1], device=x.device)
    return ((index[:, None] - index[None, :]).abs() <= model.config.sliding_window)[None, None]


class _Current(threading.local):
    """The factors of the pass that runs in this thread."""

    factors: Factors


class _Adapted(nn.Module):
    """A linear layer plus the adapters' terms of its layer and kind."""

    def __init__(self, linear: nn.Module, layer: int, kind: str, current: _Current) -> None:
        super().__init__()
        self.linear, self.layer, self.kind, self.current = linear, layer, kind, current

    def forward(self, x: Tensor) -> Tensor:
        y, factors = self.linear(x), self.current.factors
        if self.kind in factors.used:
            low = nn.functional.linear(x, factors.a[self.kind][self.layer])
            added = y.view(-1, y.shape[-1]).addmm_(low.view(-1, low.shape[-1]), factors.b[self.kind][self.layer].T)
            y = added.view_as(y)
        for w1, w2 in factors.krons.get(self.kind, ()):
            y = y + kron_product(x, w1[self.layer], w2[self.layer])
        return y


def _twin(layers: nn.ModuleList) -> tuple[nn.ModuleList, _Current]:
    """Copy the layers, sharing their weights even after those are replaced, with a term for factors at each linear
    layer.
    """
    tensors = {id(t): t for t in (*layers.parameters(), *layers.buffers())}
    current, twin = _Current(), copy.deepcopy(layers, tensors)
    for own, theirs in zip(twin.modules(), layers.modules(), strict=True):
        own._parameters, own._buffers = theirs._parameters, theirs._buffers
    for i, layer in enumerate(twin):
        for kind, place in PLACES.items():
            owner, _, leaf = place.rpartition(".")
            parent = layer.get_submodule(owner)
            setattr(parent, leaf, _Adapted(parent.get_submodule(leaf), i, kind, current))
    return twin, current
