"""Runs a checked graph: each needed node once, in order, and collects the results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import torch

from ..engine_runtime.errors import OstinatoError
from ..nodes.shared.comfy import io
from ..nodes.shared.run import run_node
from .core_nodes import keep
from .graph import Catalogue, Graph, Link, Node, NodeType
from .validate import running_order, validate

STATS_TYPE = "OSTINATO_STATS"


@dataclass
class Results:
    """The result of a run; the rates are None where no node output stats."""

    nodes: int = 0
    files: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    finished: int | None = None
    ticks: int | None = None
    ms_per_tick: float | None = None
    realtime: float | None = None


@dataclass(eq=False)
class Failure(Exception):
    """An error in a node; the original is its `__cause__`."""

    node: Node

    def __str__(self) -> str:
        if isinstance(self.__cause__, torch.OutOfMemoryError | MemoryError):
            return f"{self.node.name}: memory ran out; what runs must fit; make it shorter, or the ring less deep."
        return f"{self.node.name}: {self.__cause__}"

    @property
    def expected(self) -> bool:
        """Return whether the user can do something about it; any other error is a bug and keeps its traceback."""
        return isinstance(self.__cause__, OstinatoError | OSError | MemoryError | torch.OutOfMemoryError)


def run_graph(
    graph: Graph,
    types: Catalogue,
    workflow: dict[str, Any] | None = None,
    on_node: Callable[[Node], None] = lambda node: None,
) -> Results:
    """Check the whole graph, then run it. Nodes read `workflow` as `extra_pnginfo`.

    Raises:
        WorkflowError: where the graph cannot be run as it is.
        Failure: where a node raises.
    """
    order = running_order(graph, types)
    validate(graph, types, order)
    hidden = {
        io.Hidden.prompt: graph.to_api(),
        io.Hidden.extra_pnginfo: {"workflow": workflow} if workflow else None,
    }
    values: dict[str, tuple[Any, ...]] = {}
    results = Results(nodes=len(order))
    stats: dict[int, Any] = {}
    with torch.inference_mode():
        for node in order:
            on_node(node)
            node_type = types[node.class_type]
            try:
                output = _run_node(node, node_type, values, hidden | {io.Hidden.unique_id: node.id})
                _collect(node, node_type, output, results, stats)
            except Exception as error:
                raise Failure(node) from error
            values[node.id] = output.args
    _summarise(list(stats.values()), results)
    return results


def _run_node(
    node: Node, node_type: NodeType, values: dict[str, tuple[Any, ...]], hidden: dict[io.Hidden, Any]
) -> io.NodeOutput:
    given = {
        name: values[value.node][value.slot] if isinstance(value, Link) else value
        for name, value in node.inputs.items()
    }
    return run_node(node_type.cls, given, hidden)


def _collect(node: Node, node_type: NodeType, output: io.NodeOutput, results: Results, stats: dict[int, Any]) -> None:
    for spec, value in zip(node_type.schema.outputs, output.args, strict=True):
        if spec.get_io_type() == STATS_TYPE and value is not None:
            stats[id(value)] = value  # by id: the same object may pass through several nodes and counts once
    shown = output.ui if isinstance(output.ui, dict) else output.ui.as_dict() if output.ui is not None else {}
    results.files += shown.get("files", [])
    if "text" in shown:
        title = node.title if node.title not in results.texts else f"{node.title} ({node.id})"
        results.texts[title] = "\n".join(shown["text"])
    if "pixels" in shown:
        results.files += write_images(shown["pixels"], "preview")


def write_images(images: torch.Tensor, prefix: str) -> list[str]:
    """Write one PNG per item of `[B, H, W, C]` in [0, 1] and return the paths."""
    from PIL import Image

    written = []
    for pixels in images.detach().float().cpu():
        array = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        made = BytesIO()
        Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(made, "png")
        written.append(keep(made, prefix, ".png"))
    return written


def _summarise(stats: list[Any], results: Results) -> None:
    """Add up the counts; average each rate weighted by its own base: ticks, or seconds of playing."""
    if not stats:
        return
    seconds = [s.finished / s.latents_per_s if s.latents_per_s > 0 else s.ticks * s.ms_per_tick / 1e3 for s in stats]
    results.finished = sum(s.finished for s in stats)
    results.ticks = sum(s.ticks for s in stats)
    results.ms_per_tick = _weighted([s.ms_per_tick for s in stats], [s.ticks for s in stats])
    results.realtime = _weighted([s.realtime for s in stats], seconds)


def _weighted(values: list[float], weights: list[float]) -> float:
    total = sum(weights)
    return sum(v * w for v, w in zip(values, weights, strict=True)) / total if total else 0.0
