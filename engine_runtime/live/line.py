"""The line of music that is heard: which latent frame sounds at which moment.

A moment is a latent frame counted from the start of the session; a frame has C channels. One thread, the session's
sound, reads a line; the thread of its ring adds to it. The session's lock guards both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Heard:
    """The changes that music has in it, by the ids of the latest: `hot` of those that act in a tick, `slot` of those
    that act in a generation.
    """

    hot: int = 0
    slot: int = 0


class Line(Protocol):
    """A source of latent frames.

    Attributes:
        heard: the changes in the music added last.
    """

    heard: Heard

    @property
    def end(self) -> int | None:
        """Return the first moment that has no music yet; None where there is music for all time."""
        ...

    def window(self, start: int, stop: int, margin: int) -> tuple[Tensor, int, int]:
        """Return the latents of `start` to `stop` with up to `margin` more on each side: `[frames, C]`, and the number
        of those before and behind.
        """
        ...

    def changes_at(self, start: int) -> Heard:
        """Return the changes that the music has from this moment on."""
        ...


class Loop:
    """T frames that go round."""

    def __init__(self) -> None:
        self.latent: Tensor | None = None
        self.heard = Heard()

    @property
    def end(self) -> int | None:
        return 0 if self.latent is None else None

    def add(self, latent: Tensor, heard: Heard) -> None:
        """Play another latent `[T, C]` from the next window on, from the place where the loop is."""
        self.latent, self.heard = latent, heard

    def changes_at(self, start: int) -> Heard:
        return self.heard

    def window(self, start: int, stop: int, margin: int) -> tuple[Tensor, int, int]:
        if self.latent is None:
            raise LookupError("a window of a line that has no music")
        frames = torch.arange(start - margin, stop + margin, device=self.latent.device)
        return self.latent[frames % self.latent.shape[0]], margin, margin


class Endless:
    """Music without repeat: stretches laid end to end.

    Args:
        channels: C of a frame.
        kept: frames that stay after they were heard, for the stretch that continues them.
    """

    def __init__(self, kept: int, channels: int) -> None:
        self.kept = kept
        self.start = 0  # the moment of the first frame that is still here
        self.frames = torch.zeros(0, channels)
        self.heard = Heard()
        self._joints: list[tuple[int, Heard]] = []  # where a stretch begins, and what it has heard

    @property
    def end(self) -> int:
        return self.start + self.frames.shape[0]

    def tail(self, moment: int) -> Tensor:
        """Return the music before a moment, at most `kept` frames of it: `[K, C]`."""
        stop = moment - self.start
        return self.frames[max(0, stop - self.kept) : stop]

    def add(self, latent: Tensor, kept: int, at: int, decoded: int, heard: Heard) -> None:
        """Lay a stretch in place of what was to come.

        Args:
            latent: `[T, C]`.
            kept: its first frames, which repeat the music before `at`.
            at: the moment of its first new frame.
            decoded: the moment up to which the sound is made; a stretch that comes too late begins there.
        """
        begin = max(at, min(decoded, self.end))
        new = latent[kept + begin - at :]
        self.frames = torch.cat([self.frames[: begin - self.start].to(new), new])
        self.heard = heard
        self._joints = [(moment, was) for moment, was in self._joints if moment < begin] + [(begin, heard)]
        spare = min(decoded, self.end) - self.kept - self.start
        if spare > 0:
            self.frames, self.start = self.frames[spare:], self.start + spare
            while len(self._joints) > 1 and self._joints[1][0] <= self.start:
                self._joints.pop(0)

    def changes_at(self, start: int) -> Heard:
        return next((heard for moment, heard in reversed(self._joints) if moment <= start), Heard())

    def window(self, start: int, stop: int, margin: int) -> tuple[Tensor, int, int]:
        first, last = max(start - margin, self.start), min(stop + margin, self.end)
        return self.frames[first - self.start : last - self.start], start - first, last - stop
