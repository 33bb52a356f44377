"""Measures the floor under a tick: the time of the decoder's matrix products alone, in their precision.

M rows of a product, N columns, K summed over.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..device.gpu import on
from ..engines.compiled.plain import FP8, INT8
from .case import SPAN, Case

COLD = 256 << 20  # bytes of all buffers of a product: several times the L2 cache of any GPU
MOST = 64  # most sets of buffers
LEAST = 3  # fewest rounds
FEWEST = 32  # rows that PyTorch's int8 product takes


@dataclass(frozen=True)
class Product:
    """`[M, K] x [K, N]`, `count` times a tick; those of a `layer` are what an engine in 8 bits computes in them."""

    m: int
    n: int
    k: int
    count: float
    layer: bool = True

    @property
    def flops(self) -> float:
        """Return the floating-point operations of a tick."""
        return 2.0 * self.m * self.n * self.k * self.count


def products(config: Mapping[str, Any], case: Case) -> list[Product]:
    """List the matrix products that a steady tick needs; those of one input are one product.

    A condition's keys and values are computed once per request, for a negative of one token too. With guidance
    `initialize` a slot's negative row is decoded once per request, with `every` at every so many of its steps. Left
    out are the two time embeddings, of one row each.

    Args:
        config: of the transformer, with diffusers' names.
    """
    joining = case.slots / case.steps  # requests a tick
    found = _pass(config, case.slots * (2 if case.row_mode == "full" else 1), case.frames)
    found += _conditions(config, case.tokens, joining)
    if case.row_mode == "initialize":
        decoded = -(-case.steps // case.every) if case.cfg == "full" else 1
        found += _pass(config, 1, case.frames, joining * decoded)
    if case.row_mode != "off":
        found += _conditions(config, 1, joining)
    return found


def _pass(config: Mapping[str, Any], rows: int, frames: int, share: float = 1.0) -> list[Product]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    q = config["num_attention_heads"] * config["head_dim"]
    kv = 2 * config["num_key_value_heads"] * config["head_dim"]
    patch = config["patch_size"]
    m = rows * -(-frames // patch)
    layers = config["num_hidden_layers"] * share
    return [
        Product(m, q + kv, hidden, layers),
        Product(m, hidden, q, 2 * layers),  # of self- and cross-attention
        Product(m, q, hidden, layers),
        Product(m, 2 * inner, hidden, layers),
        Product(m, hidden, inner, layers),
        Product(m, hidden, config["in_channels"] * patch, share, layer=False),
        Product(m, config["audio_acoustic_hidden_dim"] * patch, hidden, share, layer=False),
    ]


def _conditions(config: Mapping[str, Any], tokens: int, count: float) -> list[Product]:
    """List the products of `count` conditions a tick; the keys and values of all layers are one product."""
    hidden, kv = config["hidden_size"], 2 * config["num_key_value_heads"] * config["head_dim"]
    return [
        Product(tokens, hidden, config.get("encoder_hidden_size") or hidden, count, layer=False),
        Product(tokens, config["num_hidden_layers"] * kv, hidden, count, layer=False),
    ]


class Floor:
    """Measures products and remembers them.

    Args:
        device: where they run: in a CUDA graph over buffers that no cache holds, or on the CPU one after the other.
        dtype: of the products.
        narrow: dtype of 8 bits for those of the layers: float8 with a scale for every row and column; int8 as cuBLAS
            has it, which writes its sums in 32 bits.
        span: seconds that each product is run for.
    """

    def __init__(
        self, device: torch.device, dtype: torch.dtype, narrow: torch.dtype | None = None, span: float = SPAN
    ) -> None:
        self._device, self._dtype, self._narrow_dtype, self._span = device, dtype, narrow, span
        self._generator = torch.Generator(device).manual_seed(0)
        self._known: dict[tuple[int, int, int, torch.dtype | None], float] = {}

    def ms(self, found: list[Product]) -> float:
        """Return the milliseconds of all products together."""
        return sum(product.count * self._one(product) for product in found)

    def _one(self, product: Product) -> float:
        m, n, k, narrow = key = (product.m, product.n, product.k, self._narrow_dtype if product.layer else None)
        if key not in self._known:
            calls, cuda = self._calls(m, n, k, narrow), self._device.type == "cuda"
            with on(self._device):
                self._known[key] = _on_gpu(calls, self._device, self._span) if cuda else _on_cpu(calls, self._span)
        return self._known[key]

    def _calls(self, m: int, n: int, k: int, narrow: torch.dtype | None) -> list[Callable[[], Tensor]]:
        """Make the product on several sets of buffers, of random numbers: zeros run faster."""
        size = m * k + n * k if narrow else (m * k + n * k + m * n) * self._dtype.itemsize
        sets = min(MOST, max(2, -(-COLD // size))) if self._device.type == "cuda" else 2
        make = self._wide if narrow is None else self._integer if narrow == INT8 else self._float8
        return [make(m, n, k) for _ in range(sets)]

    def _wide(self, m: int, n: int, k: int) -> Callable[[], Tensor]:
        x, w = self._drawn(m, k), self._drawn(n, k)
        return lambda: torch.nn.functional.linear(x, w)

    def _integer(self, m: int, n: int, k: int) -> Callable[[], Tensor]:
        x, w = (
            torch.randint(-127, 128, s, generator=self._generator, device=self._device, dtype=INT8)
            for s in ((max(m, FEWEST), k), (n, k))
        )
        return lambda: torch._int_mm(x, w.t())

    def _float8(self, m: int, n: int, k: int) -> Callable[[], Tensor]:
        x, w = self._drawn(m, k).to(FP8), self._drawn(n, k).to(FP8)
        a, b = torch.ones(m, 1, device=self._device), torch.ones(1, n, device=self._device)
        return lambda: torch._scaled_mm(x, w.t(), scale_a=a, scale_b=b, out_dtype=torch.bfloat16, use_fast_accum=True)

    def _drawn(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator, device=self._device, dtype=self._dtype)


def _on_gpu(calls: list[Callable[[], Tensor]], device: torch.device, span: float) -> float:
    """Return the milliseconds of one call, captured in a graph: no launch counts, and every result has its own
    memory."""
    side, graph = torch.cuda.Stream(device), torch.cuda.CUDAGraph()
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):  # the first calls choose kernels and take workspace
        for call in calls[:2]:
            call()
    side.synchronize()
    with torch.cuda.graph(graph, stream=side):
        held = [call() for call in calls]
    with torch.cuda.stream(side):
        one = _replayed(graph, 1, side)
        count = max(1, round(1e3 * span / one / LEAST))
        times = [_replayed(graph, count, side) / count for _ in range(LEAST)]
    del held
    return statistics.median(times) / len(calls)


def _replayed(graph: torch.cuda.CUDAGraph, count: int, stream: torch.cuda.Stream) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record(stream)
    for _ in range(count):
        graph.replay()
    end.record(stream)
    end.synchronize()
    return begin.elapsed_time(end)


def _on_cpu(calls: list[Callable[[], Tensor]], span: float) -> float:
    times, spent = list[float](), 0.0
    for call in itertools.cycle(calls):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
        spent += times[-1]
        if spent >= span and len(times) > LEAST:  # the first one is cold
            return 1e3 * statistics.median(times[1:])
    raise AssertionError("there are calls")
