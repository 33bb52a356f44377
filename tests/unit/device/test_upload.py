"""Numbers on their way to a device, on a stand-in for its pinned memory: none is overwritten before it is copied."""

import numpy as np
import pytest
import torch
from ostinato.engine_runtime.device import upload as module
from ostinato.engine_runtime.device.upload import SPARE, Upload


class Event:
    """Passes when it is told to."""

    def __init__(self):
        self.passed = True

    def query(self):
        return self.passed

    def record(self, stream):
        assert stream == "lane"
        self.passed = False


class Pinned:
    """Memory that is not pinned, with an event moved by hand."""

    def __init__(self, like):
        self.host = torch.empty(like.shape)
        self.cells, self.copied = self.host.numpy(), Event()


@pytest.fixture
def upload(monkeypatch):
    monkeypatch.setattr(module, "Pinned", Pinned)
    one = Upload(torch.zeros(2, 3), "lane")
    one.spare.extend(Pinned(one.target) for _ in range(SPARE))
    return one


def test_what_is_being_copied_is_not_written(upload):
    """However far ahead the host is: what it wrote lies where it was."""
    for n in range(3 * SPARE):
        upload.put([(n, n, n), (n, n, n)])
    found = [int(one.host[0, 0]) for one in upload.spare]
    assert found == list(range(3 * SPARE)) and all((one.host == one.host[0, 0]).all() for one in upload.spare)


def test_what_is_copied_is_used_again(upload):
    for n in range(5 * SPARE):
        upload.put([(n, n, n), (n, n, n)])
        for one in upload.spare:
            one.copied.passed = True
    assert len(upload.spare) == SPARE and (upload.target == 5 * SPARE - 1).all()


@pytest.mark.parametrize("numbers", [[(1.0, 2.0, 3.0)], [1.0], [(1.0, 2.0), (3.0, 4.0)]])
def test_another_shape_is_refused(upload, numbers):
    with pytest.raises(ValueError):
        upload.put(numbers)


def test_on_the_cpu_it_is_there_at_once():
    target = torch.zeros(2, 2)
    Upload(target, None).put([(True, 2), (0.5, np.float64(4.0))])
    assert target.tolist() == [[1.0, 2.0], [0.5, 4.0]]
