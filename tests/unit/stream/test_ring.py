"""The ring by itself: whose slots are where, which are taken, and where they go when it is resized."""

from __future__ import annotations

import pytest
from ostinato.engine_runtime.config import Sampling
from ostinato.engine_runtime.stream.request import Request
from ostinato.engine_runtime.stream.ring import Ring
from ostinato.engine_runtime.stream.slot_plan import FREE, Gates

from ...helpers import made_up

GIVEN = made_up(0, 6)
ONE, TWO, GONE = object(), object(), object()  # members


def lasting(steps: int) -> Request:
    return Request(GIVEN, Sampling(steps))


@pytest.fixture
def ring() -> Ring:
    return Ring([(ONE, 2), (TWO, 3)])


def test_members_lie_side_by_side(ring):
    assert [slot.index for slot in ring.slots] == [0, 1, 2, 3, 4]
    assert [slot.member for slot in ring.slots] == [ONE, ONE, TWO, TWO, TWO]
    assert [ring.span(member) for member in (ONE, TWO, GONE)] == [slice(0, 2), slice(2, 5), slice(0, 0)]
    assert Ring().slots == [] and Ring().idle


def test_a_request_takes_the_first_free_slot_of_its_member(ring):
    first, second, other = lasting(2), lasting(3), lasting(1)
    assert ring.idle and ring.occupied == []
    assert [ring.admit(ONE, first).index, ring.admit(TWO, other).index, ring.admit(ONE, second).index] == [0, 2, 1]
    assert ring.admit(ONE, lasting(1)) is None and ring.admit(GONE, lasting(1)) is None
    assert not ring.idle and [slot.request for slot in ring.occupied] == [first, second, other]
    assert [slot.index for slot in ring.occupied_by(ONE)] == [0, 1] and len(ring.occupied_by(TWO)) == 1
    ring.slots[0].request = None
    assert [slot.index for slot in ring.occupied_by(ONE)] == [1] and ring.admit(ONE, other).index == 0


def test_a_slot_is_occupied_until_it_is_freed(ring):
    """Each counts its own steps, from 0 for whoever takes it next."""
    ring.admit(ONE, lasting(1)), ring.admit(TWO, lasting(2))
    assert [slot.index for slot in ring.advance()] == [0]
    assert [slot.index for slot in ring.occupied] == [0, 2] and [ring.slots[i].step for i in (0, 1, 2)] == [1, 0, 1]
    ring.slots[0].request = None
    assert ring.admit(ONE, lasting(3)).step == 0
    assert [slot.index for slot in ring.advance()] == [2] and ring.slots[0].step == 1


def test_a_free_slot_has_a_plan_of_nothing(ring):
    ring.admit(TWO, lasting(4))
    assert [plan is FREE for plan in ring.plan()] == [True, True, False, True, True]
    before = ring.plan()[2].scalars
    ring.advance()
    assert ring.plan()[2].scalars.t == before.t_next < before.t


@pytest.mark.parametrize("shares", [[(ONE, 2), (TWO, 3)], [(TWO, 2), (ONE, 4)], [(ONE, 1), (TWO, 1), (GONE, 2)]])
def test_what_is_in_flight_moves_with_its_member(ring, shares):
    """Into the first slots of the member, in their order, with its step and gates; the old ring stays as it is."""
    for _ in range(2):
        ring.admit(ONE, lasting(5)), ring.admit(TWO, lasting(5))
    ring.slots[0].request = ring.slots[2].request = None
    ring.slots[1].gates, gates = Gates(), Gates()
    ring.slots[3].gates = gates
    ring.advance(), ring.advance()
    new = ring.resized(shares)
    assert new.shares == shares and len(new.slots) == sum(count for _, count in shares)
    for member, old in ((ONE, ring.slots[1]), (TWO, ring.slots[3])):
        (moved,) = new.occupied_by(member)
        assert moved.index == new.span(member).start and (moved.request, moved.step) == (old.request, 2)
        assert moved.gates is old.gates
    assert sorted((one.index, two.index) for one, two in ring.moves_to(new)) == sorted(
        (new.span(member).start, index) for member, index in ((ONE, 1), (TWO, 3))
    )
    assert len(ring.occupied) == 2
