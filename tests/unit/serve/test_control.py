"""Changes of widgets: none is lost, floods are bounded, a wrong one holds up no other."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import pytest
from ostinato.engine_runtime.errors import InputError
from ostinato.engine_runtime.live.beat import Tempo, check_tempo
from ostinato.engine_runtime.live.score import Cost
from ostinato.engine_runtime.serve.control import Control, Taken

from ...ear import PATIENCE, until


class Session:
    """What a control needs of a session: it notes the scores."""

    name = "test"
    held = staticmethod(nullcontext)

    def __init__(self) -> None:
        self.played: list[tuple[dict[tuple[str, str], Any], int]] = []
        self.positions: list[int] = []
        self.heard_until, self.listening = 0, True

    def play(self, score: dict[tuple[str, str], Any], change: int, at: int = 0) -> Cost:
        self.played.append((dict(score), change))
        self.positions.append(at)
        return Cost.TICK

    def reach(self, cost: Cost) -> float:
        return 0.5

    def next_beat(self, unit: str, tempo: Tempo, reach: float) -> int:
        check_tempo(tempo.bpm)
        return 480_000 if unit == "beat" else 960_000


class Graph:
    """Widgets a to j of one node take numbers up to 10; what is made of them must not be 7."""

    tempo = Tempo(100.0)

    def __init__(self, hold: threading.Event | None = None) -> None:
        self.values: dict[tuple[str, str], Any] = {}
        self.turns, self.hold = 0, hold

    def widgets(self) -> list[dict[str, Any]]:
        return []

    def check(self, place: tuple[str, str], value: Any) -> Any:
        if place[0] != "n" or place[1] not in "abcdefghij" or not 0 <= value <= 10:
            raise InputError("it is wrong", "allowed is 0 to 10", "correct it")
        return value

    def turn(self, changes: Mapping[tuple[str, str], Any]) -> Any:
        if self.hold:
            assert self.hold.wait(PATIENCE)
        self.turns += 1
        if 7 in changes.values():
            raise InputError("it is 7", "anything else is allowed", "correct it")
        if 8 in changes.values():
            raise ZeroDivisionError("a fault")
        self.values.update(changes)
        return self.values


@pytest.fixture
def made() -> Any:
    controls = []

    def make(graph: Graph) -> tuple[Control, Session]:
        session = Session()
        controls.append(Control(session, graph))  # type: ignore[arg-type]
        return controls[-1], session

    yield make
    for control in controls:
        control.close()


def test_a_flood_is_taken_in_as_its_last_values(made: Any) -> None:
    hold = threading.Event()
    graph = Graph(hold)
    control, session = made(graph)
    told: list[Taken] = []
    for i in range(20_000):
        control.set(("n", "abcdefghij"[i % 10]), i % 6, "sender", told.append)
    assert len(control._waiting) <= 10 and len(control._tell) <= 10
    hold.set()
    last = {("n", "abcdefghij"[i % 10]): i % 6 for i in range(19_990, 20_000)}
    until(lambda: not control._waiting and len(told) >= 10 and graph.values == last)
    assert graph.turns <= 3 and all(one.error is None and one.change for one in told)


def test_many_senders_lose_nothing(made: Any) -> None:
    graph = Graph()
    control, session = made(graph)
    told: dict[int, list[Taken]] = {i: [] for i in range(8)}

    def send(i: int) -> None:
        for value in range(300):
            control.set(("n", "abcdefgh"[i]), value % 7, i, told[i].append)
        control.set(("n", "abcdefgh"[i]), 10, i, told[i].append)

    threads = [threading.Thread(target=send, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: len(graph.values) == 8 and set(graph.values.values()) == {10})
    until(lambda: all(told[i] for i in range(8)))
    changes = [change for _, change in session.played]
    assert changes == sorted(set(changes))


def test_a_wrong_value_holds_up_no_other(made: Any) -> None:
    hold = threading.Event()
    graph = Graph(hold)
    control, session = made(graph)
    told: dict[str, list[Taken]] = {name: [] for name in "abc"}
    control.set(("n", "j"), 1, "sender", lambda taken: None)  # keeps the thread busy while the others come
    time.sleep(0.05)
    for name, value in (("a", 1), ("b", 7), ("c", 8)):
        control.set(("n", name), value, "sender", told[name].append)
    hold.set()
    until(lambda: all(told.values()))
    assert graph.values[("n", "a")] == 1 and ("n", "b") not in graph.values
    assert told["a"][0].error is None and "it is 7" in str(told["b"][0].error)
    assert "ZeroDivisionError" in str(told["c"][0].error)
    assert told["b"][0].change == told["c"][0].change == 0


def test_an_unknown_widget_is_refused_at_once(made: Any) -> None:
    control, session = made(Graph())
    for place, value in ((("m", "a"), 1), (("n", "z"), 1), (("n", "a"), 11)):
        with pytest.raises(InputError):
            control.set(place, value, "sender", lambda taken: None)
    assert session.played == []


def test_a_change_waits_for_its_beat_and_the_last_value_counts(made: Any) -> None:
    graph = Graph()
    control, session = made(graph)
    told: list[Taken] = []
    for value in (1, 2, 3):
        assert control.set(("n", "a"), value, "sender", told.append, "beat") == 480_000
    assert control.set(("n", "b"), 4, "sender", told.append, "bar") == 960_000
    assert control.set(("n", "c"), 5, "sender", told.append) == 0
    until(lambda: len(told) == 1)
    assert graph.values == {("n", "c"): 5}
    session.heard_until = 480_000 - 48_000  # a second before it: a widget that was never turned may take 0.8
    time.sleep(0.1)
    assert len(told) == 1
    session.heard_until = 480_000 - 30_000
    until(lambda: len(told) == 2)
    assert graph.values == {("n", "c"): 5, ("n", "a"): 3} and session.positions == [0, 480_000]
    assert control.set(("n", "b"), 6, "sender", told.append) == 0  # now, in place of the bar
    until(lambda: len(told) == 3)
    session.heard_until = 10**7
    time.sleep(0.1)
    assert graph.values[("n", "b")] == 6 and len(told) == 3


def test_what_waits_for_a_beat_is_not_lost_when_nobody_hears_it(made: Any) -> None:
    graph = Graph()
    control, session = made(graph)
    told: list[Taken] = []
    control.set(("n", "a"), 1, "sender", told.append, "bar")
    session.listening = False
    assert control.set(("n", "b"), 2, "sender", told.append, "bar") == 0
    until(lambda: len(told) == 2)
    assert graph.values == {("n", "a"): 1, ("n", "b"): 2}


def test_a_beat_of_an_open_tempo_is_refused(made: Any) -> None:
    graph = Graph()
    graph.tempo = Tempo()
    control, session = made(graph)
    with pytest.raises(InputError, match="tempo"):
        control.set(("n", "a"), 1, "sender", lambda taken: None, "beat")
    assert session.played == [] and not control._waiting
