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

from ...device.gpu import finish, on
from ..factors import Targets, kron_product
from . import plain
from .adapters import Resident
from .plain import FP8, INT8, Activation, Tables
from .rows import CompiledRows
from .weights import Layer, Matrix, Narrow, Weights, bind, places, time_embedding


class Decoder:
    """The same function as `MaskedDecoder`, restructured.

    Args:
        model: the reference, whose memory the weights share.
        ops: the fused operations: `plain`, or `fused` on a GPU.
        narrow: the layers' products that are computed in 8 bits, with a step for each token and each row of a weight;
            None for none. The rest keeps the model's dtype.
    """

    def __init__(self, model: AceStepTransformer1DModel, ops: ModuleType = plain, narrow: Narrow | None = None) -> None:
        attention = model.layers[0].self_attn
        self.model, self.ops, self.narrow = model, ops, narrow
        self.dtype, self.patch = model.dtype, model.patch_size  # diffusers looks through all modules for the first
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
                self.bound = bind(self.model, self.narrow)
            self._places = places(self.model)
            if self.bound.cross_kv.is_cuda:  # a lane may read them next, on another stream
                finish(self.bound.cross_kv.device)

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
        x = functional.linear(rows.input.view(batch, frames // self.patch, -1), *w.proj_in)
        steps = x.new_empty(len(w.layers), batch, 6, x.shape[-1])
        torch.add(w.tables[:, None], modulation, out=steps)
        float8 = any(layer.self_o.narrow == FP8 for layer in w.layers)
        peaks = rows.timestep.new_zeros(len(w.layers), batch) if float8 else None
        added, gate = None, None
        for i, layer in enumerate(w.layers):
            shift, scale, own_gate, mlp_shift, mlp_scale, mlp_gate = steps[i].unbind(1)
            y = ops.norm(x, layer.self_norm, self.eps, layer.qkv.narrow, added, gate, (shift, scale))
            y = self._own(y, layer, i, rows, peaks)
            added, gate = self._residual(x, y, layer.self_o, i, active, "self_o", own_gate)
            y = ops.norm(x, layer.cross_norm, self.eps, layer.cross_q.narrow, added, gate)
            added, gate = self._residual(x, self._cross(y, layer, i, rows), layer.cross_o, i, active, "cross_o")
            reach = self._reach(x, layer)
            y = ops.norm(x, layer.mlp_norm, self.eps, layer.gate_up.narrow, added, gate, (mlp_shift, mlp_scale), reach)
            y = self._inner(y, reach, layer, i, active)
            added, gate = self._residual(x, y, layer.down, i, active, "down", mlp_gate)
        shift, scale = (w.last + temb.float()[:, None]).to(x.dtype).unbind(1)
        y, _ = ops.norm(x, w.last_norm, self.eps, None, added, gate, (shift, scale))
        return functional.linear(y, *w.proj_out).view(batch, frames, -1)

    def _own(self, x: Activation, layer: Layer, i: int, rows: CompiledRows, peaks: Tensor | None) -> Activation:
        qkv = self._product(x, layer.qkv, i, rows.adapters.active, "self_q", "self_k", "self_v")
        qkv = qkv.unflatten(-1, (-1, self.head_dim))
        (q_norm, k_norm), eps = layer.qk_norms, self.eps
        peak = None if peaks is None or layer.self_o.narrow != FP8 else peaks[i]
        self.ops.keys(qkv, k_norm, rows.tables, self.heads, eps, peak)
        q, k, v = qkv.split((self.heads, self.kv_heads, self.kv_heads), 2)
        y = self.ops.attend(q, k, v, q_norm, eps, rows.tables, layer.window, peak=peak)
        return self._attended(y, layer.self_o)

    def _cross(self, x: Activation, layer: Layer, i: int, rows: CompiledRows) -> Activation:
        q = self._product(x, layer.cross_q, i, rows.adapters.active, "cross_q").unflatten(-1, (-1, self.head_dim))
        k, v = rows.keys_values[:, i].unflatten(-1, (-1, self.head_dim)).unbind(1)
        peak = rows.peaks[:, i] if layer.cross_o.narrow == FP8 else None
        y = self.ops.attend(q, k, v, layer.cross_q_norm, self.eps, count=rows.count, peak=peak)
        return self._attended(y, layer.cross_o)

    def _attended(self, y: Activation, matrix: Matrix) -> Activation:
        """Round to int8 where it is wanted: by its own largest value, for an average lies far below what it is of."""
        return self.ops.quantized(y[0], INT8) if matrix.narrow == INT8 else y

    def _reach(self, x: Tensor, layer: Layer) -> tuple[Tensor, Tensor] | None:
        """Return the bound of the gated result and a place for its steps, where it is made in float8 in one."""
        if layer.gated is None:
            return None
        return layer.gated.bound, x.new_empty(x.shape[:2], dtype=torch.float32)

    def _inner(
        self, x: Activation, reach: tuple[Tensor, Tensor] | None, layer: Layer, i: int, active: Resident | None
    ) -> Activation:
        if active is None or not active.touches("gate", "up"):
            if reach is not None and layer.gated is not None:
                both = self.ops.gated(x, layer.gate_up.values, layer.gated.scale, reach[1])
                if both is not None:
                    return both
            elif not layer.gate_up.narrow and not layer.down.narrow:
                whole = self.ops.swiglu(x[0], layer.gate_up.values)
                if whole is not None:
                    return whole, None
        both = self._product(x, layer.gate_up, i, active, "gate", "up")
        return self.ops.silu(both, layer.down.narrow, layer.down.channel)

    def _residual(
        self,
        x: Tensor,
        y: Activation,
        matrix: Matrix,
        i: int,
        active: Resident | None,
        kind: str,
        gate: Tensor | None = None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Add a product, times `gate`, to `x` in place; where no one product can, return term and gate for the next
        norm to add.
        """
        if matrix.scale is not None:
            touched = active is not None and active.touches(kind)
            if not touched and self.ops.added(x, y, matrix.values, matrix.scale, gate):
                return None, None
        elif gate is None:
            x.view(-1, x.shape[-1]).addmm_(y[0].view(-1, y[0].shape[-1]), matrix.values.t())
            self._adapt(x, y, i, active, (kind,))
            return None, None
        return self._product(y, matrix, i, active, kind), gate

    def _product(self, x: Activation, matrix: Matrix, i: int, active: Resident | None, *kinds: str) -> Tensor:
        """Compute `x @ matrix.T` plus the adapters' terms; `kinds` are the kinds of layer stacked in the matrix."""
        y = self._linear(x, matrix)
        self._adapt(y, x, i, active, kinds)
        return y

    def _linear(self, x: Activation, matrix: Matrix) -> Tensor:
        if matrix.scale is None:
            return functional.linear(x[0], matrix.values)
        return self.ops.scaled(x, matrix.values, matrix.scale, self.dtype)

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
                whole = _plain(x, y.dtype, active.channels(kind, i))
                flat[:, at : at + width] += kron_product(whole, w1[i], w2[i]).view(-1, width)
            at += width


def _plain(x: Activation, dtype: torch.dtype, channel: Tensor | None) -> Tensor:
    """Return an activation's own numbers, out of 8 bits and times its channels where it is in them."""
    values, step = x
    if step is None:
        return values
    wide = values.float() * step.view(*values.shape[:-1], 1)
    return (wide if channel is None else wide * channel).to(dtype)
