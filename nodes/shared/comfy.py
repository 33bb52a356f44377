"""Picks the node API: ComfyUI's own where the pack runs inside it, else the headless copy.

Every node imports `io` and `ui` from here. The headless module has only the part of `comfy_api.latest` that these nodes
use; a test in the `comfyui` tier compares its schemas with ComfyUI's. Type checkers read the headless one, which has
types.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import headless_io as io
    from . import headless_ui as ui
    from .headless_io import ComfyExtension

    HEADLESS: bool
else:
    try:
        from comfy_api.latest import ComfyExtension, io, ui

        HEADLESS = False
    except ImportError:
        from . import headless_io as io
        from . import headless_ui as ui
        from .headless_io import ComfyExtension

        HEADLESS = True

__all__ = ["HEADLESS", "ComfyExtension", "io", "ui"]
