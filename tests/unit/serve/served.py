"""A server of one live session on the loopback address, and its client."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import WSMsgType, web
from ostinato.engine_runtime.errors import InputError
from ostinato.engine_runtime.live.beat import Tempo
from ostinato.engine_runtime.live.capture import Capture
from ostinato.engine_runtime.live.score import Score
from ostinato.engine_runtime.live.session import LiveSession
from ostinato.engine_runtime.serve import connection
from ostinato.engine_runtime.serve.control import Control
from ostinato.engine_runtime.serve.keep import Keep
from ostinato.engine_runtime.serve.messages import HEADER, VERSION
from ostinato.engine_runtime.serve.routes import PREFIX, Routes
from ostinato.engine_runtime.serve.sessions import Live
from ostinato.engine_runtime.serve.share import Share

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
        self.patience = connection.Patience()
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
        made = Routes({"live": live}, True, lambda prompt: [{"name": name} for name in prompt], self.patience)
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

    @asynccontextmanager
    async def greeted(self) -> AsyncIterator[tuple[Any, Client]]:
        """Yield a socket and its client, which has said hello."""
        async with self.connect() as socket:
            client = Client(socket)
            await client.hello()
            yield socket, client


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
        got = await self.socket.receive(PATIENCE)
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
