"""One client of a live session: what it sends is checked and taken in, what it is sent is bounded.

Sound may be dropped, and is counted; control never is. A client that does not read is let go.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from ..errors import InputError, OstinatoError, plain
from ..live.block import Block
from .control import Graph, Taken
from .messages import (
    VERSION,
    At,
    Capture,
    End,
    Hello,
    Message,
    Pause,
    Record,
    Set,
    Settings,
    Start,
    Stop,
    frame,
    read,
    sentence,
    shown,
    write,
)
from .sessions import Live

log = logging.getLogger(__name__)
IN_FLIGHT = 512 << 10  # bytes of sound that a client has not acknowledged, 2.7 s
REPLIES = 256  # that wait to be sent; with one more the client does not read
WRONG = 20  # messages that are refused before the connection ends
FIGURES_SECONDS = 0.25  # between two reports of figures


@dataclass(frozen=True)
class Patience:
    """The seconds that a client is waited for.

    Attributes:
        hello: until the first message.
        send: that a message may take to leave, and that sound may stay without an acknowledgement.
    """

    hello: float = 10.0
    send: float = 20.0


PATIENCE = Patience()


class Connection:
    """The server's end of one WebSocket.

    Args:
        socket: prepared.
        live: what it plays.
        patience: with the client.

    Attributes:
        dropped: blocks of sound that were not sent, because the client did not acknowledge others.
    """

    def __init__(self, socket: web.WebSocketResponse, live: Live, patience: Patience = PATIENCE) -> None:
        self.socket, self._live, self._patience = socket, live, patience
        self.session, self.control = live.session, live.control
        self.dropped = 0
        self._loop = asyncio.get_running_loop()
        self._replies: deque[str] = deque()
        self._sound: deque[Block] = deque()
        self._sent = self._acknowledged = 0  # bytes of sound
        self._wake, self._wrong = asyncio.Event(), 0
        self._told = 0.0  # when figures were sent last
        self._heard_of = 0.0  # when sound was acknowledged last, or was sent with none on the way
        self._listening = False
        self._listed: Graph | None = None  # whose widgets the client knows
        self._underruns = 0
        self._tasks: set[asyncio.Task[None]] = set()  # what they await is done in a thread

    async def run(self) -> None:
        """Serve until either side ends."""
        sender = asyncio.create_task(self._send())
        try:
            await self._greet()
            async for message in self.socket:
                if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    self._take(message.data)
                # a flood must not keep the server from its other work: receiving what is there already never waits
                await asyncio.sleep(0)
        except _Refused as refused:
            await self._end(WSCloseCode.POLICY_VIOLATION, str(refused))
        finally:
            self.session.detach(self)
            sender.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sender

    # --- what the session's threads call ---

    def block(self, block: Block) -> None:
        self._call(self._queue, block)

    def changed(self) -> None:
        # figures go out by the clock
        if self.session.closed:
            self._call(self._begin, self._end(WSCloseCode.GOING_AWAY, "the session has ended"))

    def failed(self, error: Exception) -> None:
        self._call(self._reply, write("failed", error=sentence(error)))

    def _call(self, function: Callable[..., None], *given: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the server's loop has closed
            self._loop.call_soon_threadsafe(function, *given)

    # --- in the server's loop ---

    async def _greet(self) -> None:
        """Wait for `hello`, and go on with the sound that the client has."""
        try:
            first = await self.socket.receive(self._patience.hello)
        except TimeoutError:
            raise _Refused("no hello came") from None
        if first.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
            return
        try:
            hello = read(first.data)
        except InputError as error:
            raise _Refused(str(error)) from None
        if not isinstance(hello, Hello) or hello.version != VERSION:
            raise _Refused(f"the first message must be a hello of version {VERSION}: load the page again")
        self.listen(hello)

    def listen(self, hello: Hello) -> None:
        """Send all sound to this client from now on."""
        known = hello.session == self.session.key
        self._listening, self._listed = True, self.control.graph
        blocks = self.session.resume(self, hello.epoch if known else 0, hello.position)
        self._reply(
            write(
                "welcome",
                version=VERSION,
                session=self.session.key,
                state=self.session.state,
                epoch=self.session.epoch,
                position=self.session.position,
                resumed=known and self.session.epoch == hello.epoch,
                widgets=self._listed.widgets(),
                **self._set_of(),
            )
        )
        for block in blocks:
            self._queue(block)
        self.changed()  # the session may have ended before it had this listener

    def _set_of(self) -> dict[str, Any]:
        share = self._live.share
        return {} if share is None else {"settings": share.settings, "missing": share.missing}

    def _take(self, data: str | bytes) -> None:
        """Take in a message; a wrong one is answered, and too many end the connection."""
        try:
            self._act(read(data))
        except OstinatoError as error:
            self._wrong += 1
            self._reply(write("refused", error=str(error)))
            if self._wrong >= WRONG:
                raise _Refused("too many messages that cannot be read") from None

    def _act(self, message: Message) -> None:
        if isinstance(message, At):
            if message.bytes > self._acknowledged:
                self._acknowledged, self._heard_of = min(self._sent, message.bytes), time.monotonic()
            self._underruns = message.underruns
            if self._listening:
                self.session.report(message.epoch, message.position, message.lead, message.moving, self)
            self._wake.set()
        elif isinstance(message, Set):
            self._set(message)
        elif isinstance(message, Start):
            self.session.start()
        elif isinstance(message, Pause):
            self.session.pause()
        elif isinstance(message, Stop):
            self.session.stop()
            self._sound.clear()
        elif isinstance(message, Capture):
            self._begin(self._capture(message))
        elif isinstance(message, End):
            if self._live.end is None:
                raise InputError("the session is to end", "this one ends with its program", "stop it, or the program")
            self._begin(asyncio.to_thread(self._live.end))
        elif isinstance(message, Settings):
            if self._live.share is None:
                raise InputError("settings came", "the workflow's node has those of this session", "change them there")
            self._live.share.settings = message
        elif isinstance(message, Record):
            self._begin(self._record(message))
        else:
            raise InputError("a second hello came", "the first message is the only one", "connect again")

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Do work beside the messages, with a reference to it, without which it could be dropped."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _set(self, message: Set) -> None:
        """Turn a widget; a value that it does not take is answered as such."""

        def tell(taken: Taken) -> None:
            self._call(self._reply, _taken(message.id, taken))

        try:
            place = message.node, message.input
            position = self.control.set(place, message.given, self, tell, message.when)
            if position:
                self._reply(write("queued", id=message.id, node=place[0], input=place[1], position=position))
        except InputError as error:
            self._reply(write("taken", id=message.id, change=0, cost="nothing", error=str(error)))

    async def _record(self, message: Record) -> None:
        """Begin or end a recording in a thread: the end of one is written."""
        try:
            file = await asyncio.to_thread(self._live.keep.record if message.on else self._live.keep.end)
            self._reply(write("recording", id=message.id, on=message.on, file=file))
        except (OstinatoError, OSError) as error:
            self._reply(write("recording", id=message.id, on=False, file="", error=sentence(error)))

    async def _capture(self, message: Capture) -> None:
        """Write a capture in a thread, for it encodes a minute of sound."""
        given = message.seconds, message.bars, self.control.graph.tempo
        try:
            files = await asyncio.to_thread(self._live.keep.capture, *given)
            self._reply(write("captured", id=message.id, files=files))
        except (OstinatoError, OSError) as error:
            self._reply(write("captured", id=message.id, files=[], error=sentence(error)))

    def _queue(self, block: Block) -> None:
        waiting = sum(len(one.pcm) for one in (*self._sound, block))
        if self._sent + waiting - self._acknowledged > IN_FLIGHT:
            self.dropped += 1
            return
        self._sound.append(block)
        self._wake.set()

    def _reply(self, text: str) -> None:
        if len(self._replies) >= REPLIES:
            self._begin(self._end(WSCloseCode.TRY_AGAIN_LATER, "messages are not read"))
            return
        self._replies.append(text)
        self._wake.set()

    async def _send(self) -> None:
        """Send what waits: answers first, then sound, then figures."""
        while not self.socket.closed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), FIGURES_SECONDS)
            self._wake.clear()
            try:
                async with asyncio.timeout(self._patience.send):
                    while self._replies or self._sound:
                        if self._replies:
                            await self.socket.send_str(self._replies.popleft())
                            continue
                        data = frame(self._sound.popleft())
                        if self._sent == self._acknowledged:
                            self._heard_of = time.monotonic()
                        self._sent += len(data)
                        await self.socket.send_bytes(data)
                    await self._send_figures()
                if self._sent > self._acknowledged and time.monotonic() > self._heard_of + self._patience.send:
                    raise TimeoutError
            except TimeoutError:
                await self._end(WSCloseCode.TRY_AGAIN_LATER, "messages are not read")
            except ConnectionError:  # the socket is closing
                return
            except Exception:
                if not self.socket.closed:  # whoever listens is let go and comes again: a mute socket tells nothing
                    log.exception("a listener of the live session %s could not be told more", self.session.name)
                    await self._end(WSCloseCode.INTERNAL_ERROR, "this is a fault of Ostinato: see the log")
                return

    async def _send_figures(self) -> None:
        now = time.monotonic()
        if not self._listening or now - self._told < FIGURES_SECONDS:
            return
        self._told = now
        if self._listed is not self.control.graph:  # another run has come, with other nodes or links
            self._listed = self.control.graph
            await self.socket.send_str(write("widgets", widgets=self._listed.widgets()))
        session, figures = self.session, shown(self.session.figures())
        error = None if session.error is None else sentence(session.error)
        more = {"state": session.state, "mode": session.score.mode, "error": error}
        counts = {"dropped": self.dropped, "underruns": self._underruns, "recording": self._live.keep.recording}
        await self.socket.send_str(write("figures", **figures, **more, **counts))

    async def _end(self, code: int, reason: str) -> None:
        """Close the socket; one that takes no more bytes is cut off."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(1.0):
                await self.socket.close(code=code, message=reason.encode()[:120])
        transport = getattr(getattr(self.socket, "_req", None), "transport", None)
        if transport is not None:
            transport.abort()


class _Refused(Exception):
    """The reason why a connection ends."""


def _taken(number: int, taken: Taken) -> str:
    error = None if taken.error is None else plain(taken.error)
    return write("taken", id=number, change=taken.change, cost=taken.cost.name.lower(), error=error)
