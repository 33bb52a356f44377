"""Routes of live sessions: plain aiohttp handlers, for ComfyUI's server or for one of our own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from ..errors import InputError, OstinatoError
from ..files import parse_json
from .connection import PATIENCE, Connection, Patience
from .messages import MAX_BYTES
from .sessions import Live

PREFIX = "/ostinato/live"
MOST = 16  # connections of one session
HEARTBEAT = 20.0  # seconds between pings; who does not answer one in half of that is let go
MAX_PROMPT = 8 << 20  # bytes of a graph that is looked through
Lacking = Callable[[Mapping[str, Any]], list[dict[str, str]]]
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Routes:
    """The handlers.

    Args:
        offered: the sessions, by name; looked up at each request.
        loopback: refuse a request whose Host names another machine, so that a foreign name that points here (DNS
            rebinding) reaches nothing.
        missing: lists what a graph in the API form names and this machine does not have; None where nobody asks.
        patience: with each client.
    """

    def __init__(
        self,
        offered: Mapping[str, Live],
        loopback: bool,
        missing: Lacking | None = None,
        patience: Patience = PATIENCE,
    ) -> None:
        self._offered, self._loopback, self._missing, self._patience = offered, loopback, missing, patience
        self._open: dict[str, int] = {}

    def table(self) -> list[web.RouteDef]:
        return [
            web.get(PREFIX, self.sessions),
            web.get(PREFIX + "/{name}/socket", self.socket),
            web.get(PREFIX + "/{name}/workflow", self.workflow),
            web.get(PREFIX + "/{name}/kept/{file}", self.kept),
            web.post(PREFIX + "/missing", self.missing),
        ]

    async def sessions(self, request: web.Request) -> web.Response:
        """List the sessions and their states."""
        self.check(request)
        return web.json_response({name: live.session.state for name, live in self._offered.items()})

    async def socket(self, request: web.Request) -> web.StreamResponse:
        """Serve a listener."""
        self.check(request)
        name = request.match_info["name"]
        live = self._offered.get(name)
        if live is None:
            raise web.HTTPNotFound(text="There is no such live session; start it, then load the page again.")
        if self._open.get(name, 0) >= MOST:
            raise web.HTTPServiceUnavailable(text=f"{MOST} pages listen already; close one of them.")
        socket = web.WebSocketResponse(compress=False, max_msg_size=MAX_BYTES, heartbeat=HEARTBEAT)
        self._open[name] = self._open.get(name, 0) + 1
        try:
            await socket.prepare(request)
            await Connection(socket, live, self._patience).run()
        finally:
            self._open[name] -= 1
        return socket

    async def workflow(self, request: web.Request) -> web.Response:
        """Send the workflow as it is now: with the values of its widgets and the settings of its session."""
        self.check(request)
        live = self._offered.get(request.match_info["name"])
        if live is None or live.share is None:
            raise web.HTTPNotFound(text="This session has no workflow file of its own; save the workflow in ComfyUI.")
        try:
            made = live.share.write(live.control.graph.widgets(), live.share.settings)
        except OstinatoError as error:
            raise web.HTTPConflict(text=str(error)) from None
        name = {"Content-Disposition": 'attachment; filename="workflow.json"'}
        return web.json_response(made, headers=name)

    async def kept(self, request: web.Request) -> web.StreamResponse:
        """Send a capture or a recording of this session."""
        self.check(request)
        live = self._offered.get(request.match_info["name"])
        path = None if live is None else live.keep.file(request.match_info["file"])
        if path is None or not path.is_file():
            raise web.HTTPNotFound(text="This session has kept no such file; look into the output folder.")
        return web.FileResponse(path, headers={"Content-Disposition": f'attachment; filename="{path.name}"'})

    async def missing(self, request: web.Request) -> web.Response:
        """List what a graph names and this machine does not have."""
        self.check(request)
        if self._missing is None:
            raise web.HTTPNotFound(text="The page's own workflow is looked through when it is opened.")
        data = await request.read()  # of no more bytes than the server takes
        if len(data) > MAX_PROMPT:
            raise web.HTTPRequestEntityTooLarge(MAX_PROMPT, len(data))
        try:
            prompt = parse_json(data, "the graph", dict[str, Any])
            return web.json_response(await asyncio.to_thread(self._missing, prompt))
        except InputError as error:
            raise web.HTTPBadRequest(text=str(error)) from None

    def check(self, request: web.Request) -> None:
        """Raise `HTTPForbidden` for a page of another site."""
        host, origin = request.headers.get("Host", ""), request.headers.get("Origin")
        foreign = origin is not None and urlsplit(origin).netloc != host
        if self._loopback and urlsplit(f"//{host}").hostname not in LOOPBACK:
            foreign = True
        if foreign or request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise web.HTTPForbidden(text="Another site asks; only this server's own page may.")
