"""Stands in for `comfy_api.latest.ui` where ComfyUI is not installed, as far as the pack's nodes use it.

These classes only hold what a node wants shown; the caller decides where text and images go.
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
    """An image to show: float `[B, H, W, C]` in [0, 1]."""

    def __init__(self, image: torch.Tensor, animated: bool = False, cls: type[ComfyNode] | None = None) -> None:
        self.image = image
        self.animated = animated

    def as_dict(self) -> dict[str, Any]:
        return {"pixels": self.image}
