"""The inbox: when a track moves its knob, when the hand does, and which adapters are new."""

from __future__ import annotations

import pytest
import torch
from ostinato.engine_runtime.config import Sampling, StreamConfig
from ostinato.engine_runtime.controls.automation import Track
from ostinato.engine_runtime.controls.knobs import Knobs
from ostinato.engine_runtime.device.lane import Lane
from ostinato.engine_runtime.engines.contract import Limits
from ostinato.engine_runtime.stream.inbox import Inbox
from ostinato.engine_runtime.stream.request import Request

from ...helpers import StandIn, apart, made_up

CPU = torch.device("cpu")


@pytest.fixture
def session():
    made = apart("inbox", StandIn(Limits(3, 4096, 1024)), StreamConfig(depth=1), Lane(CPU))
    made.submit(Request(made_up(0, 6), Sampling(20)))
    return made


def after_steps(session, count):
    """What the knob `sde` is after each of so many steps."""
    found = []
    for _ in range(count):
        session.step()
        found.append(session.knobs.sde)
    return found


def test_a_track_counts_from_the_step_that_it_was_given_at(session):
    after_steps(session, 3)
    session.automate([Track("sde", [0.1, 0.2, 0.3], start=1)])
    assert after_steps(session, 6) == [1.0, 0.1, 0.2, 0.3, 0.3, 0.3]


def test_while_a_track_holds_a_value_the_hand_moves_the_knob(session):
    session.automate([Track("sde", [0.5, 0.5, 0.5, 0.2])])
    assert after_steps(session, 1) == [0.5]
    session.set(sde=0.9)
    assert after_steps(session, 3) == [0.9, 0.9, 0.2]
    session.set(sde=0.7)
    assert after_steps(session, 3) == [0.7, 0.7, 0.7], "the track is over"


@pytest.mark.parametrize("knob, hot", [("sde", False), ("guidance_scale", True)])
def test_only_a_track_of_the_guidance_needs_its_rows(session, knob, hot):
    session.automate([Track(knob, [1.0])])
    session.step()
    assert session.config.hot_guidance is hot


def test_a_track_that_asks_for_no_more_depth_than_there_is_warns_of_nothing(session, caplog):
    session.automate([Track("depth", [1.0, 2.0, 3.0])])
    after_steps(session, 3)
    assert session.config.depth == 3 and not caplog.records


def test_adapters_are_new_once_and_going_back_to_none_is_new_too():
    inbox = Inbox(64, CPU, Lane(CPU), StreamConfig(), Knobs(), lambda inbox: 8)
    one, other = object(), object()

    def taken(*given):
        for lora in given:
            inbox.adapt(lora)
        arrivals = inbox.take(0)
        return arrivals.lora_changed, arrivals.lora

    assert taken() == (False, None) and taken(None) == (False, None)
    assert taken(one) == (True, one)
    assert taken(one) == taken() == (False, one)
    assert taken(other, other) == (True, other)
    assert taken(None) == (True, None)
