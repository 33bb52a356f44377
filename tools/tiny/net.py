"""The text encoder, condition encoder and DiT with the parameter names of their classes, and one pass through them.

It does what AceStepPipeline's path does, batched over prompts of different length and differentiable; the classes give
the same numbers within 6e-6. The lyric and timbre encoders are silenced (their last norm is zero): every lyric token
and the timbre token are zero vectors, so N of them are one key whose logit is raised by log N.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

H, HEADS, KV, HEAD_DIM, INNER, LAYERS = 320, 5, 1, 64, 864, 7
TEXT, TEXT_LAYERS, COND = 192, 2, 192
TEXT_THETA, THETA = 10_000.0, 1_000_000.0  # of the rotary embeddings
TIMESTEPS, WAVES = 1000.0, 128  # t's scale, and half the width of its embedding


def lin(i: int, o: int, bias: bool = False) -> nn.Linear:
    """A matrix from i to o channels."""
    return nn.Linear(i, o, bias=bias)


class Norm(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n))


class Mlp(nn.Module):
    def __init__(self, d: int, inner: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = lin(d, inner), lin(d, inner), lin(inner, d)


class TextAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            lin(TEXT, 192),
            lin(TEXT, 64),
            lin(TEXT, 64),
            lin(192, TEXT),
        )
        self.q_norm, self.k_norm = Norm(64), Norm(64)


class TextLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn, self.mlp = TextAttention(), Mlp(TEXT, 2 * TEXT)
        self.input_layernorm, self.post_attention_layernorm = Norm(TEXT), Norm(TEXT)


class Text(nn.Module):
    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab, TEXT)
        self.layers = nn.ModuleList(TextLayer() for _ in range(TEXT_LAYERS))
        self.norm = Norm(TEXT)


class Cond(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.null_condition_emb = nn.Parameter(torch.randn(1, 1, COND) * 0.02)
        self.text_projector = lin(TEXT, COND)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = lin(H, HEADS * HEAD_DIM), lin(H, KV * HEAD_DIM), lin(H, KV * HEAD_DIM)
        self.to_out = nn.ModuleList([lin(HEADS * HEAD_DIM, H)])
        self.norm_q, self.norm_k = Norm(HEAD_DIM), Norm(HEAD_DIM)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.zeros(1, 6, H))
        self.self_attn_norm, self.cross_attn_norm, self.mlp_norm = Norm(H), Norm(H), Norm(H)
        self.self_attn, self.cross_attn, self.mlp = Attention(), Attention(), Mlp(H, INNER)


class TimeEmbed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear_1, self.linear_2, self.time_proj = lin(256, H, True), lin(H, H, True), lin(H, 6 * H, True)


class Dit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.zeros(1, 2, H))
        self.proj_in_conv, self.proj_out_conv = nn.Conv1d(192, H, 2, 2), nn.ConvTranspose1d(H, 64, 2, 2)
        self.time_embed, self.condition_embedder, self.norm_out = TimeEmbed(), lin(COND, H, True), Norm(H)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))


def build(vocab: int) -> nn.ModuleDict:
    """The three parts, as training begins: the DiT's layers add nothing, and its velocity is 0."""
    text, cond, dit = Text(vocab), Cond(), Dit()
    with torch.no_grad():
        for m in dit.modules():
            if isinstance(m, nn.Linear):
                nn.init.xavier_uniform_(m.weight)
                if m.bias is not None:
                    m.bias.zero_()
        for layer in dit.layers:
            layer.cross_attn.to_out[0].weight.zero_()
        dit.time_embed.time_proj.weight.zero_()
        dit.proj_out_conv.weight.zero_()
        dit.proj_out_conv.bias.zero_()
        text.embed_tokens.weight.normal_(0, 0.5)
    return nn.ModuleDict({"text_encoder": text, "condition_encoder": cond, "transformer": dit})


def number_tokens(net: nn.ModuleDict, tok) -> None:
    """Start the embeddings of 40 to 240 as smooth functions of the number, so that neighbours share what is learnt."""
    w = net["text_encoder"].embed_tokens.weight
    f = torch.exp(torch.linspace(math.log(0.01), math.log(1.0), 32))
    with torch.no_grad():
        for b in range(40, 241):
            a = b * f
            w[tok.token_to_id(f" {b}")][:64] = torch.cat([a.cos(), a.sin()]) * 0.7


def rms(x: Tensor, norm: nn.Module, eps: float = 1e-6) -> Tensor:
    """Normalise the last axis in float32."""
    return F.rms_norm(x.float(), (x.shape[-1],), norm.weight.float(), eps).to(x.dtype)


def rope(n: int, dim: int, theta: float, device) -> tuple[Tensor, Tensor]:
    """Cosines and sines of n positions, `[n, dim]` each."""
    f = theta ** (-torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim)
    a = torch.arange(n, device=device, dtype=torch.float32)[:, None] * f[None]
    a = torch.cat([a, a], -1)
    return a.cos(), a.sin()


def turn(x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate `[..., L, D]` by `rope`'s cosines and sines."""
    a, b = x.chunk(2, -1)
    return (x.float() * turns[0] + torch.cat([-b, a], -1).float() * turns[1]).to(x.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, **kw) -> Tensor:
    """`[B, heads, L, D]`, one key head shared by all."""
    k, v = k.expand(-1, q.shape[1], -1, -1), v.expand(-1, q.shape[1], -1, -1)
    return F.scaled_dot_product_attention(q, k, v, **kw).transpose(1, 2).flatten(2)


def text_states(net: Text, ids: Tensor) -> Tensor:
    """Qwen3's last hidden states; it is causal, so padding on the right needs no mask."""
    x = F.embedding(ids, net.embed_tokens.weight)
    turns = rope(ids.shape[1], 64, TEXT_THETA, ids.device)
    for layer in net.layers:
        a, h = layer.self_attn, rms(x, layer.input_layernorm)
        q, k, v = (m(h).unflatten(-1, (-1, 64)).transpose(1, 2) for m in (a.q_proj, a.k_proj, a.v_proj))
        q, k = turn(rms(q, a.q_norm), turns), turn(rms(k, a.k_norm), turns)
        x = x + a.o_proj(attend(q, k, v, is_causal=True))
        m, h = layer.mlp, rms(x, layer.post_attention_layernorm)
        x = x + m.down_proj(F.silu(m.gate_proj(h)) * m.up_proj(h))
    return rms(x, net.norm)


def condition(net: nn.ModuleDict, ids: Tensor, lengths: Tensor, zeros: Tensor, drop: Tensor) -> tuple[Tensor, Tensor]:
    """The DiT's keys `[B, 1 + L, COND]` and their bias `[B, 1, 1, 1 + L]`.

    Args:
        zeros: how many lyric and timbre tokens each prompt has.
        drop: which prompts are replaced by the null condition.
    """
    cond = net["condition_encoder"]
    x = cond.text_projector(text_states(net["text_encoder"], ids))
    x = torch.cat([torch.zeros_like(x[:, :1]), x], 1)
    null = cond.null_condition_emb.to(x.dtype).expand_as(x)
    x = torch.where(drop[:, None, None], null, x)
    keep = torch.arange(x.shape[1], device=ids.device)[None] <= lengths[:, None]
    bias = torch.where(keep, 0.0, -1e4)
    bias = torch.cat([zeros.float().log()[:, None], bias[:, 1:]], 1)
    return x, bias[:, None, None]


def block(
    h, six, keys, bias, cos, sin, table, n1, q1, k1, v1, o1, a1, b1, n2, q2, k2, v2, o2, a2, b2, n3, gate, up, down
):
    """One layer with its weights handed in, so that one compiled function serves all."""

    def norm(x, w):
        return F.rms_norm(x.float(), (x.shape[-1],), w.float(), 1e-6).to(x.dtype)

    def heads(x):
        return x.unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2)

    s1, c1, g1, s2, c2, g2 = (table + six).chunk(6, 1)
    n = norm(h, n1) * (1 + c1) + s1
    q, k, v = (heads(F.linear(n, w)) for w in (q1, k1, v1))
    q, k = turn(norm(q, a1), (cos, sin)), turn(norm(k, b1), (cos, sin))
    h = h + F.linear(attend(q, k, v), o1) * g1
    n = norm(h, n2)
    q, k, v = heads(F.linear(n, q2)), heads(F.linear(keys, k2)), heads(F.linear(keys, v2))
    h = h + F.linear(attend(norm(q, a2), norm(k, b2), v, attn_mask=bias.to(q.dtype)), o2)
    n = norm(h, n3) * (1 + c2) + s2
    return h + F.linear(F.silu(F.linear(n, gate)) * F.linear(n, up), down) * g2


_block = block


def compile_block() -> None:
    """Compile a layer for the passes with a `tap`; done once for all layers, it takes half a minute."""
    global _block
    _block = torch.compile(block, dynamic=False)


_NAMES = [f"{a}.{n}.weight" if n else f"{a}_norm.weight" for a in ("self_attn", "cross_attn")
          for n in ("", "to_q", "to_k", "to_v", "to_out.0", "norm_q", "norm_k")]  # fmt: skip
_NAMES = ["scale_shift_table", *_NAMES, "mlp_norm.weight", *(f"mlp.{n}_proj.weight" for n in ("gate", "up", "down"))]


def _weights(weights: dict[str, Tensor], i: int) -> list[Tensor]:
    """A layer's tensors in `block`'s order."""
    return [weights[f"layers.{i}.{n}"] for n in _NAMES]


def velocity(
    dit: Dit,
    x: Tensor,
    t: Tensor,
    keys: Tensor,
    bias: Tensor,
    context: Tensor,
    tap: int = -1,
    weights: dict[str, Tensor] | None = None,
):
    """dx/dt `[B, T, 64]`, T even and at most 256 frames (the sliding window then sees all).

    Args:
        keys, bias: of `condition`.
        tap: the compiled layer is used where it is not negative, and the state before this layer comes back too.
        weights: the transformer's, by name, in place of its own.
    """
    weights = weights or dict(dit.named_parameters())
    te = dit.time_embed
    f = torch.exp(-math.log(10000) * torch.arange(WAVES, device=x.device, dtype=torch.float32) / WAVES)
    a = (t.float() * TIMESTEPS)[:, None] * f[None]
    e = te.linear_2(F.silu(te.linear_1(torch.cat([a.cos(), a.sin()], -1))))
    six = te.time_proj(F.silu(e)).unflatten(1, (6, -1))
    h = torch.cat([context, x], -1).unflatten(1, (-1, 2)).transpose(2, 3).flatten(2)  # patches: channel, then frame
    w = dit.proj_in_conv
    h = F.linear(h, w.weight.flatten(1), w.bias).float()
    keys = dit.condition_embedder(keys)
    cos, sin = rope(h.shape[1], HEAD_DIM, THETA, x.device)
    mid = None
    for i in range(len(dit.layers)):
        if i == tap:
            mid = h
        h = (_block if tap >= 0 else block)(h, six, keys, bias, cos, sin, *_weights(weights, i))
    shift, scale = (dit.scale_shift_table + e[:, None]).chunk(2, 1)
    h = rms(h, dit.norm_out) * (1 + scale) + shift
    w = dit.proj_out_conv  # a transposed convolution whose stride is its width is a matrix
    y = F.linear(h, w.weight.flatten(1).t()).unflatten(-1, (-1, 2)).transpose(2, 3).flatten(1, 2)
    return y + w.bias if mid is None else (y + w.bias, mid)


def schedule(steps: int, shift: float, device: torch.device | str) -> Tensor:
    """Times from 1 to 0, `[steps + 1]`: shift t / (1 + (shift - 1) t)."""
    t = torch.linspace(1, 0, steps + 1, device=device)
    return shift * t / (1 + (shift - 1) * t)
