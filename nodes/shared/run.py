"""Runs one node outside ComfyUI's queue, as the queue would."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping
from typing import Any

from .comfy import io


def run_node(cls: type[io.ComfyNode], given: Mapping[str, Any], hidden: Mapping[io.Hidden, Any]) -> io.NodeOutput:
    """Execute a node with these inputs; of the hidden ones it gets those that its schema asks for.

    Raises:
        TypeError: where it returns another number of values than its schema has outputs; and whatever it raises.
    """
    schema = cls.GET_SCHEMA()
    wanted = {name: value for name, value in hidden.items() if name in schema.hidden}
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
