"""Gives the initializers of an ONNX graph the model's weight names, and returns the map between them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import EngineBuildError
from .decoder import DecoderGraph
from .record import Port
from .vae import VaeGraph

_SIZE = re.compile(r"(?:\d+\*)?(\w+)")

Graph = DecoderGraph | VaeGraph
Names = dict[str, dict[str, Any]]
Made = dict[str, list[str]]


def tidy(
    model: Any, graph: Graph, weights: Mapping[str, Tensor], inputs: Sequence[Port], outputs: Sequence[Port]
) -> tuple[Names, Made]:
    """Bring an `onnx_ir.Model`, made without optimisation, into its final form, in place.

    Constants are folded except weights: every weight is its own initializer, even where two are equal, under the
    model's name, with `.T` where it is transposed. Inputs, outputs and dimensions get the names of the ports. The
    exporter's metadata, which contains paths, is removed.

    Args:
        weights: those that may be in the graph, by the model's names.

    Returns:
        The maps initializer -> `{"param", "transposed"}`, and initializer -> weights that it was made from.

    Raises:
        EngineBuildError: for a dimension that became fixed, or a weight that is not in the graph unchanged.
    """
    from onnx_ir.passes import common
    from onnxscript import optimizer

    names = set(model.graph.initializers)
    optimizer.fold_constants(model, should_fold=lambda node: False if names & set(map(_of, node.inputs)) else None)
    _transpose_weights(model.graph, names)
    common.CommonSubexpressionEliminationPass()(model)
    optimizer.remove_unused_nodes(model)
    common.ClearMetadataAndDocStringPass()(model)
    symbols = _name_ports(model.graph, [*zip(model.graph.inputs, inputs, strict=True)])
    _name_ports(model.graph, [*zip(model.graph.outputs, outputs, strict=True)], symbols)
    _rename_dims(model.graph, symbols)
    for name in [n for n in model.graph.initializers if n.startswith(graph.prefix)]:
        model.graph.initializers[name].name = name[len(graph.prefix) :]
    found = _names(model.graph, weights)
    made = {name: list(graph.made[key]) for name in model.graph.initializers if (key := _plain(name)) in graph.made}
    _check_complete(weights, found, made)
    return found, made


def _check_complete(weights: Mapping[str, Tensor], found: Names, made: Made) -> None:
    known = {entry["param"] for entry in found.values()} | {part for parts in made.values() for part in parts}
    whole = tuple(f"{name}." for name in known)
    if lost := [name for name in weights if name not in known and not name.startswith(whole)]:
        raise EngineBuildError(
            f"the exported graph lacks {len(lost)} weights: {', '.join(lost[:4])}",
            "each must stand in it as it is",
            "use the versions of torch, onnx and onnxscript that docs/tensorrt.md names",
        )


def _plain(name: str) -> str:
    return name.removesuffix(".T")


def _of(value: Any) -> str | None:
    return None if value is None else value.name


def _transpose_weights(graph: Any, names: set[str]) -> None:
    """Replace `Transpose(weight)` by a transposed initializer, whose bytes are made when the file is written."""
    import onnx_ir as ir

    for node in list(graph):
        if node.op_type != "Transpose" or _of(node.inputs[0]) not in names or len(node.inputs[0].shape) != 2:
            continue
        source = node.inputs[0]
        name = f"{source.name}.T"
        if name not in graph.initializers:
            tensor = _as_torch(source.const_value)
            lazy = _lazy(name, tensor.mT, source.const_value.dtype)
            value = ir.Value(name=name, shape=lazy.shape, type=ir.TensorType(lazy.dtype), const_value=lazy)
            graph.register_initializer(value)
        ir.convenience.replace_all_uses_with(node.outputs[0], graph.initializers[name])
        graph.remove(node, safe=True)


def _lazy(name: str, tensor: Tensor, dtype: Any) -> Any:
    """Make an initializer whose bytes are computed on demand."""
    import onnx_ir as ir

    shape = ir.Shape(list(tensor.shape))
    return ir.LazyTensor(lambda: ir.tensor(tensor.contiguous(), name=name), dtype=dtype, shape=shape, name=name)


def _as_torch(tensor: Any) -> Tensor:
    """Return the torch tensor behind an initializer, without a copy. Raises `EngineBuildError` for another kind."""
    raw = getattr(tensor, "raw", None)
    if not isinstance(raw, Tensor):
        raise EngineBuildError(
            f"the exporter gave a weight as {type(raw).__name__}", "needed is a torch tensor", "update torch"
        )
    return raw.detach()


def _name_ports(graph: Any, pairs: list[tuple[Any, Port]], symbols: dict[str, str] | None = None) -> dict[str, str]:
    """Name inputs or outputs; returns the exporter's symbol -> our name.

    Raises:
        EngineBuildError: for a dimension that became fixed.
    """
    symbols = {} if symbols is None else symbols
    for value, port in pairs:
        for given, wanted in zip(value.shape, port.dims, strict=True):
            if isinstance(given, int) != isinstance(wanted, int) or (isinstance(given, int) and given != wanted):
                raise EngineBuildError(
                    f"{port.name} was exported with dimensions {list(map(str, value.shape))}",
                    f"needed are {list(port.dims)}",
                    "use the versions of torch, onnx and onnxscript that docs/tensorrt.md names",
                )
            if isinstance(wanted, str):
                symbols[_symbol(str(given.value))] = _symbol(wanted)
        value.name = port.name
    return symbols


def _symbol(dim: str) -> str:
    found = _SIZE.fullmatch(dim)
    return found[1] if found else dim


def _rename_dims(graph: Any, symbols: Mapping[str, str]) -> None:
    """Rename the dimensions of every value as the ports name them."""
    import onnx_ir as ir

    def renamed(dim: Any) -> Any:
        return dim if isinstance(dim, int) else re.sub(r"\w+", lambda m: symbols.get(m[0], m[0]), str(dim.value))

    values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    for value in values:
        if value.shape is not None:
            value.shape = ir.Shape([renamed(dim) for dim in value.shape])


def _names(graph: Any, weights: Mapping[str, Tensor]) -> Names:
    """Map each initializer to its weight, compared by content."""
    found = {}
    for name, value in graph.initializers.items():
        param = _plain(name)
        if param in weights and _same(value.const_value, weights[param], transposed := name != param):
            found[name] = {"param": param, "transposed": transposed}
    return found


def _same(tensor: Any, weight: Tensor, transposed: bool) -> bool:
    expected = weight.detach().mT.contiguous() if transposed else weight.detach().contiguous()
    return bytes(expected.reshape(-1).view(torch.uint8).numpy().data) == tensor.tobytes()
