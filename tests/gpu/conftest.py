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


@pytest.fixture(scope="module", autouse=True)
def full_precision():
    """Convolutions use TF32 unless told not to, which is too coarse to compare with the CPU."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before
