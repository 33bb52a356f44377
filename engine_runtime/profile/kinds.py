"""Sorts operators of torch and layers of TensorRT into kinds, by their names."""

from __future__ import annotations

import re
from functools import cache

import torch

from .layers import OPAQUE

_ATTENTION = re.compile(r"scaled_dot_product|flash_attn|flash_attention|flex_attention|softmax")
_PRODUCT = re.compile(
    r"aten::(linear|matmul|(add)?b?(mm|mv)_?|baddbmm_?|einsum|_?conv\w*|_?scaled_mm|mkldnn_(linear|convolution)\w*)"
)
_NORM = re.compile(r"aten::\w*norm(_\w+)?")
_MOVES = re.compile(
    r"aten::(copy_|to|_to_copy|type_as|contiguous|clone|cat|stack|fill_|zero_|zeros\w*|index\w*|gather|repeat\w*|pad)"
)


def of_operator(name: str, place: str) -> str:
    """Return the kind of a torch operator, `aten::...`, called by the module at `place`.

    Views, allocations, unknown operators and reductions outside a norm are `other`.
    """
    if _ATTENTION.search(name):
        return "attention"
    if _PRODUCT.fullmatch(name):
        return "matrix product"
    if "norm" in place.rpartition(".")[2] or _NORM.fullmatch(name):
        return "normalization"
    if _MOVES.fullmatch(name):
        return "reformat"
    return "pointwise" if _pointwise(name) else "other"


@cache
def _pointwise(name: str) -> bool:
    packet = getattr(torch.ops.aten, name.removeprefix("aten::"), None)
    overloads = packet.overloads() if packet is not None else ()
    return any(torch.Tag.pointwise in getattr(packet, overload).tags for overload in overloads)


# Kernels of `engines.compiled`, as they are called there, and copies that no operator asks for.
_KERNELS = (
    ("attention", re.compile(r"attention_kernel")),
    ("matrix product", re.compile(r"product_kernel|swiglu")),
    ("normalization", re.compile(r"norm_kernel|keys_kernel|condition_kernel")),
    ("pointwise", re.compile(r"silu_kernel|rows_kernel")),
    ("reformat", re.compile(r"Memcpy|Memset")),
)


def of_kernel(name: str) -> str:
    """Return the kind of a kernel that no operator of torch launched."""
    return next((kind for kind, pattern in _KERNELS if pattern.match(name)), "other")


# In this order: a fused layer is of its most expensive part's kind.
_WORDS = (
    ("reformat", re.compile(r"^Reformatting CopyNode|^Copy |\breformat", re.I)),
    ("attention", re.compile(r"mha|attention|sdpa|softmax", re.I)),
    ("matrix product", re.compile(r"gemm|matmul|\bmm\b|fc(?=[A-Z_]|$)|conv|fullyconnected|xmma_(?!.*mha)", re.I)),
    (
        "normalization",
        re.compile(r"rms_?norm|layer_?norm|instance_?norm|group_?norm|normalization|MeanSqrt|ReduceMean", re.I),
    ),
    (
        "pointwise",
        re.compile(r"PWN|pointwise|element|activation|sigmoid|silu|unary|\b(add|mul|sub|div|sin|cos)\b", re.I),
    ),
    ("reformat", re.compile(r"shuffle|transpose|concat|slice|cast|reshape|gather|copy|move|constant", re.I)),
)
_MYELIN = re.compile(r"ForeignNode\[")
_FUSED = re.compile(r"__my(l|e)", re.I)
# the words of a fused Myelin kernel stand together: __myl_AddMulMeanSqrtDivMul_myl0_7
_INNER = (
    ("attention", re.compile(r"mha|softmax|attention", re.I)),
    ("matrix product", re.compile(r"gemm|Fc|MatMul|Conv", re.I)),
    ("normalization", re.compile(r"Mean.*(Sqrt|Rsqrt|Pow)|Norm", re.I)),
    ("pointwise", re.compile(r"Add|Mul|Sub|Div|Silu|Sigm|Sin|Cos|Exp|Neg|Where|Sele", re.I)),
    ("reformat", re.compile(r"Move|Copy|Tran|Resh|Cast|Conc|Slic|Gath", re.I)),
)


def of_layer(name: str) -> str:
    """Return the kind of a TensorRT layer, from the name that its profiler reports.

    A `ForeignNode` is a region of many layers and opaque, whatever its name says.
    """
    if _MYELIN.search(name):
        return OPAQUE
    for kind, pattern in _INNER if _FUSED.search(name) else _WORDS:
        if pattern.search(name):
            return kind
    return OPAQUE if _FUSED.search(name) else "other"
