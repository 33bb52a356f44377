"""Runs and asks one node outside ComfyUI's queue, as the queue would."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping
from typing import Any

from ...engine_runtime import packages
from .comfy import io


def run_node(cls: type[io.ComfyNode], given: Mapping[str, Any], hidden: Mapping[io.Hidden, Any]) -> io.NodeOutput:
    """Execute a node with these inputs; of the hidden ones it gets those that its schema asks for.

    Raises:
        TypeError: where it returns another number of values than its schema has outputs; and whatever it raises.
    """
    schema = cls.GET_SCHEMA()
    wanted = {name: value for name, value in hidden.items() if name in schema.hidden}
    with packages.named():
        output = cls.PREPARE_CLASS_CLONE({"hidden_inputs": wanted}).execute(**given)
        if inspect.iscoroutine(output):
            output = asyncio.run(output)
    output = io.NodeOutput() if output is None else output
    output = io.NodeOutput(*output) if isinstance(output, tuple) else output
    if len(output.args) != len(schema.outputs):
        raise TypeError(
            f"{schema.node_id} returned {len(output.args)} values; its schema has {len(schema.outputs)} "
            "outputs; correct its execute."
        )
    return output


def widget_of(spec: io.Input) -> io.Input:
    """Return the input that makes the widget: for a socket of several types the one it was made from, else itself."""
    return getattr(spec, "input_override", None) or spec


def checker_arguments(cls: type[io.ComfyNode]) -> tuple[bool, list[str]]:
    """Return whether a node's own `validate_inputs` takes all inputs, and the names it takes; none without one."""
    if all(owner in io.ComfyNode.__mro__ for owner in cls.__mro__ if "validate_inputs" in vars(owner)):
        return False, []
    spec = inspect.getfullargspec(cls.validate_inputs)
    return spec.varkw is not None, spec.args[1:]
