"""A listener of a live session in a real ComfyUI, and workflows that play."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import numpy as np
from ostinato.engine_runtime.serve.messages import HEADER, VERSION
from ostinato.tools.live_soak import session_graph

RATE = 48_000
LEAD = RATE // 4  # samples that the listener wants ahead
PATIENCE = 60.0


def workflow(seconds: float = 2.0, depth: int = 1, **more: Any) -> dict[str, Any]:
    """Return the graph of the soak, of a shorter loop; `more` are inputs of its Live Session."""
    return session_graph(seconds, depth, **more)


class Listener:
    """Hears a session from entering to leaving the block, at the pace of the clock, in a thread of its own.

    Attributes:
        messages: in the order they came.
        sound: int16 `[samples, 2]` by position, of the epoch that plays.
        heard: the change of each sample.
    """

    def __init__(self, address: str, name: str, start: bool = True) -> None:
        self.url = f"ws://{address}/ostinato/live/{quote(name)}/socket"
        self.messages, self.start = list[dict[str, Any]](), start
        self.sound, self.end, self.epoch, self.bytes, self.hot = np.zeros((0, 2), "<i2"), 0, 0, 0, 0
        self.changed, self.closed, self._number = threading.Condition(), False, 0
        self._began: float | None = None

    def __enter__(self) -> Listener:
        import websocket

        self.socket = websocket.create_connection(self.url, timeout=PATIENCE)
        self.send(type="hello", version=VERSION)
        self.threads = [threading.Thread(target=run, daemon=True) for run in (self._read, self._report)]
        for thread in self.threads:
            thread.start()
        self.welcome = self.until(lambda: self.of("welcome"))[0]
        if self.start:
            self.send(type="start")
        return self

    def __exit__(self, *error: object) -> None:
        self.closed = True
        self.socket.abort()
        for thread in self.threads:
            thread.join(5)
        self.socket.shutdown()

    def send(self, **message: Any) -> None:
        self.socket.send(json.dumps(message))

    def turn(self, node: str, name: str, value: Any) -> dict[str, Any]:
        """Turn a widget, and return what became of it."""
        self._number += 1
        number = self._number
        self.send(type="set", id=number, node=node, input=name, value=value)
        return self.until(lambda: [m for m in self.of("taken") if m["id"] == number])[0]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["type"] == kind]

    def until(self, found: Callable[[], Any], seconds: float = PATIENCE) -> Any:
        """What `found` returns, once that is something."""
        deadline = time.monotonic() + seconds
        with self.changed:
            while not (got := found()):
                left = deadline - time.monotonic()
                assert left > 0, f"not in {seconds:.0f} s; {self.messages[-3:]}, {self.end} samples"
                self.changed.wait(min(left, 0.5))
        return got

    def hear(self, seconds: float) -> np.ndarray:
        """The next seconds of sound, `[samples, 2]`."""
        start = self.end
        self.until(lambda: self.end >= start + seconds * RATE)
        return self.sound[start : start + int(seconds * RATE)]

    @property
    def state(self) -> str:
        return ([m["state"] for m in self.of("figures")] or [self.welcome["state"]])[-1]

    def _read(self) -> None:
        import websocket

        try:
            while not self.closed:
                data = self.socket.recv()
                with self.changed:
                    if isinstance(data, bytes):
                        self._take(data)
                    elif data:
                        self.messages.append(json.loads(data))
                    elif not self.socket.connected:
                        self.closed = True
                    self.changed.notify_all()
        except (OSError, websocket.WebSocketException):
            with self.changed:
                self.closed = True
                self.changed.notify_all()

    def _take(self, data: bytes) -> None:
        self.bytes += len(data)
        _, epoch, position, self.hot, _, _ = HEADER.unpack_from(data)
        pcm = np.frombuffer(data, "<i2", offset=HEADER.size).reshape(-1, 2)
        if epoch != self.epoch:
            self.epoch, self._began, self.base = epoch, None, position
        short = position + len(pcm) - len(self.sound)
        if short > 0:
            self.sound = np.concatenate([self.sound, np.zeros((short, 2), "<i2")])
        self.sound[position : position + len(pcm)] = pcm
        self.end = position + len(pcm)
        if self._began is None:
            self._began = time.monotonic()

    def _report(self) -> None:
        """Say where the sound is, at the clock's pace and not beyond what has come."""
        while not self.closed:
            with self.changed:
                place = 0 if self._began is None else self.base + int((time.monotonic() - self._began) * RATE)
                place, lead = min(place, self.end), LEAD
                told = {"epoch": self.epoch or 1, "position": place, "lead": lead, "bytes": self.bytes}
            try:
                self.send(type="at", moving=self._began is not None, **told)
            except Exception:  # the socket has ended; the reader says so
                return
            time.sleep(0.05)


def loudness(sound: np.ndarray) -> float:
    """RMS of int16 samples, 0 to 1."""
    return float(np.sqrt(np.mean((sound.astype(np.float64) / 32768) ** 2)))
