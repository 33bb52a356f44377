"""Hand-over between a lane and other streams, on a stand-in for CUDA's streams: who waits for whom, what is kept."""

from __future__ import annotations

import gc
import weakref
from contextlib import contextmanager

import pytest
import torch
from ostinato.engine_runtime.device.lane import Lane

CUDA = torch.device("cuda", 1)


class Stream:
    """Work in its order; `seen` is what has been enqueued."""

    def __init__(self, device, priority=0):
        self.device, self.priority, self.seen = device, priority, []

    def wait_event(self, event):
        self.seen.append(("waits for", event.behind))


class Event:
    """Behind all that its stream had when it was recorded."""

    behind: tuple = ()

    def record(self, stream):
        self.behind = tuple(stream.seen)


class Tensor:
    def __init__(self):
        self.kept_for = []

    def record_stream(self, stream):
        self.kept_for.append(stream)


@pytest.fixture
def streams(cuda):
    """The caller's own stream of each device."""
    of, used = {device: Stream(device) for device in (CUDA, torch.device("cuda", 0))}, []

    @contextmanager
    def use(stream):
        used.append(stream)
        yield
        used.pop()

    cuda(Stream=Stream, Event=Event, stream=use, current_stream=lambda device: of[device])
    of["used"] = used
    return of


def test_ticks_go_before_other_work_of_their_device(streams):
    """A lower number is a higher priority."""
    lane = Lane(CUDA)
    assert lane.stream.device == CUDA and lane.stream.priority < 0
    with lane.use():
        assert streams["used"] == [lane.stream]
    assert streams["used"] == []


def test_a_body_runs_on_the_lane(streams):
    lane = Lane(CUDA)
    assert lane.run(lambda: list(streams["used"])) == [lane.stream] and streams["used"] == []


def test_the_lane_waits_for_what_the_caller_had_enqueued(streams):
    lane = Lane(CUDA)
    streams[CUDA].seen.append("upload")
    event = lane.mark()
    streams[CUDA].seen.append("later")
    lane.wait(event)
    lane.wait(None)
    assert lane.stream.seen == [("waits for", ("upload",))]


def test_the_caller_waits_for_the_lane_and_keeps_the_latent(streams):
    lane, latent = Lane(CUDA), Tensor()
    lane.stream.seen.append("tick")
    event = lane.done()
    lane.stream.seen.append("next tick")
    assert lane.take(latent, event) is latent
    assert streams[CUDA].seen == [("waits for", ("tick",))] and latent.kept_for == [streams[CUDA]]


def test_a_tensor_of_the_caller_is_kept_for_the_lane(streams):
    lane, tensor = Lane(CUDA), Tensor()
    lane.keep(tensor)
    assert tensor.kept_for == [lane.stream]


def test_what_has_no_event_is_there_already(streams):
    lane, latent = Lane(CUDA), Tensor()
    assert lane.take(latent, None) is latent and streams[CUDA].seen == [] and latent.kept_for == []


def test_on_the_cpu_there_is_nothing_to_wait_for():
    lane, tensor = Lane(torch.device("cpu")), torch.zeros(1)
    assert (lane.stream, lane.mark(), lane.done()) == (None, None, None)
    lane.wait(None)
    lane.keep(tensor)
    with lane.use():
        assert lane.take(tensor, None) is tensor


def test_a_pool_lives_as_long_as_somebody_holds_it(streams):
    lane = Lane(CUDA)
    pool = lane.pool()
    assert lane.pool() is pool and Lane(CUDA).pool() is not pool
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    again = lane.pool()
    assert gone() is None and lane.pool() is again


def test_one_tick_at_a_time_but_whoever_ticks_may_go_on(streams):
    lane = Lane(CUDA)
    with lane.lock, lane.lock:
        pass
