"""Captures that fail: what is tried again, what is let go of, and that no graph is ended twice. On a stand-in."""

from __future__ import annotations

import pytest
import torch
from ostinato.engine_runtime.device import capture as capture_module
from ostinato.engine_runtime.device.capture import TRIES, Capture, capturable

from ...graph_stand_in import CUDA, Graph, noting


@pytest.fixture
def noted(monkeypatch):
    return noting(monkeypatch)


def fails_while_captured(noted, error):
    def body():
        noted(1)
        if Graph.now is not None:
            raise error

    return body


@pytest.fixture
def asked_again(noted, monkeypatch):
    """The allocator is asked for anew, now and by those that come after."""
    monkeypatch.setattr(capture_module, "capturable", capturable)  # the stand-in of `noted` says yes without asking
    capturable.cache_clear()
    yield
    capturable.cache_clear()


def test_nothing_is_captured_with_an_allocator_that_cannot(noted, cuda, caplog, asked_again):
    cuda(get_allocator_backend=lambda: "cudaMallocAsync")
    for capture in (Capture(CUDA), Capture(CUDA)):
        for _ in range(3):
            capture.run("a", lambda: noted(1))
    assert noted.done == [1] * 6 and not Graph.made
    assert ["--disable-cuda-malloc" in record.message for record in caplog.records] == [True]


def test_memory_that_stays_short_is_made_room_for_once(noted, cuda, caplog):
    """PyTorch's cache is emptied before the second try; then all goes on plainly, and one message says so."""
    emptied = []
    cuda(empty_cache=lambda: emptied.append(1))
    capture = Capture(CUDA)
    for _ in range(4):
        capture.run("a", fails_while_captured(noted, torch.OutOfMemoryError("CUDA out of memory")))
    assert noted.done == [1] * 4 and emptied == [1] and not capture.on
    assert [record.levelname for record in caplog.records if "not captured" in record.message] == ["WARNING"]


def test_an_error_that_is_no_shortage_empties_no_cache(noted, cuda, caplog):
    emptied = []
    cuda(empty_cache=lambda: emptied.append(1))
    capture = Capture(CUDA)
    for i in range(2 + TRIES):
        assert capture.on == (i <= TRIES)
        capture.run("a", fails_while_captured(noted, RuntimeError("not permitted")))
    assert not emptied and noted.done == [1] * (2 + TRIES) and len(Graph.made) == 1 + TRIES
    assert [record.levelname for record in caplog.records if "not captured" in record.message] == ["WARNING"]


def test_a_capture_that_another_thread_ended_is_made_in_the_next_tick(noted, caplog):
    """As long as not all fail: what was captured before is replayed on, and nothing is said."""
    capture, failures = Capture(CUDA), []

    def body():
        noted(1)
        if Graph.now is not None and failures:
            raise failures.pop()

    for key in range(2 * TRIES):
        failures[:] = [RuntimeError("operation failed due to a previous error during capture")] * (TRIES - 1)
        for _ in range(TRIES + 2):
            capture.run(key, body)
        assert capture.on and not failures and len(capture.replayed) == key + 1
    assert noted.done == [1] * (2 * TRIES * (TRIES + 2)) and not caplog.records


def test_graphs_of_before_are_let_go_of_when_nothing_is_captured_any_more(noted):
    released = []
    capture = Capture(CUDA, release=lambda *steps: released.extend(steps))
    for _ in range(2):
        capture.run("a", lambda: noted(1))
    replay = Graph.made[-1].replay
    for _ in range(1 + TRIES):
        capture.run("b", fails_while_captured(noted, RuntimeError("not permitted")))
    assert released == [replay] and capture.replayed == []


def test_a_capture_that_ended_is_not_ended_again_where_the_next_cannot_begin(noted, cuda):
    """To end it twice would give back a pool that is given back, and end the process."""
    ended, full = [], [False]

    class Full(Graph):
        def __init__(self):
            if full[0] and Graph.now is None and len(ended) > 1:
                raise RuntimeError("no more graphs")
            super().__init__()

        def capture_end(self):
            ended.append(self)
            super().capture_end()

    cuda(CUDAGraph=Full)
    capture = Capture(CUDA)
    full[0] = True

    def body():
        noted(1)
        capture.outside(lambda: noted(2))

    for _ in range(1 + TRIES):
        capture.run("a", body)
    assert noted.done == [1, 2] * (1 + TRIES) and not capture.on
    assert len(ended) == len(set(ended)) == 2, "the pool's own and the first part's"
