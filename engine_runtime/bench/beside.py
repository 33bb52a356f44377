"""The VAE beside the tick: windows decoded back to back or at a pace, and what that costs the stream."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import torch

from ..audio.decode import margin_frames
from ..audio.live_vae import LiveVae
from ..engines.contract import Engine
from ..errors import InputError, check_range
from .case import AHEAD, WINDOW_SECONDS, Case
from .origin import origin
from .play import Steady, steady
from .run import ROUNDS

ALONE = 50  # windows without a stream, of which the later half is timed


class Windows:
    """Decodes one window after the other in a thread of its own, at most `AHEAD` ahead of the device.

    Args:
        every: seconds from one to the next, the first after half of them; 0 is back to back.

    Attributes:
        ms: of each window, by the device's events.
        ended: windows that ended while something played.
    """

    def __init__(self, vae: LiveVae, frames: int, every: float = 0.0) -> None:
        self.vae, self.every, self.ms, self.ended = vae, every, list[float](), 0
        self._marks: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        # with the frames around it that it depends on
        shape = 1, vae.config.decoder_input_channels, frames + 2 * margin_frames(vae)
        generator = torch.Generator(vae.device).manual_seed(0)
        self._latents = torch.randn(shape, generator=generator, device=vae.device).to(vae.dtype)
        self._stop, self._error = threading.Event(), list[BaseException]()

    def run(self, count: int) -> None:
        """Decode so many, or until told to stop."""
        marks: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._marks = marks
        stream = torch.cuda.Stream(self.vae.device)
        stream.wait_stream(torch.cuda.default_stream(self.vae.device))  # which drew the latents
        since = time.perf_counter()
        with torch.cuda.stream(stream):  # which makes its device the current one
            while len(marks) < count and not self._stop.wait(self._pause(since, len(marks))):
                begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                begin.record(stream)
                self.vae.decoder(self._latents)
                end.record(stream)
                marks.append((begin, end))
                if len(marks) > AHEAD:
                    marks[-1 - AHEAD][1].synchronize()
            stream.synchronize()
        self.ms += [begin.elapsed_time(end) for begin, end in marks]

    def _pause(self, since: float, done: int) -> float:
        """Return the seconds to the next window."""
        return max(0.0, since + self.every * (done + 0.5) - time.perf_counter()) if self.every else 0.0

    def beside(self, play: Callable[[], Any]) -> Any:
        """Decode in a thread while something plays; returns what that does."""
        self._stop.clear()
        thread = threading.Thread(target=self._guarded, name="windows")
        thread.start()
        try:
            played = play()
            self.ended += sum(end.query() for _, end in self._marks)
            return played
        finally:
            self._stop.set()
            thread.join()
            if self._error:
                raise self._error.pop()

    def _guarded(self) -> None:
        try:
            self.run(1 << 30)
        except BaseException as error:
            self._error.append(error)


def beside(
    engine: Engine,
    vae: LiveVae,
    case: Case,
    ticks: int,
    seconds: float = WINDOW_SECONDS,
    every: float = 0.0,
    command: str = "",
) -> dict[str, Any]:
    """Time ticks alone and beside the VAE in turn, A B A B, and windows likewise.

    Ticks are compared by their means, because a window now and then slows down few of them, but by much.

    Args:
        seconds: of a window.
        every: as in `Windows`.
        command: what to call it.

    Raises:
        InputError: without a GPU, where nothing runs side by side.
    """
    if engine.device.type != "cuda":
        raise InputError(f"the engine is on {engine.device}", "the VAE runs beside it on a GPU", "use --device cuda")
    check_range("every", every, 0.0, 3600.0, "0 is back to back")
    frames, whole, made_on = engine.spec.frames_of(seconds), case.whole(ticks), origin(engine.device, command)
    alone, together = Windows(vae, frames, every), Windows(vae, frames, every)
    alone.run(ALONE)
    del alone.ms[: ALONE // 2]
    times: dict[str, list[float]] = {"alone": [], "beside": []}
    with steady(engine, case, 2 * ROUNDS * whole) as played:
        for _ in range(ROUNDS):
            times["alone"] += played.run(whole).ms
            times["beside"] += together.beside(lambda: _laps(played, whole))
    ticked = {name: statistics.fmean(ms) for name, ms in times.items()}
    return {
        **made_on,
        "engine": engine.name,
        "case": case.as_json(),
        "window": {
            "seconds": engine.spec.seconds(frames),
            "margin_s": engine.spec.seconds(margin_frames(vae)),
            "dtype": str(vae.dtype),
            "every_s": every,
        },
        "window_ms": {"alone": statistics.median(alone.ms), "beside": statistics.median(together.ms)},
        "windows_a_tick": together.ended / len(times["beside"]),
        "tick_ms": ticked,
        "slowdown": ticked["beside"] / ticked["alone"] - 1.0,
        "ticks": len(times["alone"]),
    }


def _laps(played: Steady, ticks: int) -> list[float]:
    return played.run(ticks).ms
