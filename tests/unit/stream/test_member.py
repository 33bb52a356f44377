"""A session's part in a ring by itself: who waits, what is dropped, which knobs hold for which length."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from ostinato.engine_runtime.config import Guidance, Sampling, StreamConfig
from ostinato.engine_runtime.controls.knobs import Knobs
from ostinato.engine_runtime.device.lane import Lane
from ostinato.engine_runtime.spec import ACE_STEP
from ostinato.engine_runtime.stream.inbox import Inbox
from ostinato.engine_runtime.stream.knob_state import Change, KnobState
from ostinato.engine_runtime.stream.member import Member
from ostinato.engine_runtime.stream.request import Request

from ...helpers import made_up

CPU, C, T = torch.device("cpu"), ACE_STEP.channels, 6
LANE = Lane(CPU)


class Notes:
    """A listener's notes."""

    def __init__(self):
        self.words = []

    def __getattr__(self, name):
        return lambda *given: self.words.append((name, *given))


def member(log=None, **config) -> Member:
    asked = StreamConfig(**config)
    state = KnobState.of(Knobs(), C, CPU, LANE)
    return Member("one", asked, state, Inbox(C, CPU, LANE, asked, Knobs(), lambda inbox: 8), log)


def waiting(name: str) -> SimpleNamespace:
    return SimpleNamespace(request=name)


@pytest.mark.parametrize(("steps", "depth", "every"), [(8, 2, 4), (7, 2, 4), (8, 3, 3), (2, 4, 1), (8, 1, 8)])
def test_latents_finish_evenly(steps, depth, every):
    """A request enters every ceil(steps / depth) ticks while others of its member play."""
    one, request = member(depth=depth), Request(made_up(0, T), Sampling(steps))
    assert not one.must_wait(request, 1), "none came before"
    one.admitted()
    waits = []
    for _ in range(every + 1):
        waits.append(one.must_wait(request, 1))
        assert not one.must_wait(request, 0), "nothing plays that it could be even with"
        one.ticks_since_admission += 1
    assert waits == [True] * every + [False]
    one.admitted()
    assert one.must_wait(request, 1)
    at_once = member(depth=depth, spread=False)
    at_once.admitted()
    assert not at_once.must_wait(request, 1)


def test_slots_that_a_larger_depth_added_are_filled_at_once():
    one, request = member(depth=2), Request(made_up(0, T), Sampling(8))
    one.new_slots = 2
    waits = []
    for _ in range(3):
        one.admitted()
        waits.append(one.must_wait(request, 1))
    assert waits == [False, True, True] and one.new_slots == 0


def test_a_full_queue_drops_its_oldest():
    one = member(queue=2)
    one.waiting += [waiting("a"), waiting("b")]
    for name in "cde":
        one.inbox.submit(waiting(name))
    assert one.queued == ["a", "b", "d", "e"] and one.dropped == 1
    arrivals = one.take_in()
    assert [prepared.request for prepared in arrivals.prepared] == ["d", "e"]
    assert one.queued == ["d", "e"] and one.dropped == 3 and one.ticks == 1


def test_whoever_leaves_drops_what_waits():
    one = member()
    one.waiting.append(waiting("a"))
    one.inbox.submit(waiting("b")), one.inbox.submit(waiting("c"))
    one.close()
    assert one.closed and one.queued == [] and one.dropped == 3


def test_what_a_step_takes_in_is_told_with_its_tick():
    log = Notes()
    one = member(log)
    one.inbox.configure({"depth": 3})
    one.take_in()
    assert (one.config.depth, one.base_config.depth, one.ticks) == (3, 3, 1)
    one.take_in()
    one.report_failure()
    one.keep_depth(1)
    assert (one.config.depth, one.base_config.depth, one.inbox.depth) == (1, 1, 1)
    assert log.words == [("configured", 0, {"depth": 3}), ("failed", 1), ("configured", 1, {"depth": 1})]
    member().report_failure(), member().keep_depth(1)  # nobody listens


def test_what_finished_is_counted_in_frames():
    one = member()
    one.count_finished(Request(made_up(0, T))), one.count_finished(Request(made_up(0, T + 2)))
    assert (one.finished, one.frames) == (2, 2 * T + 2)


@pytest.mark.parametrize(
    ("config", "scale", "hot"),
    [({}, None, False), ({"guidance": "full"}, None, True), ({"hot_guidance": True}, None, True), ({}, 3.0, True)],
)
def test_a_scale_that_can_be_turned_needs_rows_though_it_is_1(config, scale, hot):
    one = member(**config)
    if scale is not None:
        one.set_knobs([Change.prepare({"guidance_scale": scale}, C, CPU, LANE)], None, CPU, LANE)
    request = Request(made_up(0, T), guidance=Guidance(1.0))
    assert one.rows_for(request) == request.guidance.rows(hot)
    assert request.guidance.rows(True) != request.guidance.rows(False)


def test_a_curve_of_another_length_waits_for_the_next_ring():
    one, long = member(), torch.linspace(0.5, 1.0, T + 3)
    changes = [Change.prepare({"velocity_scale": long, "sde": 0.5}, C, CPU, LANE)]
    assert one.set_knobs(changes, T, CPU, LANE) == {"sde"}
    assert (one.knobs.knobs.velocity_scale, one.knobs.knobs.sde) == (1.0, 0.5)
    assert torch.equal(one.next_knobs.knobs.velocity_scale, long) and one.next_knobs.knobs.sde == 0.5
    assert one.set_knobs([Change.prepare({"blend": 0.3}, C, CPU, LANE)], T, CPU, LANE) == {"blend"}
    assert one.knobs.knobs.blend == one.next_knobs.knobs.blend == 0.3 and one.knobs is not one.next_knobs
    assert one.knobs.knobs.velocity_scale == 1.0


def test_without_a_ring_every_change_holds():
    one, long = member(), torch.linspace(0.5, 1.0, T + 3)
    two = [Change.prepare({"velocity_scale": long}, C, CPU, LANE), Change.prepare({"sde": 0.5}, C, CPU, LANE)]
    assert one.set_knobs(two, None, CPU, LANE) == {"velocity_scale", "sde"}
    assert one.knobs is one.next_knobs and torch.equal(one.knobs.knobs.velocity_scale, long)
