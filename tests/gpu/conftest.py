"""The gpu tier: everything here carries the marker and is skipped, with its reason, where CUDA is not."""

import pytest
import torch

REASON = "no CUDA device: the gpu tier needs one"


def pytest_collection_modifyitems(items):
    for item in items:
        if "gpu" in item.path.parts:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason=REASON))
