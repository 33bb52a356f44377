"""Captures and their pool, on a stand-in for CUDA's graphs, and that no garbage is collected meanwhile."""

import gc
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from ostinato.engine_runtime.device import capture as capture_module
from ostinato.engine_runtime.device.capture import TRIES, Capture, Edits, Spoilt
from ostinato.engine_runtime.device.lane import Lane
from ostinato.engine_runtime.device.undisturbed import Neighbours, uncollected
from ostinato.engine_runtime.errors import EngineError
from ostinato.engine_runtime.registry import registry

from ...graph_stand_in import CUDA, Graph, noting


@pytest.fixture(autouse=True)
def as_before():
    on = gc.isenabled()
    yield
    (gc.enable if on else gc.disable)()


def test_it_comes_back_with_the_last_that_leaves():
    inside, leave = threading.Event(), threading.Event()

    def other():
        with uncollected():
            inside.set()
            leave.wait(10)

    gc.enable()
    thread = threading.Thread(target=other)
    with uncollected():
        thread.start()
        assert inside.wait(10) and not gc.isenabled()
    assert not gc.isenabled(), "the other one still captures"
    leave.set()
    thread.join()
    assert gc.isenabled()


def test_it_comes_back_after_a_failure():
    gc.enable()
    with pytest.raises(ValueError), uncollected():
        raise ValueError
    assert gc.isenabled()


def test_who_has_switched_it_off_keeps_it_off():
    gc.disable()
    with uncollected():
        pass
    assert not gc.isenabled()


# --- captures, on a stand-in for CUDA's graphs -----------------------------------------------------------------------


@pytest.fixture
def noted(monkeypatch):
    """Numbers that bodies have noted; those of a body that is captured come when it is replayed."""
    return noting(monkeypatch)


def test_a_body_is_run_then_captured_then_replayed(noted):
    capture, runs = Capture(CUDA), []

    def body():
        runs.append(1)
        noted(len(runs))

    for _ in range(4):
        capture.run("a", body)
    assert noted.done == [1, 2, 2, 2] and len(runs) == 2 and gc.isenabled()


def test_what_is_handed_outside_lies_between_two_graphs(noted):
    capture, state = Capture(CUDA), [0]

    def body():
        noted("before")
        capture.outside(lambda: noted.done.append(state[0]))
        noted("after")

    for state[0] in range(4):
        capture.run("a", body)
    assert noted.done == [x for n in range(4) for x in ("before", n, "after")]


def test_ticks_of_a_lane_share_a_pool_while_one_of_them_is_there(noted):
    lane = Lane(torch.device("cpu"))

    def captured():
        made = Capture(CUDA, pool=lane.pool())
        for _ in range(2):
            made.run("a", lambda: noted(1))
        return made, Graph.made[-1].pool

    first, pool = captured()
    second, same = captured()
    assert same is pool
    del first
    third, same = captured()
    assert same is pool
    del second, third
    gc.collect()
    assert captured()[1] is not pool


def test_the_body_that_was_not_used_for_longest_makes_room(noted):
    """Not the one that was captured first."""
    capture = Capture(CUDA, most=2)
    for key in ("a", "a", "b", "b", "a", "c", "c"):
        capture.run(key, lambda key=key: noted(key))
    assert capture.replayed == ["a", "c"]
    made = len(Graph.made)
    capture.run("a", lambda: pytest.fail("it is still replayed"))
    capture.run("b", lambda: noted("b again"))
    assert noted.done[-2:] == ["a", "b again"] and len(Graph.made) == made, "b is seen for the first time again"


def test_steps_that_are_replayed_no_more_are_handed_out(noted):
    """The last run of a graph may not be over: whoever runs it keeps it until then."""
    released = []
    capture = Capture(CUDA, most=2, release=lambda *steps: released.extend(steps))
    for key in ("a", "a", "b", "b"):
        capture.run(key, lambda: noted(1))
    first, second = Graph.made[-2:]
    capture.run("c", lambda: noted(1))
    assert released == [first.replay]
    capture.clear()
    assert released == [first.replay, second.replay] and not capture.replayed


@pytest.fixture
def neighbours(noted):
    """The host's threads, at work or not; `kept` lists what was captured while they were kept still."""
    found = SimpleNamespace(busy=False, still=False, kept=[])

    @contextmanager
    def still():
        found.still = not found.busy
        try:
            yield found.still
        finally:
            found.still = False

    with registry.fresh(Neighbours):
        registry.one(Neighbours).still = still
        yield found


def test_nothing_is_captured_while_the_host_is_at_work(noted, neighbours):
    """What is captured already is replayed; the rest is run plainly, and captured as soon as the host rests."""
    capture = Capture(CUDA)

    def body():
        noted(1)
        if Graph.now is not None:
            neighbours.kept.append(neighbours.still)

    for key, busy, replayed in (("a", False, ["a"]), ("b", True, ["a"]), ("a", True, ["a"]), ("b", False, ["a", "b"])):
        neighbours.busy = busy
        for _ in range(3):
            capture.run(key, body)
        assert capture.replayed == replayed and capture.replays(key) == (key in replayed)
        assert not neighbours.still, "they go on as soon as the capture has ended"
    assert noted.done == [1] * 12 and neighbours.kept == [True, True]


@pytest.mark.parametrize("error", [RuntimeError("operation not permitted when stream is capturing"), KeyError("x")])
def test_a_capture_that_fails_ends_and_all_goes_on_plainly(noted, error, caplog):
    capture, fails = Capture(CUDA), [False]

    def body():
        noted(1)
        if Graph.now is not None and fails[0]:
            raise error

    capture.run("other", lambda: noted(0))
    fails[0] = True
    for _ in range(2 + TRIES):
        capture.run("a", body)
    for _ in range(3):
        capture.run("other", lambda: noted(0))
    assert noted.done == [0, *[1] * (2 + TRIES), 0, 0, 0]
    assert Graph.now is None and gc.isenabled()
    assert len([r for r in caplog.records if "not captured" in r.message]) == 1


@pytest.mark.parametrize("within", [False, True], ids=["at the end", "before a part outside"])
def test_a_capture_that_cannot_be_ended_is_put_right(noted, cuda, monkeypatch, within):
    """As where a call of the body was not allowed: PyTorch says so at the end, and still believes that it captures."""
    repaired, spoilt = [], [False]

    class Spoilt(Graph):
        def capture_end(self):
            super().capture_end()
            if spoilt[0]:
                raise RuntimeError("operation failed due to a previous error during capture")

    cuda(CUDAGraph=Spoilt)
    monkeypatch.setattr(capture_module, "end", lambda graph, pool: repaired.append((graph, pool)))
    capture = Capture(CUDA)
    handle = capture.pool.handle
    spoilt[0] = True

    def body():
        noted(1)
        if within:
            capture.outside(lambda: noted(2))

    for _ in range(3):
        capture.run("a", body)
    assert noted.done == ([1, 2] if within else [1]) * 3
    assert repaired == [(graph, handle) for graph in Graph.made[1:]] and len(repaired) == 2 and gc.isenabled()


def test_after_a_capture_that_was_spoilt_there_is_another_pool(noted, cuda, monkeypatch):
    """PyTorch refuses the old one, and goes on asking the graph, which must not be freed."""
    spoilt = [True]

    class Once(Graph):
        def capture_end(self):
            if spoilt and self.noted:
                if Graph.now is None:
                    spoilt.pop()
                Graph.now = None
                raise RuntimeError("operation failed due to a previous error during capture")
            super().capture_end()

    cuda(CUDAGraph=Once, current_device=lambda: 0)
    for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
        monkeypatch.setattr(torch._C, name, lambda device, pool: None, raising=False)
    with registry.fresh(Spoilt):
        capture = Capture(CUDA)
        before = capture.pool.handle
        for _ in range(4):
            capture.run("a", lambda: noted(1))
        assert noted.done == [1] * 4 and capture.replays("a") and not spoilt
        assert capture.pool.handle is not before and Graph.made[-1].pool is capture.pool.handle
        assert [graph.pool for graph in registry.one(Spoilt).graphs] == [before]


@pytest.mark.parametrize("taken", [True, False], ids=["still taken", "given back"])
def test_a_pool_is_let_go_of_once(noted, cuda, monkeypatch, taken):
    """A capture that failed after it gave its pool back lets go of it with its graph; twice would end the process."""
    calls = []

    def give_back(device, pool):
        calls.append("end")
        if not taken:
            raise RuntimeError("not currently recording to mempool")

    cuda(current_device=lambda: 0)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", give_back, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", lambda device, pool: calls.append("release"), raising=False)
    graph = Graph()
    monkeypatch.setattr(graph, "capture_end", lambda: (_ for _ in ()).throw(RuntimeError("it is over")))
    monkeypatch.setattr(Graph, "capture_begin", lambda self, **_: setattr(Graph, "now", self))
    capture_module.end(graph, object())
    assert calls == (["end", "release"] if taken else ["end"])
    assert len(Graph.made) == 2 and Graph.made[1].ended, "random numbers are drawn again"


class Kept(Graph):
    """One that is edited before it is instantiated."""

    def __init__(self, keep_graph=False):
        super().__init__()
        assert keep_graph
        self.instantiated = 0

    def raw_cuda_graph(self):
        assert self.ended and not self.instantiated
        return 7

    def instantiate(self):
        self.instantiated += 1


@pytest.fixture
def edited(noted, cuda, monkeypatch):
    """Calls of the editor, which first fails as often as is asked."""
    calls, failures = [], []

    def edit(graph, device):
        calls.append((graph, device))
        if failures:
            raise failures.pop()

    cuda(CUDAGraph=Kept, current_device=lambda: 0)
    monkeypatch.setattr(capture_module, "_editable", lambda: True)
    monkeypatch.setattr(capture_module.driver, "memsets_to_kernels", edit)
    with registry.fresh(Edits):
        yield calls, failures


def test_a_graph_is_edited_once_before_it_is_replayed(noted, edited):
    capture = Capture(CUDA)
    for _ in range(4):
        capture.run("a", lambda: noted(1))
    assert noted.done == [1] * 4 and edited[0] == [(7, 0)] * len(Graph.made)
    assert all(graph.instantiated == 1 for graph in Graph.made)


def test_where_a_graph_cannot_be_edited_it_is_replayed_as_it_is(noted, edited, caplog):
    capture = Capture(CUDA)
    edited[1].append(EngineError("the driver is too old", "a newer one can", "install it"))
    for key in "abab" * 2:
        capture.run(key, lambda: noted(1))
    assert noted.done == [1] * 8 and all(graph.instantiated == 1 for graph in Graph.made) and len(Graph.made) == 3
    assert len(edited[0]) == 1 and [r.message for r in caplog.records if "too old" in r.message]


def test_a_shortage_is_tried_again_once(noted):
    capture, failures = Capture(CUDA), [torch.OutOfMemoryError("CUDA out of memory")]

    def body():
        noted(1)
        if Graph.now is not None and failures:
            raise failures.pop()

    for _ in range(4):
        capture.run("a", body)
    assert noted.done == [1] * 4 and len([g for g in Graph.made if g.ended and g.noted]) == 2
