"""Shared by the tests of engines: the reference transformer."""

from __future__ import annotations

import copy

import pytest
import torch


@pytest.fixture(scope="module")
def transformer(base):
    """The built-in model's, with every norm's weight off 1."""
    made = copy.deepcopy(base.pipe.transformer)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in made.named_parameters():
        if "norm" in name:
            parameter.data.copy_(0.5 + torch.rand(parameter.shape, generator=generator))
    return made
