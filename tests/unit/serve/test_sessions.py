"""Sessions by name: found again and updated, replaced, bounded, ended."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType, web
from ostinato.engine_runtime.config import Sampling
from ostinato.engine_runtime.errors import InputError, MemoryShortage
from ostinato.engine_runtime.live.beat import Tempo
from ostinato.engine_runtime.live.score import Score
from ostinato.engine_runtime.live.session import LiveSession, State
from ostinato.engine_runtime.models import comfy_queue
from ostinato.engine_runtime.models.loading import Model
from ostinato.engine_runtime.serve.keep import Keep
from ostinato.engine_runtime.serve.messages import VERSION
from ostinato.engine_runtime.serve.routes import PREFIX, Routes
from ostinato.engine_runtime.serve.sessions import LEFT, Sessions

from ...ear import PATIENCE, Clock
from ...helpers import StandIn, made_up


class Graph:
    """Widgets a and b that turn knobs; b of value 3 cannot be played."""

    tempo = Tempo()

    def __init__(self, score: Score, names: str = "ab") -> None:
        self.score, self.names, self.values = score, names, dict[str, float]()

    def widgets(self) -> list[dict[str, Any]]:
        return []

    def check(self, place: tuple[str, str], value: Any) -> Any:
        if place[1] not in self.names:
            raise InputError(f"there is no {place[1]}", "allowed are those here", "load the page again")
        return value

    def turn(self, changes: Mapping[tuple[str, str], Any]) -> Score:
        for (_, name), value in changes.items():
            if (name, value) == ("b", 3):
                raise InputError("b is 3", "allowed is anything else", "turn it back")
            if name not in self.names:
                raise InputError(f"there is no {name}", "allowed are those here", "load the page again")
            self.values[name] = value
        self.score = replace(self.score, knobs=self.score.knobs.changed(velocity_scale=0.5))
        return self.score


@pytest.fixture
def score(turbo: Model) -> Score:
    return Score(StandIn(), turbo.pipe.vae, made_up(0, 50, guided=False), Sampling(4))


@pytest.fixture
def sessions() -> Iterator[Sessions]:
    before = set(threading.enumerate())
    made = Sessions()
    yield made
    made.close()
    assert set(threading.enumerate()) <= before and not made


def keep(session: LiveSession) -> Keep:
    return Keep(session, lambda capture: [], Path)


def start(sessions: Sessions, graph: Graph, name: str = "one", since: float = 0.0) -> Any:
    return sessions.play(name, lambda before: graph, keep, since)


def test_the_session_of_a_name_is_found_again_and_gets_the_new_graph(sessions: Sessions, score: Score) -> None:
    first, second = Graph(score), Graph(replace(score, depth=2))
    live, given = start(sessions, first), []

    def make(before: Any) -> Graph:
        given.append(before)
        assert live.control.turning._is_owned()  # type: ignore[attr-defined]  # nothing turns while it is made
        return second

    assert sessions.play("one", make, keep, 0.0) is live
    assert given == [first] and live.control.graph is second and live.session.score is second.score
    assert start(sessions, Graph(score), "two") is not live and set(sessions) == {"one", "two"}


def test_a_graph_that_cannot_be_made_leaves_what_plays(sessions: Sessions, score: Score) -> None:
    def refuse(before: Any) -> Graph:
        raise InputError("it is wrong", "allowed is another", "correct it")

    for _ in range(2):
        with pytest.raises(InputError):
            sessions.play("one", refuse, keep, 0.0)
        assert not sessions
    live = start(sessions, Graph(score))
    with pytest.raises(InputError):
        sessions.play("one", refuse, keep, 0.0)
    assert sessions["one"] is live and live.session.state is not State.CLOSED
    assert live.session.score is score


def test_a_model_of_another_family_takes_another_session(sessions: Sessions, score: Score) -> None:
    live = start(sessions, Graph(score))
    other = StandIn()
    other.spec = replace(score.spec, steps=score.spec.steps + 1)
    made = start(sessions, Graph(replace(score, engine=other)))
    assert made is not live and sessions["one"] is made and live.session.state is State.CLOSED
    live.end()  # the old one's: it is not the new one's
    assert sessions["one"] is made and made.session.state is not State.CLOSED


@pytest.mark.usefixtures("endless_job")
@pytest.mark.parametrize("how", ["runs the graph again", "ends the session"])
def test_a_job_does_not_wait_for_who_waits_for_its_end(sessions: Sessions, score: Score, how: str) -> None:
    """ComfyUI's job does that while a turned widget wants weights, which come once no job runs."""
    began = threading.Event()

    class Needs(Graph):
        def turn(self, changes: Mapping[tuple[str, str], Any]) -> Score:
            began.set()
            with comfy_queue.loading():
                raise AssertionError("a job runs")

    live, told = start(sessions, Needs(score)), list[Any]()
    live.control.set(("1", "a"), 1.0, "sender", told.append)
    assert began.wait(PATIENCE)
    act = live.close if how == "ends the session" else lambda: start(sessions, Graph(score))
    job = threading.Thread(target=act, daemon=True)
    job.start()
    job.join(PATIENCE)
    assert not job.is_alive() and isinstance(told[0].error, MemoryShortage)


def turned(live: Any, name: str, value: float) -> None:
    done = threading.Event()
    live.control.set(("1", name), value, "sender", lambda taken: done.set())
    assert done.wait(PATIENCE)


def test_what_was_turned_after_the_graph_was_read_stays_turned(sessions: Sessions, score: Score) -> None:
    live = start(sessions, Graph(score))
    turned(live, "a", 1.0)
    read = time.monotonic()
    for graph, wanted in ((Graph(score), {"b": 2.0}), (Graph(score, "ac"), {"c": 4.0})):
        live.control.graph.names = "abc"
        turned(live, *next(iter(wanted.items())))
        turned(live, "b", 2.0)
        start(sessions, graph, since=read)
        assert graph.values == wanted and live.session.score is graph.score  # a was turned before, b may be no more
    late = Graph(score)
    start(sessions, late, since=time.monotonic())
    assert late.values == {}


def test_what_was_turned_and_fits_no_more_does_not_stop_the_new_graph(sessions: Sessions, score: Score) -> None:
    live = start(sessions, Graph(score))
    live.control._turns["1", "b"] = time.monotonic(), 3
    graph = Graph(score)
    start(sessions, graph)
    assert graph.values == {} and live.session.score is graph.score


def test_one_that_nobody_hears_makes_room_and_no_other(score: Score) -> None:
    clock = Clock()
    with closing(Sessions(2, clock)) as sessions:
        first = start(sessions, Graph(score), "first")
        clock.now += 0.5 * LEFT
        start(sessions, Graph(score), "second")
        with pytest.raises(InputError, match="at most 2"):
            start(sessions, Graph(score), "third")
        assert set(sessions) == {"first", "second"}
        other = StandIn()
        other.spec = replace(score.spec, steps=score.spec.steps + 1)
        start(sessions, Graph(replace(score, engine=other)), "second")  # in the place of its own name
        assert set(sessions) == {"first", "second"}
        clock.now += 2.0 * LEFT  # both may go, and the first has been left for longer
        start(sessions, Graph(score), "third")
        assert set(sessions) == {"second", "third"} and first.session.state is State.CLOSED


def test_a_client_ends_a_session_and_all_its_clients_are_told(sessions: Sessions, score: Score) -> None:
    live = start(sessions, Graph(score))

    async def test() -> None:
        app = web.Application()
        app.add_routes(Routes(sessions, loopback=True).table())
        runner = web.AppRunner(app, shutdown_timeout=1.0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}{PREFIX}"
        try:
            async with asyncio.timeout(60), aiohttp.ClientSession() as client:
                async with client.ws_connect(f"{url}/one/socket") as one, client.ws_connect(f"{url}/one/socket") as two:
                    for socket in (one, two):
                        await socket.send_json({"type": "hello", "version": VERSION})
                        assert (await socket.receive_json())["type"] == "welcome"
                    await two.send_json({"type": "end"})
                    for socket in (one, two):
                        while (await socket.receive()).type not in (WSMsgType.CLOSE, WSMsgType.CLOSED):
                            pass
                        assert socket.close_code == 1001
                assert (await client.get(url)).status == 200 and await (await client.get(url)).json() == {}
                assert (await client.get(f"{url}/one/socket")).status == 404
        finally:
            await runner.cleanup()

    asyncio.run(test())
    assert live.session.state is State.CLOSED


def test_a_session_of_a_program_ends_with_it_alone(score: Score) -> None:
    from ostinato.engine_runtime.live.session import LiveSession
    from ostinato.engine_runtime.serve.connection import Connection
    from ostinato.engine_runtime.serve.control import Control
    from ostinato.engine_runtime.serve.messages import End
    from ostinato.engine_runtime.serve.sessions import Live

    session = LiveSession("one of a program", score)
    live = Live(session, Control(session, Graph(score)), keep(session))

    async def test() -> None:
        with pytest.raises(InputError, match="ends with its program"):
            Connection(None, live)._act(End())  # type: ignore[arg-type]

    try:
        asyncio.run(test())
    finally:
        live.close()
