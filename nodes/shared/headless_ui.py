"""The part of `comfy_api.latest.ui` that the pack's nodes use, for running them without ComfyUI.

These only carry what a node wants shown; whoever runs the node decides where text goes and where images are written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .headless_io import ComfyNode

if TYPE_CHECKING:
    import torch


class PreviewText:
    def __init__(self, value: str) -> None:
        self.value = value

    def as_dict(self) -> dict[str, Any]:
        return {"text": (self.value,)}


class PreviewImage:
    """`image` is float [B, H, W, C] in [0, 1]."""

    def __init__(self, image: torch.Tensor, animated: bool = False, cls: type[ComfyNode] | None = None) -> None:
        self.image = image
        self.animated = animated

    def as_dict(self) -> dict[str, Any]:
        return {"pixels": self.image}
