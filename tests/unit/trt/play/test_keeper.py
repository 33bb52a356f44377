"""What is kept while executes run, and when graphs are captured; the test moves streams and events by hand."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from ostinato.engine_runtime.device import capture
from ostinato.engine_runtime.errors import EngineError
from ostinato.engine_runtime.trt.play.cuda_graphs import MOST, Graphs
from ostinato.engine_runtime.trt.play.keeper import Keeper


class Stream:
    """Counts what was enqueued and what is over."""

    def __init__(self) -> None:
        self.enqueued = self.over = 0
        self.waited: list[Stream] = []

    def wait_stream(self, other: Stream) -> None:
        self.waited.append(other)


class Event:
    stream: Stream | None = None
    place = 0

    def record(self, stream: Stream) -> None:
        self.stream, self.place = stream, stream.enqueued

    def query(self) -> bool:
        return self.stream is None or self.stream.over >= self.place

    def synchronize(self) -> None:
        if self.stream is not None:
            self.stream.over = max(self.stream.over, self.place)


@pytest.fixture
def stream(monkeypatch):
    lane = Stream()
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: lane)
    return lane


@pytest.fixture
def keeper(stream):
    return Keeper(torch.device("cuda", 0))


def execute(keeper, stream, **bound):
    keeper.enter()
    for name, tensor in bound.items():
        keeper.hold(name, tensor)
    stream.enqueued += 1
    keeper.mark()


def alive(reference):
    gc.collect()
    return reference() is not None


def test_what_is_bound_is_kept_until_its_last_use_is_over(keeper, stream):
    """Not only until it is replaced, and not until some later execute is over either."""
    first = torch.zeros(4)
    seen = weakref.ref(first.untyped_storage()), weakref.ref(first)
    execute(keeper, stream, x=first)
    del first
    execute(keeper, stream, x=torch.zeros(4))  # the first one still runs
    assert alive(seen[1])
    execute(keeper, stream, x=torch.zeros(4))
    assert alive(seen[1])
    stream.over = 1
    keeper.release()
    assert not alive(seen[1])


def test_views_of_one_buffer_are_no_change(keeper, stream):
    rows = torch.zeros(4, 4)
    for i in range(40):
        execute(keeper, stream, x=rows[i % 2])
    assert not keeper._retired


def test_a_steady_stream_of_new_tensors_is_let_go_of(keeper, stream):
    """Adapters that are turned at every tick bring new factors each time."""
    for i in range(50):
        execute(keeper, stream, x=torch.zeros(4))
        stream.over = i
    assert len(keeper._retired) <= 3


def test_what_is_retired_waits_for_the_last_execute(keeper, stream):
    tensor = torch.zeros(4)
    seen = weakref.ref(tensor)
    execute(keeper, stream, x=tensor)
    del tensor
    keeper.retire()
    keeper.release()
    assert alive(seen)
    stream.over = 1
    keeper.release()
    assert not alive(seen)


def test_draining_waits_for_all_of_it(keeper, stream):
    for _ in range(3):
        execute(keeper, stream, x=torch.zeros(4))
    keeper.drain()
    assert stream.over == 3 and not keeper._retired
    keeper.drain()


def test_another_stream_waits_for_all_of_the_first(keeper, stream, monkeypatch):
    execute(keeper, stream, x=torch.zeros(4))
    other = Stream()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: other)
    execute(keeper, other, x=torch.zeros(4))
    execute(keeper, other, x=torch.zeros(4))
    assert other.waited == [stream] and not stream.waited


class Graph:
    """Stands in for `torch.cuda.CUDAGraph`."""

    capturing = False

    def capture_begin(self, pool: object, capture_error_mode: str) -> None:
        assert capture_error_mode == "thread_local"
        Graph.capturing = True

    def capture_end(self) -> None:
        Graph.capturing = False

    def replay(self) -> None:
        Graph.replays += 1


@pytest.fixture
def ran(monkeypatch):
    """What was enqueued: `plain` or `captured`."""
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(capture, "_editable", lambda: False)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: Graph.capturing)
    Graph.capturing = False
    Graph.replays, done = 0, []

    def enqueue():
        done.append("captured" if Graph.capturing else "plain")

    return done, enqueue


def test_the_second_launch_of_a_key_is_captured(ran):
    done, enqueue = ran
    graphs = Graphs(True)
    for _ in range(4):
        graphs.launch("a", enqueue)
    graphs.launch("b", enqueue)
    assert done == ["plain", "captured", "plain"] and Graph.replays == 3
    assert len(graphs.drop()) == 1
    graphs.launch("a", enqueue)
    assert done[-1] == "plain" and not graphs.drop()


def test_inside_a_capture_of_its_caller_nothing_else_is_captured(ran):
    done, enqueue = ran
    graphs, outer = Graphs(True), Graph()
    outer.capture_begin(None, "thread_local")
    for _ in range(3):
        graphs.launch("a", enqueue)
    assert done == ["captured"] * 3 and Graph.replays == 0 and Graph.capturing
    outer.capture_end()
    for _ in range(2):
        graphs.launch("a", enqueue)
    assert Graph.replays == 1, "captured at the second launch of its own"
    outer.capture_begin(None, "thread_local")
    graphs.launch("a", enqueue)
    outer.capture_end()
    assert Graph.replays == 1 and done[-1] == "captured"


def test_without_permission_nothing_is_captured(ran):
    done, enqueue = ran
    graphs = Graphs(False)
    for _ in range(3):
        graphs.launch("a", enqueue)
    assert done == ["plain"] * 3 and Graph.replays == 0


@pytest.mark.parametrize("error", [EngineError("no", "x", "y"), RuntimeError("capture is not permitted")])
def test_a_capture_that_fails_is_the_last_one(ran, error, caplog):
    done, enqueue = ran

    def refuses():
        if Graph.capturing:
            raise error
        enqueue()

    graphs = Graphs(True)
    for _ in range(4):
        graphs.launch("a", refuses)
    assert done == ["plain"] * 4 and "no CUDA graph" in caplog.text and not Graph.capturing


def test_keys_that_keep_coming_are_noticed(ran):
    graphs = Graphs(True)
    for i in range(MOST):
        assert not graphs.full
        graphs.launch(i, ran[1])
    assert graphs.full
    graphs.drop()
    assert not graphs.full
