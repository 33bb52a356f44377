"""What clients of a live session cannot do: hold it up, flood it, come from another site, or say what is no message."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType
from ostinato.engine_runtime.live.block import Block
from ostinato.engine_runtime.live.line import Heard
from ostinato.engine_runtime.serve import connection
from ostinato.engine_runtime.serve.messages import HEADER, MAX_BYTES
from ostinato.engine_runtime.serve.routes import MOST, PREFIX
from ostinato.engine_runtime.serve.sessions import Live

from .served import HELLO, PATIENCE, Client, Served


@pytest.mark.parametrize("acknowledged", [0, 2**50], ids=["honest", "lying"])
def test_a_client_that_never_reads_holds_nothing_up(served: Served, acknowledged: int) -> None:
    """It asks for ever more sound and reads none: what waits for it is bounded, and the session plays for others.

    One that acknowledges nothing is let go; one that says it had all is, once the system's buffers are full.
    """
    served.patience = connection.Patience(send=1.0)

    async def test(served: Served) -> None:
        served.session.start()
        reader, writer = await _raw(served.port)
        writer.write(_masked(json.dumps(HELLO)))
        while served.session.outlets.all == ():
            await asyncio.sleep(0.01)
        outlet: Any = served.session.outlets.all[0]
        position = 0
        end = time.monotonic() + 5.0
        while outlet in served.session.outlets.all and (not acknowledged or time.monotonic() < end):
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
        async with served.greeted() as (socket, client):
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


def test_a_fault_while_sending_ends_the_socket(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page whose socket stays open waits for sound for ever; one whose socket ends comes again."""

    def fail() -> None:
        raise RuntimeError("deque mutated during iteration")

    async def test(served: Served) -> None:
        async with served.greeted() as (socket, client):
            monkeypatch.setattr(served.session, "figures", fail)
            while (got := await socket.receive(PATIENCE)).type in (WSMsgType.TEXT, WSMsgType.BINARY):
                pass
            assert got.type is WSMsgType.CLOSE and got.data == 1011
            monkeypatch.undo()
        async with served.greeted() as (socket, client):
            await client.until(lambda message: message["type"] == "figures")

    asyncio.run(served.run(test))


def test_who_comes_as_the_session_ends_is_told(served: Served) -> None:
    """It looked the session up before that."""

    async def test(served: Served) -> None:
        async with served.connect() as socket:
            await asyncio.to_thread(served.control.close)
            await asyncio.to_thread(served.session.close)
            await socket.send_json(HELLO)
            while (got := await socket.receive(PATIENCE)).type in (WSMsgType.TEXT, WSMsgType.BINARY):
                pass
            assert got.type is WSMsgType.CLOSE and got.data == 1001

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
            got = await socket.receive(PATIENCE)
            assert got.type in (WSMsgType.CLOSE, WSMsgType.CLOSED) and socket.close_code == 1008
        assert served.session.outlets.all == ()

    asyncio.run(served.run(test))


def test_silence_is_not_waited_for(served: Served) -> None:
    served.patience = connection.Patience(hello=0.2)

    async def test(served: Served) -> None:
        async with served.connect() as socket:
            assert (await socket.receive(PATIENCE)).type is WSMsgType.CLOSE

    asyncio.run(served.run(test))


def test_wrong_messages_are_answered_and_then_ended(served: Served) -> None:
    async def test(served: Served) -> None:
        async with served.greeted() as (socket, client):
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
            while (got := await socket.receive(PATIENCE)).type is WSMsgType.TEXT:
                pass
            assert got.type in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.CLOSING)
        assert served.session.score.knobs.velocity_scale == 1.0

    asyncio.run(served.run(test))


def test_a_message_that_is_too_long_ends_the_connection(served: Served) -> None:
    async def test(served: Served) -> None:
        async with served.connect() as socket:
            await Client(socket).hello()
            await socket.send_str('{"type":"start"}' + " " * (2 * MAX_BYTES))
            while (got := await socket.receive(PATIENCE)).type is WSMsgType.TEXT:
                pass
            assert got.type in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.CLOSING)
        assert served.session.state == "ready"

    asyncio.run(served.run(test))
