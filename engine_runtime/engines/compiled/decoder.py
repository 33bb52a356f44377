"""The reference decoder with fused weights, few kernels, and a condition's keys and values kept in its rows.

B batch rows, T frames, N = T / patch tokens, L condition tokens, H hidden width, D head width.
"""

from __future__ import annotations

from types import ModuleType

import torch
from diffusers import AceStepTransformer1DModel
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from torch import Tensor
from torch.nn import functional

from ...device.gpu import on
from ..factors import Targets, kron_product
from . import plain
from .adapters import Resident
from .plain import Activation, Tables
from .rows import CompiledRows
from .weights import Float8, Layer, Matrix, Weights, bind, places, time_embedding


class Decoder:
    """The same function as `MaskedDecoder`, restructured.

    Args:
        model: the reference, whose memory the weights share.
        ops: the fused operations: `plain`, or `fused` on a GPU.
        fp8: the layers' products that are computed in float8, with a step for each token and each row of a weight; None
            for none. The rest keeps the model's dtype.
    """

    def __init__(self, model: AceStepTransformer1DModel, ops: ModuleType = plain, fp8: Float8 | None = None) -> None:
        attention = model.layers[0].self_attn
        self.model, self.ops, self.fp8 = model, ops, fp8
        self.heads, self.kv_heads, self.head_dim = attention.heads, attention.kv_heads, attention.head_dim
        self.eps = model.norm_out.eps
        self.widths = {kind: out for kind, (_, out) in Targets.of(model).kinds.items()}
        self.bound: Weights | None = None  # of the last `bind`, until `release`
        self._places: list[int] = []

    @property
    def weights(self) -> Weights:
        if self.bound is None:
            self.bind()
        assert self.bound is not None
        return self.bound

    def bind(self) -> None:
        """Read the weights at their present addresses; where none has moved, captured passes stay valid."""
        if self.bound is None or self._places != places(self.model):
            with torch.no_grad():
                self.bound = bind(self.model, self.fp8)
            self._places = places(self.model)
            if self.bound.cross_kv.is_cuda:  # a lane may read them next, on another stream
                torch.cuda.synchronize(self.bound.cross_kv.device)

    def release(self) -> None:
        """Release the weights until they are needed again."""
        self.bound = None

    def tables(self, tokens: int, device: torch.device) -> Tables:
        """Compute the rotary tables, `[N, D / 2]` cosine and sine in float32."""
        position = torch.arange(tokens, device=device, dtype=torch.float32)
        cos, sin = get_1d_rotary_pos_embed(
            self.head_dim, position, theta=self.model.rope_theta, use_real=True, repeat_interleave_real=False
        )
        half = self.head_dim // 2
        return cos[:, :half].float().contiguous(), sin[:, :half].float().contiguous()

    def keys_values(self, w: Weights, tokens: Tensor, adapters: Resident | None, out: Tensor) -> None:
        """Compute a condition's keys (normalised) and values for every layer.

        Args:
            tokens: `[l, width]`.
            out: written, `[layers, 2, l, kv_heads * D]`.
        """
        condition = functional.linear(tokens, *w.condition)
        both = functional.linear(condition, w.cross_kv).unflatten(1, (len(w.layers), 2, -1))
        for i, kind in enumerate(("cross_k", "cross_v")):
            if adapters is not None and adapters.touches(kind):
                both[:, :, i] += adapters.added_keys(kind, condition).transpose(0, 1)
        with on(out.device):
            self.ops.place(both, w.k_norms, self.eps, out)

    def __call__(self, rows: CompiledRows) -> Tensor:
        """Compute the velocity `[B, T, 64]`."""
        with on(rows.input.device):
            return self._velocity(rows)

    def _velocity(self, rows: CompiledRows) -> Tensor:
        w, ops, active = rows.weights, self.ops, rows.adapters.active
        batch, frames, _ = rows.input.shape
        temb, modulation = time_embedding(self.model.time_embed, rows.timestep)
        x = functional.linear(rows.input.view(batch, frames // self.model.patch_size, -1), *w.proj_in)
        steps = x.new_empty(len(w.layers), batch, 6, x.shape[-1])
        torch.add(w.tables[:, None], modulation, out=steps)
        added, gate = None, None
        for i, layer in enumerate(w.layers):
            shift, scale, own_gate, mlp_shift, mlp_scale, mlp_gate = steps[i].unbind(1)
            y = ops.norm(x, layer.self_norm, self.eps, layer.qkv.narrow, added, gate, (shift, scale))
            y = self._product(self._own(y, layer, i, rows), layer.self_o, i, active, "self_o")
            y = ops.norm(x, layer.cross_norm, self.eps, layer.cross_q.narrow, y, own_gate)
            added = self._residual(x, self._cross(y, layer, i, rows), layer.cross_o, i, active)
            y = ops.norm(x, layer.mlp_norm, self.eps, layer.gate_up.narrow, added, None, (mlp_shift, mlp_scale))
            added, gate = self._product(self._inner(y, layer, i, active), layer.down, i, active, "down"), mlp_gate
        shift, scale = (w.last + temb.float()[:, None]).to(x.dtype).unbind(1)
        y, _ = ops.norm(x, w.last_norm, self.eps, False, added, gate, (shift, scale))
        return functional.linear(y, *w.proj_out).view(batch, frames, -1)

    def _own(self, x: Activation, layer: Layer, i: int, rows: CompiledRows) -> Activation:
        qkv = self._product(x, layer.qkv, i, rows.adapters.active, "self_q", "self_k", "self_v")
        qkv = qkv.unflatten(-1, (-1, self.head_dim))
        (q_norm, k_norm), eps = layer.qk_norms, self.eps
        peak = self.ops.keys(qkv, k_norm, rows.tables, self.heads, eps, layer.self_o.narrow)
        q, k, v = qkv.split((self.heads, self.kv_heads, self.kv_heads), 2)
        return self.ops.attend(q, k, v, q_norm, eps, rows.tables, layer.window, peak=peak)

    def _cross(self, x: Activation, layer: Layer, i: int, rows: CompiledRows) -> Activation:
        q = self._product(x, layer.cross_q, i, rows.adapters.active, "cross_q").unflatten(-1, (-1, self.head_dim))
        k, v = rows.keys_values[:, i].unflatten(-1, (-1, self.head_dim)).unbind(1)
        peak = rows.peaks[:, i, None].expand(-1, k.shape[1]) if layer.cross_o.narrow else None
        return self.ops.attend(q, k, v, layer.cross_q_norm, self.eps, count=rows.count, peak=peak)

    def _inner(self, x: Activation, layer: Layer, i: int, active: Resident | None) -> Activation:
        narrow = layer.gate_up.narrow or layer.down.narrow
        if not narrow and (active is None or not active.touches("gate", "up")):
            whole = self.ops.swiglu(x[0], layer.gate_up.values)
            if whole is not None:
                return whole, None
        both = self._product(x, layer.gate_up, i, active, "gate", "up")
        return self.ops.silu(both, layer.down.narrow)

    def _residual(self, x: Tensor, y: Activation, matrix: Matrix, i: int, active: Resident | None) -> Tensor | None:
        """Add a product to `x` in place; in float8, which has no such product, return the term to be added."""
        if matrix.scale is not None:
            return self._product(y, matrix, i, active, "cross_o")
        x.view(-1, x.shape[-1]).addmm_(y[0].view(-1, y[0].shape[-1]), matrix.values.t())
        self._adapt(x, y, i, active, ("cross_o",))
        return None

    def _product(self, x: Activation, matrix: Matrix, i: int, active: Resident | None, *kinds: str) -> Tensor:
        """Compute `x @ matrix.T` plus the adapters' terms; `kinds` are the kinds of layer stacked in the matrix."""
        y = self._linear(x, matrix)
        self._adapt(y, x, i, active, kinds)
        return y

    def _linear(self, x: Activation, matrix: Matrix) -> Tensor:
        if matrix.scale is None:
            return functional.linear(x[0], matrix.values)
        return self.ops.scaled(x, matrix.values, matrix.scale, self.model.dtype)

    def _adapt(self, y: Tensor, x: Activation, i: int, active: Resident | None, kinds: tuple[str, ...]) -> None:
        """Add the adapters' terms of each kind to its own columns of `y`."""
        if active is None or not active.touches(*kinds):
            return
        at, flat = 0, y.view(-1, y.shape[-1])
        for kind, width in ((kind, self.widths[kind]) for kind in kinds):
            if kind in active.b:
                low = self._linear(x, active.matrix(kind, i, x))
                flat[:, at : at + width].addmm_(low.view(-1, low.shape[-1]), active.b[kind][i].t())
            for w1, w2 in active.krons.get(kind, ()):
                flat[:, at : at + width] += kron_product(_plain(x, y.dtype), w1[i], w2[i]).view(-1, width)
            at += width


def _plain(x: Activation, dtype: torch.dtype) -> Tensor:
    """Return an activation's own numbers, out of float8 where they are in it."""
    values, step = x
    return values if step is None else (values.float() * step.view(*values.shape[:-1], 1)).to(dtype)
