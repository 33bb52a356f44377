"""A live session over a real WebSocket on the loopback address: what clients may do, and what they cannot."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import random
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import soundfile
from aiohttp import WSMsgType, web
from ostinato.engine_runtime.config import Sampling
from ostinato.engine_runtime.errors import InputError
from ostinato.engine_runtime.live.beat import Tempo
from ostinato.engine_runtime.live.block import Block
from ostinato.engine_runtime.live.capture import Capture
from ostinato.engine_runtime.live.line import Heard
from ostinato.engine_runtime.live.score import Score
from ostinato.engine_runtime.live.session import LiveSession
from ostinato.engine_runtime.models.loading import Model
from ostinato.engine_runtime.serve import connection
from ostinato.engine_runtime.serve.control import Control
from ostinato.engine_runtime.serve.keep import Keep
from ostinato.engine_runtime.serve.messages import HEADER, MAX_BYTES, VERSION, Settings
from ostinato.engine_runtime.serve.routes import MOST, PREFIX, Routes
from ostinato.engine_runtime.serve.sessions import Live
from ostinato.engine_runtime.serve.share import Share

from ...helpers import StandIn, made_up

PATIENCE = 60.0
HELLO = {"type": "hello", "version": VERSION}


class Graph:
    """One hot knob, and a text that takes a moment."""

    tempo = Tempo(120.0)

    def __init__(self, score: Score) -> None:
        self.score, self.texts = score, list[str]()

    def widgets(self) -> list[dict[str, Any]]:
        return [{"node": "4", "input": "velocity_scale", "kind": "number", "value": 1.0}]

    def check(self, place: tuple[str, str], value: Any) -> Any:
        if place == ("4", "velocity_scale") and isinstance(value, float | int) and 0 <= value <= 4:
            return float(value)
        raise InputError(f"{place[1]!r} is {value!r}", "allowed is a knob of the page", "load it again")

    def turn(self, changes: Mapping[tuple[str, str], Any]) -> Score:
        for value in changes.values():
            self.score = replace(self.score, knobs=self.score.knobs.changed(velocity_scale=value))
        return self.score


class Served:
    """The server and what it plays, for the length of one test."""

    def __init__(self, score: Score, folder: Path) -> None:
        self.session = LiveSession(f"served {random.random()}", score)
        self.graph = Graph(score)
        self.control = Control(self.session, self.graph)
        self.kept: list[Capture] = []
        self.folder = folder
        self.share: Share | None = None
        self.keep = Keep(self.session, self.write, lambda: folder / "recording.flac")
        self.port = 0

    def write(self, capture: Capture) -> list[Path]:
        self.kept.append(capture)
        (self.folder / "live_00001_.flac").write_bytes(b"sound")
        return [self.folder / "live_00001_.flac"]

    async def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        async with self.client.get(f"http://127.0.0.1:{self.port}{PREFIX}/{path}", headers=headers) as reply:
            return reply.status, await reply.read()

    async def run(self, test: Callable[[Served], Awaitable[None]]) -> None:
        live = Live(self.session, self.control, self.keep, share=self.share)
        made = Routes({"live": live}, loopback=True, missing=lambda prompt: [{"name": name} for name in prompt])
        app = web.Application()
        app.add_routes(made.table())
        runner = web.AppRunner(app, shutdown_timeout=1.0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            async with asyncio.timeout(PATIENCE), aiohttp.ClientSession() as self.client:
                await test(self)
        finally:
            await runner.cleanup()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{PREFIX}/live/socket"

    def connect(self, **more: Any) -> Any:
        return self.client.ws_connect(self.url, max_msg_size=0, **more)


@pytest.fixture
def served(turbo: Model, tmp_path: Path) -> Iterator[Served]:
    before = set(threading.enumerate())
    score = Score(StandIn(), turbo.pipe.vae, made_up(0, 50, guided=False), Sampling(4), depth=2)
    made = Served(score, tmp_path)
    yield made
    made.keep.close()
    made.control.close()
    made.session.close()
    assert {t for t in set(threading.enumerate()) - before if t.name.startswith("ostinato")} == set()


class Client:
    """A listener that keeps up: it acknowledges all, and asks for the next."""

    def __init__(self, socket: Any) -> None:
        self.socket, self.messages, self.bytes, self.end, self.epoch = socket, list[dict[str, Any]](), 0, 0, 0
        self.hot = 0

    async def hello(self, **more: Any) -> dict[str, Any]:
        await self.socket.send_json(HELLO | more)
        welcome = await self.until(lambda m: m["type"] == "welcome")
        self.epoch = welcome["epoch"]
        return welcome

    async def until(self, found: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Listen on until a message comes."""
        while True:
            message = await self.next()
            if message is not None and found(message):
                return message

    async def next(self) -> dict[str, Any] | None:
        got = await self.socket.receive(20)
        if got.type is WSMsgType.BINARY:
            self.bytes += len(got.data)
            _, self.epoch, position, self.hot, _, _ = HEADER.unpack_from(got.data)
            self.end = position + (len(got.data) - HEADER.size) // 4
            await self.at()
            return None
        assert got.type is WSMsgType.TEXT, got
        self.messages.append(json.loads(got.data))
        return self.messages[-1]

    async def at(self) -> None:
        at = {"epoch": self.epoch, "position": max(0, self.end - 2400), "lead": 2400, "bytes": self.bytes}
        await self.socket.send_json({"type": "at", "moving": False, **at})

    async def sound(self, seconds: float = 0.5) -> None:
        goal = self.end + seconds * 48_000
        while self.end < goal:
            await self.next()


def test_a_client_hears_turns_and_captures(served: Served) -> None:
    async def test(served: Served) -> None:
        async with served.connect() as socket:
            client = Client(socket)
            welcome = await client.hello()
            assert welcome["widgets"][0]["input"] == "velocity_scale" and not welcome["resumed"]
            await socket.send_json({"type": "start"})
            await client.sound()
            await socket.send_json({"type": "set", "id": 9, "node": "4", "input": "velocity_scale", "value": 0.5})
            taken = await client.until(lambda m: m["type"] == "taken")
            assert (taken["id"], taken["cost"], taken["error"]) == (9, "tick", None)
            while client.hot < taken["change"]:
                await client.next()
            curve = {"points": [[0, 0], [1, 0.5]], "interpolation": "linear"}
            await socket.send_json({"type": "set", "id": 10, "node": "4", "input": "points", "value": curve})
            refused = await client.until(lambda m: m["type"] == "taken" and m["id"] == 10)
            assert "is {'points': [(0.0, 0.0), (1.0, 0.5)], 'interpolation': 'linear'}" in refused["error"]
            await socket.send_json({"type": "capture", "id": 1, "bars": 1})
            captured = await client.until(lambda m: m["type"] == "captured")
            assert captured == {"type": "captured", "id": 1, "files": ["live_00001_.flac"]}
            assert await served.get("live/kept/live_00001_.flac") == (200, b"sound")
            for other in ("live/kept/recording.flac", "live/kept/..%2Flive_00001_.flac", "gone/kept/live_00001_.flac"):
                assert (await served.get(other))[0] == 404
            assert (await served.get("live/kept/live_00001_.flac", Origin="http://evil.example"))[0] == 403
            figures = await client.until(lambda m: m["type"] == "figures" and m["state"] == "playing")
            assert figures["error"] is None and figures["tick"] > 0
            assert figures["mode"] == "loop" and len(figures["slots"]) == figures["depth"]
            steps = max(steps for _, steps in figures["slots"])
            assert all(0 <= done <= steps for done, steps in figures["slots"]) and steps > 0
            assert figures["budget"] == pytest.approx(1e3 * figures["length"] * figures["depth"] / steps)
            await socket.send_json({"type": "pause"})
            await client.until(lambda m: m["type"] == "figures" and m["state"] == "paused")

    asyncio.run(served.run(test))
    assert len(served.kept) == 1


def test_a_client_learns_the_widgets_of_another_run(served: Served) -> None:
    async def test(served: Served) -> None:
        async with served.connect() as socket:
            client = Client(socket)
            assert (await client.hello())["widgets"][0]["value"] == 1.0
            await client.until(lambda m: m["type"] == "figures")
            other = Graph(served.graph.score)
            other.widgets = lambda: [{"node": "9", "input": "sde", "kind": "number", "value": 0.5}]  # type: ignore[method-assign]
            await asyncio.to_thread(served.control.play, other, time.monotonic())
            listed = await client.until(lambda m: m["type"] == "widgets")
            assert listed == {"type": "widgets", "widgets": other.widgets()}
            await client.until(lambda m: m["type"] == "figures")
            again = await client.until(lambda m: m["type"] in ("widgets", "figures"))
            assert again["type"] == "figures", "once"

    asyncio.run(served.run(test))


def test_a_change_waits_for_a_beat_and_a_recording_holds_it(served: Served) -> None:
    async def test(served: Served) -> None:
        async with served.connect() as socket:
            client = Client(socket)
            await client.hello()
            await socket.send_json({"type": "start"})
            await client.sound()
            await socket.send_json({"type": "record", "id": 1, "on": True})
            began = await client.until(lambda m: m["type"] == "recording")
            assert (began["on"], began["file"]) == (True, "recording.flac")
            assert (await served.get("live/kept/recording.flac"))[0] == 404, "it is not whole yet"
            await socket.send_json({"type": "record", "id": 2, "on": True})
            again = await client.until(lambda m: m["type"] == "recording" and m["id"] == 2)
            assert "one recording runs" in again["error"]
            turn = {"type": "set", "id": 9, "node": "4", "input": "velocity_scale", "value": 0.5, "when": "beat"}
            await socket.send_json(turn)
            queued = await client.until(lambda m: m["type"] == "queued")
            assert (queued["id"], queued["node"], queued["input"]) == (9, "4", "velocity_scale")
            assert queued["position"] > client.end - 2400
            taken = await client.until(lambda m: m["type"] == "taken")
            assert (taken["id"], taken["error"]) == (9, None)
            while client.hot < taken["change"] or client.end < queued["position"]:
                await client.next()
            await client.until(lambda m: m["type"] == "figures" and m["recording"] is not None)
            await socket.send_json({"type": "record", "id": 3, "on": False})
            ended = await client.until(lambda m: m["type"] == "recording" and m["id"] == 3)
            assert (ended["on"], ended["file"]) == (False, "recording.flac")
            assert (await served.get("live/kept/recording.flac"))[1].startswith(b"fLaC")

    asyncio.run(served.run(test))
    samples, rate = soundfile.read(served.folder / "recording.flac", dtype="int16")
    assert rate == 48_000 and len(samples) > 4800 and np.abs(samples).max() > 100


def test_a_set_is_changed_and_saved(served: Served) -> None:
    played = {"when": "bar", "midi": []}
    served.share = Share(Settings(), [{"name": "gone"}], lambda widgets, made: {"when": made.when, "of": widgets})

    async def test(served: Served) -> None:
        async with served.connect() as socket:
            client = Client(socket)
            welcome = await client.hello()
            assert welcome["settings"]["when"] == "now" and welcome["missing"] == [{"name": "gone"}]
            await socket.send_json({"type": "settings", **played})
            await socket.send_json({"type": "settings", "when": "later"})
            await client.until(lambda m: m["type"] == "refused")
        async with served.connect() as socket:
            assert (await Client(socket).hello())["settings"]["when"] == "bar"
        base = f"http://127.0.0.1:{served.port}{PREFIX}"
        saved = await served.client.get(f"{base}/live/workflow")
        assert await saved.json() == {"when": "bar", "of": served.graph.widgets()}
        assert (await served.client.get(f"{base}/other/workflow")).status == 404
        foreign = {"Origin": "http://evil.example"}
        assert (await served.client.get(f"{base}/live/workflow", headers=foreign)).status == 403
        listed = await served.client.post(f"{base}/missing", json={"3": {}, "4": {}})
        assert await listed.json() == [{"name": "3"}, {"name": "4"}]
        assert (await served.client.post(f"{base}/missing", json={}, headers=foreign)).status == 403
        for wrong in (b"[]", b"{", b'{"a": NaN}'):
            assert (await served.client.post(f"{base}/missing", data=wrong)).status == 400

    asyncio.run(served.run(test))


def test_a_session_without_a_file_keeps_no_settings(served: Served) -> None:
    async def test(served: Served) -> None:
        async with served.connect() as socket:
            client = Client(socket)
            assert "settings" not in await client.hello()
            await socket.send_json({"type": "settings"})
            assert "node" in (await client.until(lambda m: m["type"] == "refused"))["error"]
        assert (await served.client.get(f"http://127.0.0.1:{served.port}{PREFIX}/live/workflow")).status == 404

    asyncio.run(served.run(test))


def test_who_comes_back_goes_on_where_it_was(served: Served) -> None:
    async def test(served: Served) -> None:
        async with served.connect() as socket:
            client = Client(socket)
            welcome = await client.hello()
            await socket.send_json({"type": "start"})
            await client.sound(1.0)
        end = client.end
        async with served.connect() as socket:
            again = Client(socket)
            back = await again.hello(session=welcome["session"], epoch=client.epoch, position=end)
            assert back["resumed"] and back["epoch"] == client.epoch
            again.end = end
            await again.at()
            await again.sound()
        async with served.connect() as socket:  # one that was loaded again knows nothing
            fresh = Client(socket)
            back = await fresh.hello()
            assert not back["resumed"] and back["epoch"] > client.epoch
            assert 0 < back["position"] <= again.end
            fresh.end = back["position"]
            await fresh.at()
            await fresh.sound()

    asyncio.run(served.run(test))


def test_fifty_connects_and_drops_leave_nothing(served: Served) -> None:
    async def test(served: Served) -> None:
        served.session.start()
        for i in range(50):
            socket = await served.connect()
            client = Client(socket)
            await client.hello()
            await client.at()
            if i % 2:
                await client.next()
            if i % 5 == 0:
                socket._response.connection.transport.abort()  # the network is gone
            else:
                await socket.close()
        while served.session.outlets:
            await asyncio.sleep(0.01)
        async with served.connect() as socket:
            client = Client(socket)
            await client.hello()
            await client.at()
            await client.sound()

    asyncio.run(served.run(test))
    gc.collect()
    assert len([o for o in gc.get_objects() if type(o) is connection.Connection]) <= 1


@pytest.mark.parametrize("acknowledged", [0, 2**50], ids=["honest", "lying"])
def test_a_client_that_never_reads_holds_nothing_up(
    served: Served, acknowledged: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks for ever more sound and reads none: what waits for it is bounded, and the session plays for others.

    One that acknowledges nothing is let go; one that says it had all is, once the system's buffers are full.
    """
    monkeypatch.setattr(connection, "SEND_SECONDS", 1.0)

    async def test(served: Served) -> None:
        served.session.start()
        reader, writer = await _raw(served.port)
        writer.write(_masked(json.dumps(HELLO)))
        while served.session.outlets == ():
            await asyncio.sleep(0.01)
        outlet: Any = served.session.outlets[0]
        position = 0
        end = time.monotonic() + 5.0
        while outlet in served.session.outlets and (not acknowledged or time.monotonic() < end):
            position += 4800
            at = {"type": "at", "epoch": served.session.epoch, "position": position, "lead": 48_000}
            with contextlib.suppress(ConnectionError):
                writer.write(_masked(json.dumps(at | {"moving": True, "bytes": acknowledged})))
                await writer.drain()
            assert sum(len(block.pcm) for block in outlet._sound) <= connection.IN_FLIGHT
            assert len(outlet._replies) <= connection.REPLIES
            await asyncio.sleep(0.005)
        assert acknowledged or outlet._sent <= connection.IN_FLIGHT + HEADER.size * 1000
        writer.close()
        async with served.connect() as socket:
            client = Client(socket)
            await client.hello()
            await client.at()
            await client.sound()

    asyncio.run(served.run(test))


def test_sound_that_is_not_acknowledged_is_dropped_and_counted(served: Served) -> None:
    async def test() -> None:
        made = connection.Connection(None, Live(served.session, served.control, served.keep))  # type: ignore[arg-type]
        for i in range(200):
            made._queue(Block(1, 7680 * i, Heard(), 0, b"\0" * 30_720))
            assert sum(len(block.pcm) for block in made._sound) <= connection.IN_FLIGHT
        assert made.dropped == 200 - connection.IN_FLIGHT // 30_720

    asyncio.run(test())


async def _raw(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A WebSocket of which nothing is read."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
    lines = [
        f"GET {PREFIX}/live/socket HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
    ]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


def _masked(text: str) -> bytes:
    """A text frame of a client, with a mask of zeros."""
    data = text.encode()
    size = bytes([0x80 | len(data)]) if len(data) < 126 else bytes([0x80 | 126]) + len(data).to_bytes(2, "big")
    return b"\x81" + size + b"\0\0\0\0" + data


def test_a_flood_of_knobs_ends_with_the_last_and_others_are_served(served: Served) -> None:
    async def test(served: Served) -> None:
        served.session.start()
        async with served.connect() as flooder, served.connect() as other:
            await Client(flooder).hello()
            quiet = Client(other)
            await quiet.hello()
            await quiet.at()

            async def flood() -> None:
                for i in range(5000):
                    message = {"type": "set", "id": i, "node": "4", "input": "velocity_scale", "value": i / 5000}
                    await flooder.send_json(message)

            async def drain() -> None:
                async for got in flooder:
                    if got.type is WSMsgType.TEXT and '"id":4999' in got.data:
                        return

            flooding = asyncio.gather(flood(), drain())
            await quiet.sound(0.5)
            await flooding
        assert served.session.score.knobs.velocity_scale == pytest.approx(4999 / 5000)

    asyncio.run(served.run(test))


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Origin", "http://evil.example"),
        ("Origin", "null"),
        ("Host", "evil.example"),
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Site", "same-site"),
    ],
)
def test_another_site_gets_nothing(served: Served, header: str, value: str) -> None:
    async def test(served: Served) -> None:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await served.connect(headers={header: value})
        assert refused.value.status == 403
        listed = await served.client.get(f"http://127.0.0.1:{served.port}{PREFIX}", headers={header: value})
        assert listed.status == 403

    asyncio.run(served.run(test))


def test_a_page_of_this_server_gets_in(served: Served) -> None:
    async def test(served: Served) -> None:
        origin = f"http://127.0.0.1:{served.port}"
        async with served.connect(headers={"Origin": origin, "Sec-Fetch-Site": "same-origin"}) as socket:
            await Client(socket).hello()
        listed = await served.client.get(f"{origin}{PREFIX}")
        assert await listed.json() == {"live": "ready"}
        for name in ("other", "..%2flive", "%00"):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await served.client.ws_connect(f"{origin}{PREFIX}/{name}/socket")
            assert refused.value.status in (400, 404)

    asyncio.run(served.run(test))


def test_too_many_pages_are_refused(served: Served) -> None:
    async def test(served: Served) -> None:
        sockets = [await served.connect() for _ in range(MOST)]
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await served.connect()
        assert refused.value.status == 503
        await sockets[0].close()
        while served.session.state != "ready" or True:
            try:
                again = await served.connect()
                break
            except aiohttp.WSServerHandshakeError:
                await asyncio.sleep(0.01)
        for one in [*sockets, again]:
            await one.close()

    asyncio.run(served.run(test))


@pytest.mark.parametrize(
    "first",
    ['{"type":"start"}', '{"type":"hello","version":99}', "nonsense", '{"type":"hello"}', '{"type":"hello","x":1}'],
)
def test_who_does_not_greet_is_let_go(served: Served, first: str) -> None:
    async def test(served: Served) -> None:
        async with served.connect() as socket:
            await socket.send_str(first)
            got = await socket.receive(10)
            assert got.type in (WSMsgType.CLOSE, WSMsgType.CLOSED) and socket.close_code == 1008
        assert served.session.outlets == ()

    asyncio.run(served.run(test))


def test_silence_is_not_waited_for(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HELLO_SECONDS", 0.2)

    async def test(served: Served) -> None:
        async with served.connect() as socket:
            assert (await socket.receive(10)).type is WSMsgType.CLOSE

    asyncio.run(served.run(test))


def test_wrong_messages_are_answered_and_then_ended(served: Served) -> None:
    async def test(served: Served) -> None:
        async with served.connect() as socket:
            client = Client(socket)
            await client.hello()
            wrong = [
                "{",
                '{"type":"set","id":1,"node":"../../etc/passwd","input":"x","value":1}',
                '{"type":"hello","version":1}',
            ]
            for text in wrong:
                await socket.send_str(text)
            answers = [await client.until(lambda m: m["type"] in ("refused", "taken")) for _ in wrong]
            assert [answer["type"] for answer in answers] == ["refused", "taken", "refused"]
            assert answers[1]["error"] and answers[1]["change"] == 0
            for _ in range(connection.WRONG):
                await socket.send_str("[]")
            while (got := await socket.receive(10)).type is WSMsgType.TEXT:
                pass
            assert got.type in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.CLOSING)
        assert served.session.score.knobs.velocity_scale == 1.0

    asyncio.run(served.run(test))


def test_a_message_that_is_too_long_ends_the_connection(served: Served) -> None:
    async def test(served: Served) -> None:
        async with served.connect() as socket:
            await Client(socket).hello()
            await socket.send_str('{"type":"start"}' + " " * (2 * MAX_BYTES))
            while (got := await socket.receive(10)).type is WSMsgType.TEXT:
                pass
            assert got.type in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.CLOSING)
        assert served.session.state == "ready"

    asyncio.run(served.run(test))


def test_an_error_of_the_session_reaches_the_page(served: Served) -> None:
    async def test(served: Served) -> None:
        async with served.connect() as socket:
            client = Client(socket)
            await client.hello()
            served.session.fail(OSError(13, "Permission denied", "models/secret"))
            failed = await client.until(lambda m: m["type"] == "failed")
            assert "secret" not in failed["error"] and "PermissionError" in failed["error"]

    asyncio.run(served.run(test))
