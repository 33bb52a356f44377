"""Weight norms of the VAE's convolutions, folded into one weight: `weight = g v / |v|`, a norm for each slice of its
first dimension."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def normed(module: nn.Module) -> dict[str, nn.Module]:
    """Return the layers below a module that have a weight norm, by name."""
    return {name: layer for name, layer in module.named_modules() if hasattr(layer, "weight_g")}


def folded(layer: nn.Module) -> Tensor:
    """Return a layer's weight, with its norm folded in where it has one: computed in float32, in the weights' dtype."""
    if not hasattr(layer, "weight_g"):
        return layer.get_parameter("weight").detach()
    v, g = (layer.get_parameter(name).detach() for name in ("weight_v", "weight_g"))
    return torch._weight_norm(v.float(), g.float(), 0).to(v.dtype)


def folded_copy(module: nn.Module) -> nn.Module:
    """Copy a module, frozen, with every weight norm below it replaced by the folded weight."""
    for layer in normed(module).values():
        layer.weight = folded(layer)  # the one of the last call has a grad history, which deepcopy refuses
    made = copy.deepcopy(module).requires_grad_(False)
    for layer in normed(made).values():
        weight = folded(layer)
        nn.utils.remove_weight_norm(layer)
        layer.weight = nn.Parameter(weight, requires_grad=False)
    return made
