"""A folded weight norm is the weight that the layer computes with."""

from __future__ import annotations

import pytest
import torch
from ostinato.engine_runtime.models.weight_norm import folded, folded_copy, normed
from torch import nn


@pytest.fixture
def layers():
    torch.manual_seed(0)
    normal = nn.utils.weight_norm(nn.Conv1d(3, 4, 3)), nn.utils.weight_norm(nn.ConvTranspose1d(4, 2, 4, 2))
    return nn.Sequential(normal[0], nn.Sequential(normal[1]), nn.Conv1d(2, 2, 1))


def test_the_folded_layers_compute_the_same(layers):
    x, plain = torch.randn(2, 3, 9), folded_copy(layers)
    assert list(normed(layers)) == ["0", "1.0"] and not normed(plain)
    with torch.no_grad():
        assert torch.equal(plain(x), layers(x)) and not torch.equal(plain(x), plain(2 * x))
    assert sorted(plain.state_dict()) == sorted(
        {name.removesuffix("_g").removesuffix("_v") for name in layers.state_dict()}
    )
    assert not plain[0].weight.requires_grad and list(normed(layers)), "the others keep their norms"


def test_a_weight_without_a_norm_is_the_weight(layers):
    assert folded(layers[2]).data_ptr() == layers[2].weight.data_ptr()


def test_a_bfloat16_norm_is_computed_in_float32(layers):
    layer = layers[0].to(torch.bfloat16)
    v, g = layer.weight_v.detach().double(), layer.weight_g.detach().double()
    want = (g * v / v.flatten(1).norm(dim=1)[:, None, None]).to(torch.bfloat16)
    assert folded(layer).dtype == torch.bfloat16 and torch.equal(folded(layer), want)
