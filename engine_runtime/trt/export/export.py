"""Exports a loaded model to an ONNX file with a record beside it: first `torch.export`, then ONNX.

`torch.onnx.export` alone silently fixes the parity of the example's T; `torch.export` refuses to. Exporting takes
minutes and gigabytes at 2B size, so it is called in a child process; the model stays on the CPU.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import AceStepTransformer1DModel, AutoencoderOobleck
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ...device.undisturbed import uncollected
from ...errors import EngineBuildError, InputError
from ...models.quiet import quiet
from ...spec import ACE_STEP
from ..files.folder import file_hash, write_whole
from .decoder import MAX_FRAMES, DecoderGraph, check_decoder
from .naming import Graph, tidy
from .record import LARGEST, PRECISIONS, ExportOptions, Port, make_record, ports, weights_of
from .vae import VaeGraph, check_vae

Progress = Callable[[str, float], None]  # what is being done, share done in [0, 1]

_EXAMPLE = {"b": 3, "t2": 7, "t": 6, "l": 5, "r": 4}  # all differ, none is 1: an export may fix a 1
_MOST = {"t2": MAX_FRAMES // ACE_STEP.patch}


def export(
    kind: str,
    model: AceStepTransformer1DModel | AutoencoderOobleck,
    folder: Path,
    options: ExportOptions | None = None,
    name: str | None = None,
    progress: Progress = lambda what, share: None,
) -> Path:
    """Write `NAME.onnx`, with `NAME.onnx.data` where the weights are large, and last the record `NAME.onnx.json`.

    Args:
        kind: `decoder` of a transformer; `vae_decoder` or `vae_encoder` of an autoencoder.
        model: on the CPU, in the precision of the options.
        folder: made where it is missing.
        options: the default is `ExportOptions()`.
        name: of the files; the default is the kind.
        progress: called between the steps; may raise to stop.

    Returns:
        The path of `NAME.onnx`.

    Raises:
        InputError: for options or a model that do not fit each other.
        EngineBuildError: for a model that cannot be exported, or versions of the exporter that change the graph.
        OSError: when the files cannot be written; none are left then, and older ones stay.
    """
    options = options or ExportOptions()
    options.check(kind)
    _check_model(kind, model, options)
    folder.mkdir(parents=True, exist_ok=True)
    with torch.no_grad(), _undisturbed():
        progress("tracing", 0.0)
        graph: Graph
        if kind == "decoder":
            graph = DecoderGraph(model, fused=options.opset >= 23).eval()
        else:
            graph = VaeGraph(model, kind.removeprefix("vae_")).eval()
        inputs, outputs = ports(kind, model, options)
        with _explained():
            program = _trace(graph, inputs)
        progress("converting to ONNX", 0.3)
        with _explained():
            onnx = _convert(program, options.opset)
        del program
        _attach(onnx, graph)
        progress("naming weights", 0.6)
        names, made = tidy(onnx, graph, weights_of(kind, model), inputs, outputs)
    record = make_record(kind, model, options, names, made)
    return write(onnx, record, folder, name or kind, options.external, progress)


def _check_model(kind: str, model: nn.Module, options: ExportOptions) -> None:
    wanted = AceStepTransformer1DModel if kind == "decoder" else AutoencoderOobleck
    if not isinstance(model, wanted):
        raise InputError(f"the model is a {type(model).__name__}", f"a {kind} is of {wanted.__name__}", "give that")
    (check_decoder if kind == "decoder" else check_vae)(model)
    found = {(tensor.device.type, tensor.dtype) for tensor in weights_of(kind, model).values()}
    if found != {("cpu", PRECISIONS[options.precision])}:
        raise InputError(
            f"the weights are {' and '.join(sorted(f'{dtype} on {device}' for device, dtype in found))}",
            f"for {options.precision} they are {PRECISIONS[options.precision]} on the CPU",
            "load the model so",
        )


def example(inputs: list[Port], sizes: dict[str, int]) -> list[Tensor]:
    """Make inputs of given sizes: normal values, times in [0, 1], a mask of ones. Raises KeyError for a name without a
    size."""
    made = []
    for port in inputs:
        shape = [dim if isinstance(dim, int) else _size(dim, sizes) for dim in port.dims]
        if port.dtype == torch.bool:
            made.append(torch.ones(shape, dtype=torch.bool))
        else:
            made.append((torch.rand(shape) if port.name == "timestep" else torch.randn(shape)).to(port.dtype))
    return made


def _size(dim: str, sizes: dict[str, int]) -> int:
    factor, _, name = dim.rpartition("*")
    return int(factor or 1) * sizes[name]


def _trace(graph: Graph, inputs: list[Port]) -> Any:
    symbols: dict[str, Any] = {}

    def dynamic(port: Port) -> dict[int, Any]:
        found = {}
        for i, dim in enumerate(port.dims):
            if isinstance(dim, str):
                factor, _, name = dim.rpartition("*")
                symbol = symbols.setdefault(name, torch.export.Dim(name, min=1, max=_MOST.get(name)))
                found[i] = int(factor) * symbol if factor else symbol
        return found

    light, mode = _weightless(graph)
    values = [mode.from_tensor(value) for value in example(inputs, _EXAMPLE)]
    shapes = [dynamic(port) for port in inputs]
    fixed = len(values) if isinstance(graph, VaeGraph) else 5
    arguments: tuple[Any, ...] = tuple(values[:fixed])
    specs: tuple[Any, ...] = tuple(shapes[:fixed])
    if isinstance(graph, DecoderGraph):
        arguments, specs = (*arguments, tuple(values[fixed:])), (*specs, tuple(shapes[fixed:]))
    with mode:
        return torch.export.export(light, arguments, dynamic_shapes=specs, strict=True)


def _weightless(graph: Graph) -> tuple[nn.Module, FakeTensorMode]:
    """Copy the graph with weights that have a shape but no values: tracing copies each of them, 3 GB at 2B size."""
    mode = FakeTensorMode()
    weights = [*graph.parameters(), *graph.buffers()]
    return copy.deepcopy(graph, {id(weight): mode.from_tensor(weight) for weight in weights}), mode


def _attach(model: Any, graph: Graph) -> None:
    """Set the values of the initializers."""
    import onnx_ir as ir

    for name, weight in graph.state_dict().items():
        if name in model.graph.initializers:
            model.graph.initializers[name].const_value = ir.tensor(weight.detach(), name=name)


def _convert(program: Any, opset: int) -> Any:
    """Convert to an `onnx_ir.Model` without the exporter's optimisation, which folds and renames weights."""
    made: Any = torch.onnx.export(
        program, dynamo=True, opset_version=opset, optimize=False, external_data=False, verbose=False
    )
    found = dict(made.model.opset_imports)
    if found != {"": opset}:
        raise EngineBuildError(
            f"this exporter made operators of {found}",
            f"asked for was opset {opset} alone",
            "update torch and onnxscript",
        )
    return made.model


def write(model: Any, record: dict[str, Any], folder: Path, name: str, external: bool, progress: Progress) -> Path:
    """Write all files in a temporary folder, then move them: data, graph, and last the record, which marks them
    complete.

    Args:
        model: an `onnx_ir.Model`.
        record: without the hashes of the files, which are added here.
        external: as in `ExportOptions`.
    """
    import onnx_ir as ir

    values = model.graph.initializers.values()
    whole = sum(value.const_value.nbytes for value in values)
    external = external or whole > LARGEST
    done = 0

    def written(tensor: Any, _: Any) -> None:
        nonlocal done
        done += tensor.nbytes
        progress("writing", 0.7 + 0.2 * done / max(whole, 1))

    path, data = folder / f"{name}.onnx", folder / f"{name}.onnx.data"
    mark = path.with_name(f"{path.name}.json")
    made = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder))
    try:
        progress("writing", 0.7)
        ir.save(model, made / path.name, external_data=data.name if external else None, callback=written)
        progress("hashing", 0.9)
        record["onnx_sha256"] = file_hash(made / path.name)
        record["data_sha256"] = file_hash(made / data.name) if external else None
        write_whole(made / mark.name, json.dumps(record, indent=1).encode())
        mark.unlink(missing_ok=True)
        data.unlink(missing_ok=True)
        for file in (data, path, mark) if external else (path, mark):
            os.replace(made / file.name, file)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    progress("exported", 1.0)
    return path


@contextmanager
def _explained() -> Iterator[None]:
    """Turn the exporter's many kinds of errors into `EngineBuildError`."""
    try:
        yield
    except (EngineBuildError, MemoryError):
        raise
    except Exception as error:
        text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:300]
        raise EngineBuildError(
            f"the exporter failed with {type(error).__name__}: {text.rstrip('.')}",
            "torch, onnx and onnxscript must be installed, and of releases that know each other",
            "install or update them",
        ) from error


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Silence the exporter's log about missing packages, and stop the garbage collector, which takes a fifth of the
    time."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with quiet(), uncollected():
            yield
    finally:
        logger.setLevel(level)
