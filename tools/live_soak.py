"""Listens to a Live Session in a running ComfyUI for hours, as a page does: it turns knobs, loses the connection, and
queues image jobs beside it.

    python main.py --cpu --port 8188                                  # ComfyUI, with this pack
    python -m ostinato.tools.live_soak --at 127.0.0.1:8188 --pid PID --minutes 120 --out soak.json

Figures are written every minute. The exit status is 1 where sound was missing away from a lost connection, or a control
was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from ..engine_runtime.bench.listener import QUANTUM, Ring
from ..engine_runtime.live.level import SAMPLE_RATE
from ..engine_runtime.live.line import Heard
from ..engine_runtime.serve.messages import HEADER, VERSION

NAME = "5"  # of the session: its node's id
REPORT = 0.021  # seconds between two reports, as a page's worklet makes them
RECONNECT, JOB = 60.0, 300.0  # seconds between two
EXCUSED = 5.0  # seconds after a lost connection in which missing sound is laid to it
HEARD = 60.0  # seconds after which a change that no sound has counts as lost
TAGS = (
    "funk, drums, bass",
    "slow ambient pads",
    "fast techno with bass drums and a deep synth pad",
    "jazz trio, piano",
)


def session_graph(seconds: float = 5.0, depth: int = 1, **more: Any) -> dict[str, Any]:
    """Return a Live Session of the built-in model with hot knobs, in the API form; `more` are its inputs."""

    def node(class_type: str, /, **inputs: Any) -> dict[str, Any]:
        return {"class_type": class_type, "inputs": inputs}

    prompt = {
        "tags": TAGS[0],
        "lyrics": "[instrumental]",
        "seconds": seconds,
        "bpm": 96,
        "key": "",
        "time_signature": "4",
    }
    task = {"language": "en", "task": "text2music", "repaint_start": 0.0, "repaint_end": 0.0}
    knobs = {"velocity_scale": 1.0, "ode_noise": 0.0, "sde": 1.0, "target_strength": 0.0}
    walk = {"steps": 8, "shift": 3.0, "denoise": 1.0, "seed": 7, "seed_step": 0, "solver": "ode", "mode": "loop"}
    links = {"engine": ["2", 0], "condition": ["3", 0], "knobs": ["4", 0], "model": ["1", 0]}
    return {
        "1": node("OstinatoLoadModel", model="tiny", precision="auto", device="cpu", download=False),
        "2": node("OstinatoEngine", model=["1", 0], kind="eager", max_rows=16),
        "3": node("OstinatoEncodePrompt", model=["1", 0], **prompt, **task),
        "4": node("OstinatoKnobs", **knobs),
        NAME: node("OstinatoLiveSession", depth=depth, **links, **walk, **more),
    }


def image_graph(number: int) -> dict[str, Any]:
    """Return an image job that takes some seconds of a CPU; another number is another job."""
    sharpen = {"image": ["b", 0], "sharpen_radius": 31, "sigma": 1.0, "alpha": 1.0}
    return {
        "a": {"class_type": "EmptyImage", "inputs": {"width": 1024, "height": 1024, "batch_size": 4, "color": number}},
        "b": {"class_type": "ImageBlur", "inputs": {"image": ["a", 0], "blur_radius": 31, "sigma": 9.0}},
        "c": {"class_type": "ImageSharpen", "inputs": sharpen},
        "d": {"class_type": "PreviewImage", "inputs": {"images": ["c", 0]}},
    }


class Page:
    """A listener. The sound is played against the clock, also while there is no connection.

    Attributes:
        counts: what happened how often.
        waits: seconds from a change to the first sample that has it.
        gaps: the moments at which sound was missing.
    """

    def __init__(self, address: str) -> None:
        self.address, self.counts, self.waits = address, Counter[str](), list[float]()
        self.gaps, self.figures = list[dict[str, Any]](), dict[str, Any]()
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._key, self._bytes = "", 0
        self._ring, self._clock = Ring(), time.monotonic()
        self._began = time.monotonic()
        self._cut = self._turned = -EXCUSED  # when the connection was lost, and when a change was sent
        self._number, self._last = 0, dict[tuple[str, str], Any]()
        self._sent, self._due = dict[int, tuple[float, tuple[str, str]]](), list[tuple[float, str, int]]()
        self._heard, self._silent = Heard(), 0

    async def run(self, http: aiohttp.ClientSession, until: float) -> None:
        """Listen; come back after each lost connection."""
        tasks = [asyncio.create_task(self._play()), asyncio.create_task(self._turn(until))]
        try:
            while time.monotonic() < until:
                url = f"http://{self.address}/ostinato/live/{NAME}/socket"
                async with http.ws_connect(url, max_msg_size=1 << 22) as self._socket:
                    self._bytes = 0
                    hello = {"session": self._key, "epoch": self._ring.epoch, "position": self._ring.fresh}
                    await self._send(type="hello", version=VERSION, **hello)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(min(RECONNECT, until - time.monotonic())):
                            await self._receive(self._socket)
                    self._cut, self._sent = time.monotonic(), {}
                self.counts["reconnects"] += 1
        finally:
            for task in tasks:
                task.cancel()

    async def _send(self, **message: Any) -> None:
        if self._socket is not None and not self._socket.closed:
            await self._socket.send_str(json.dumps(message))

    async def _receive(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                self._take(message.data)
            else:
                await self._answer(json.loads(message.data))
        self.counts["closed by the server"] += 1

    async def _answer(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "welcome":
            self._key = message["session"]
            kept = {(one["node"], one["input"]): one.get("value") for one in message["widgets"]}
            self.counts["values lost"] += sum(kept.get(place) != value for place, value in self._last.items())
            await self._send(type="start")
        elif kind == "taken":
            began, _ = self._sent.pop(message["id"], (0.0, None))
            if message["error"]:
                self.counts["refused: " + message["error"]] += 1
            elif began and message["cost"] in ("tick", "slot"):
                self._due.append((began, message["cost"], message["change"]))
        elif kind == "figures":
            self.figures = message
        elif kind in ("failed", "refused"):
            self.counts[f"{kind}: {message['error']}"] += 1

    def _take(self, data: bytes) -> None:
        self._bytes += len(data)
        _, epoch, position, hot, slot, at = HEADER.unpack_from(data)
        self._advance()
        ring, samples = self._ring, (len(data) - HEADER.size) // 4
        if epoch > ring.epoch or epoch == ring.epoch and position > ring.end:
            self._gap("epochs" if epoch > ring.epoch else "holes")
        if not ring.take(epoch, position, samples, Heard(hot, slot), at):
            return
        pcm = np.frombuffer(data, "<i2", offset=HEADER.size)
        self._silent = self._silent + samples if int(np.abs(pcm.astype(np.int32)).max()) < 30 else 0
        self.counts["silences"] += SAMPLE_RATE <= self._silent < SAMPLE_RATE + samples

    def _gap(self, what: str) -> None:
        """Note that sound was missing, when, and how long after what could have been the cause."""
        if self._ring.epoch == 0:
            return
        now = time.monotonic()
        late = now - self._cut > EXCUSED
        self.counts[what if late else what + " at a reconnect"] += 1
        since = {"reconnect": now - self._cut, "change": now - self._turned, "start": now - self._began}
        self.gaps.append(
            {"what": what, "lead": self._ring.lead} | {f"s since {k}": round(v, 2) for k, v in since.items()}
        )

    def _advance(self) -> None:
        """Play what was due since the last call."""
        now = time.monotonic()
        for _ in range(int((now - self._clock) * SAMPLE_RATE / QUANTUM)):
            self._clock += QUANTUM / SAMPLE_RATE
            underruns = self._ring.underruns
            self._heard = next((changes for _, changes in reversed(self._ring.play())), self._heard)
            if self._ring.underruns > underruns:
                self._gap("underruns")
        hot, slot = self._heard.hot, self._heard.slot
        heard = [one for one in self._due if (hot if one[1] == "tick" else slot) >= one[2]]
        self.waits += [now - began for began, _, _ in heard]
        self._due = [one for one in self._due if one not in heard]

    async def _play(self) -> None:
        while True:
            await asyncio.sleep(REPORT)
            self._advance()
            ring = self._ring
            place = {"epoch": ring.epoch, "position": ring.read, "lead": ring.lead, "moving": ring.moving}
            with contextlib.suppress(ConnectionError):
                await self._send(type="at", bytes=self._bytes, **place)
            lost = [one for one in self._due if time.monotonic() - one[0] > HEARD]
            self.counts["changes never heard"] += len(lost)
            self._due = [one for one in self._due if one not in lost]

    async def _turn(self, until: float) -> None:
        rng = random.Random(0)
        while time.monotonic() < until - HEARD:
            await asyncio.sleep(rng.uniform(0.5, 2.5))
            if self._socket is None or self._socket.closed or not self._key:
                continue
            place, value = rng.choices(
                [
                    (("4", "velocity_scale"), round(rng.uniform(0.9, 1.1), 3)),
                    (("4", "ode_noise"), round(rng.uniform(0.0, 0.2), 3)),
                    ((NAME, "seed"), rng.randrange(1000)),
                    (("3", "tags"), rng.choice(TAGS)),
                ],
                (10, 10, 2, 1),
            )[0]
            self._number += 1
            self._turned = time.monotonic()
            self._sent[self._number] = (self._turned, place)
            with contextlib.suppress(ConnectionError):
                await self._send(type="set", id=self._number, node=place[0], input=place[1], value=value)
                self._last[place] = value
                self.counts["changes sent"] += 1


async def queue(http: aiohttp.ClientSession, address: str, graph: dict[str, Any]) -> float:
    """Run a graph; returns the seconds it took."""
    began = time.monotonic()
    async with http.post(f"http://{address}/prompt", json={"prompt": graph}) as answer:
        made = await answer.json()
    if answer.status != 200:
        raise SystemExit(f"ComfyUI refused the graph: {made}")
    while True:
        async with http.get(f"http://{address}/history/{made['prompt_id']}") as answer:
            done = (await answer.json()).get(made["prompt_id"])
        if done:
            if done["status"]["status_str"] != "success":
                raise SystemExit(f"a job failed: {done['status']}")
            return time.monotonic() - began
        await asyncio.sleep(0.2)


def resident(pid: int) -> float:
    """Return the megabytes that a process has in memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


async def soak(address: str, pid: int, minutes: float, job: float, out: Path) -> bool:
    began, until = time.monotonic(), time.monotonic() + 60 * minutes
    page, memory, jobs = Page(address), list[tuple[float, float]](), list[float]()

    async def work(http: aiohttp.ClientSession) -> None:
        while True:
            await asyncio.sleep(job)
            jobs.append(await queue(http, address, image_graph(len(jobs))))

    async def watch() -> None:
        while True:
            memory.append((time.monotonic() - began, resident(pid)))
            await asyncio.to_thread(write)
            await asyncio.sleep(60)

    def write() -> None:
        waits = np.percentile(1e3 * np.array(page.waits or [0.0]), (50, 95)).round(0).tolist()
        made = {
            "minutes": (time.monotonic() - began) / 60,
            "counts": dict(page.counts),
            "changes heard": len(page.waits),
            "ms to the ear, median and 95th percentile": waits,
            "image jobs, s": jobs,
            "gaps": page.gaps,
            "memory, MB by seconds": memory,
            "figures": page.figures,
        }
        out.write_text(json.dumps(made, indent=1) + "\n")

    async with aiohttp.ClientSession() as http:
        await queue(http, address, session_graph())
        tasks = [asyncio.create_task(work(http)), asyncio.create_task(watch())]
        await page.run(http, until)
        for task in tasks:
            task.cancel()
    write()
    bad = ("underruns", "holes", "epochs", "silences", "values lost", "changes never heard", "closed by the server")
    return not any(page.counts[name] for name in bad)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--at", default="127.0.0.1:8188")
    parser.add_argument("--pid", type=int, required=True, help="of ComfyUI, whose memory is watched")
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--job", type=float, default=JOB, help="seconds between two image jobs")
    parser.add_argument("--out", type=Path, default=Path("soak.json"))
    given = parser.parse_args()
    sys.exit(0 if asyncio.run(soak(given.at, given.pid, given.minutes, given.job, given.out)) else 1)
