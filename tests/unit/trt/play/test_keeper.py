"""What is kept while executes run; the test moves streams and events by hand."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
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
def stream(cuda):
    lane = Stream()
    cuda(Event=Event, current_stream=lambda device: lane)
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
    assert not keeper.retired


def test_a_steady_stream_of_new_tensors_is_let_go_of(keeper, stream):
    """Adapters that are turned at every tick bring new factors each time."""
    for i in range(50):
        execute(keeper, stream, x=torch.zeros(4))
        stream.over = i
    assert len(keeper.retired) <= 3


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
    assert stream.over == 3 and not keeper.retired
    keeper.drain()


def test_another_stream_waits_for_all_of_the_first(keeper, stream, cuda):
    execute(keeper, stream, x=torch.zeros(4))
    other = Stream()
    cuda(current_stream=lambda device: other)
    execute(keeper, other, x=torch.zeros(4))
    execute(keeper, other, x=torch.zeros(4))
    assert other.waited == [stream] and not stream.waited
