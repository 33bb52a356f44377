"""What a step's stream waits for and keeps: all that was made elsewhere for it. On a lane that notes its calls."""

from __future__ import annotations

import pytest
import torch
from ostinato.engine_runtime.config import Sampling, StreamConfig
from ostinato.engine_runtime.controls.knobs import Knobs
from ostinato.engine_runtime.device.lane import Lane
from ostinato.engine_runtime.spec import ACE_STEP
from ostinato.engine_runtime.stream.request import Request

from ...helpers import StandIn, apart, drawn, made_up

T, C = 6, ACE_STEP.channels


class Event:
    passed = False

    def query(self):
        return self.passed


class Written(Lane):
    """A lane of the CPU whose work is never over unless that is said."""

    def __init__(self):
        super().__init__(torch.device("cpu"))
        self.marks, self.ends, self.waited, self.kept, self.taken = [], [], [], [], []

    def mark(self):
        self.marks.append(Event())
        return self.marks[-1]

    def done(self):
        self.ends.append(Event())
        return self.ends[-1]

    def wait(self, event):
        self.waited.append(event)

    def keep(self, tensor):
        self.kept.append(tensor)

    def take(self, tensor, event):
        self.taken.append((tensor, event))
        return tensor

    def keeps(self, tensor, count=1):
        """At least so many tensors of these numbers are kept."""
        found = {id(one) for one in self.kept if one.shape == tensor.shape and torch.equal(one, tensor)}
        return len(found) >= count


@pytest.fixture
def lane():
    return Written()


def opened(lane, **knobs):
    return apart("written", StandIn(), StreamConfig(depth=1), lane, Knobs(**knobs))


def test_curves_that_a_session_starts_with(lane):
    opened(lane, sde=torch.linspace(0, 1, T))
    assert lane.keeps(torch.linspace(0, 1, T)[:, None]) and lane.waited == lane.marks


def test_all_of_a_request(lane):
    session = opened(lane)
    condition, source, mask = made_up(1, T), drawn(2, T, C), torch.ones(T, C)
    mask[3:] = 0.0
    before = len(lane.marks)
    session.submit(Request(condition, Sampling(4, 0.5), source=source, mask=mask))
    (mark,) = lane.marks[before:]
    assert mark not in lane.waited, "only the step needs it"
    session.step()
    assert mark in lane.waited
    for tensor in (source, mask, condition.tokens, condition.context):
        assert lane.keeps(tensor)


def test_curves_that_are_set_and_none_of_a_number(lane):
    session = opened(lane)
    session.submit(Request(made_up(1, T), Sampling(8)))
    session.step()
    before = len(lane.marks)
    session.set(sde=0.5)
    assert len(lane.marks) == before, "a number is there at once"
    session.set(ode_noise=torch.linspace(0, 1, T))
    (mark,) = lane.marks[before:]
    session.step()
    assert mark in lane.waited and lane.keeps(torch.linspace(0, 1, T)[:, None])


def test_what_is_not_over_is_waited_for_again_and_what_is_over_is_not(lane):
    session = opened(lane)
    session.set(ode_noise=torch.linspace(0, 1, T))
    mark = lane.marks[-1]
    session.set(sde=0.5)
    session.step()
    assert mark in lane.waited
    mark.passed = True
    lane.waited.clear()
    for value in (0.4, 0.3):
        session.set(sde=value)
        session.step()
    assert mark not in lane.waited


def test_the_bands_of_a_factor_are_made_for_each_ring_that_has_it(lane):
    """A curve of another length waits for its ring; beside it the factor acts in both."""
    session = opened(lane, dcw=True)
    session.submit(Request(made_up(1, T), Sampling(8)))
    session.step()
    before = len(lane.marks)
    session.set(dcw_low=torch.full((T,), 0.25), sde=torch.linspace(0, 1, T + 2))
    session.step()
    marks = lane.marks[before:]
    assert len(marks) == 3 and set(marks) <= set(lane.waited), "of the curves, and of the bands of either ring"
    assert lane.keeps(torch.full((T // 2, 1), 0.25), 2)


def test_a_latent_is_taken_behind_its_last_tick(lane):
    session = opened(lane)
    session.submit(Request(made_up(1, T), Sampling(2)))
    assert session.step() == [] and lane.ends == []
    (finished,) = session.step()
    assert finished.take() is finished.latent
    assert lane.taken == [(finished.latent, lane.ends[-1])]
