"""The border to ComfyUI's queue: what it shows of an error that a node raises on purpose.

ComfyUI shows the class of an error with its whole module path before its text, and the editor cuts both after three
lines of a toast; editor 1.58 shows neither there. So the error gets a short class of no module, and the whole sentence
also stands under the node.
"""

from __future__ import annotations

import logging
from typing import Any

from ...engine_runtime import packages
from ...engine_runtime.errors import OstinatoError
from . import host
from .comfy import io

log = logging.getLogger(__name__)
Stopped = type("Ostinato", (Exception,), {"__module__": "builtins", "__doc__": "The error that ComfyUI shows."})


def bordered(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """Make the class that ComfyUI gets of a node: its errors are as ComfyUI shows them best. The node itself, which
    live sessions run too, keeps typed ones."""
    played = node.execute.__func__  # type: ignore[attr-defined]  # a class method, to be run as that of the new class

    def execute(cls: type[io.ComfyNode], **given: Any) -> io.NodeOutput:
        who = cls.hidden.unique_id
        host.clear_trouble(who)
        try:
            with packages.named():
                made: io.NodeOutput = played(cls, **given)
        except OstinatoError as error:
            log.debug("node %s was stopped", who, exc_info=error)
            host.show_trouble(str(error), who)
            raise Stopped(str(error)) from None
        return made

    return type(node.__name__, (node,), {"execute": classmethod(execute), "__module__": node.__module__})
