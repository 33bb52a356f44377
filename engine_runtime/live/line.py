"""The line of music that is heard: which latent frame sounds at which moment.

A moment is a latent frame counted from the start of the session; a frame has C channels. One thread, the session's
sound, reads a line; the thread of its ring adds to it. The session's lock guards both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

BACK = 100  # frames behind the sound that stay at least: what is about to be heard may be decoded again


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
        first: the moment that counts as its first beat.
        start: the first moment that can be read.
        length: frames after which it begins again; 0 for music without end.
    """

    first: int
    start: int

    @property
    def length(self) -> int: ...

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
        """Return the changes that the music has at this moment."""
        ...

    def changes(self, start: int, stop: int) -> list[tuple[int, Heard]]:
        """List the changes that the music has from `start` on, and where others come before `stop`."""
        ...


@dataclass(frozen=True, eq=False)
class _Layer:
    """A latent `[T, C]` of a loop, and the moment from which it sounds."""

    at: int
    latent: Tensor
    heard: Heard


class Loop:
    """T frames that go round."""

    first = start = 0

    def __init__(self) -> None:
        self._layers: list[_Layer] = []  # by their moments

    @property
    def length(self) -> int:
        return self._layers[-1].latent.shape[0] if self._layers else 0

    @property
    def end(self) -> int | None:
        return None if self._layers else 0

    def add(self, latent: Tensor, heard: Heard, at: int = 0) -> None:
        """Play another latent `[T, C]` from the place where the loop is, from the moment `at` on; what was to sound
        from there on is forgotten. A moment that was decoded already means as soon as can be.
        """
        before = [layer for layer in self._layers if layer.at < at]
        self._layers = [*before, _Layer(at if before else 0, latent, heard)]

    def changes_at(self, start: int) -> Heard:
        return next((layer.heard for layer in reversed(self._layers) if layer.at <= start), Heard())

    def changes(self, start: int, stop: int) -> list[tuple[int, Heard]]:
        return _changes(self, [(layer.at, layer.heard) for layer in self._layers], start, stop)

    def window(self, start: int, stop: int, margin: int) -> tuple[Tensor, int, int]:
        if not self._layers:
            raise LookupError("a window of a line that has no music")
        while len(self._layers) > 1 and self._layers[1].at <= start - BACK:
            self._layers.pop(0)
        ends = [*(layer.at for layer in self._layers[1:]), stop + margin]
        at, parts = start - margin, []
        for layer, end in zip(self._layers, ends, strict=True):
            frames = torch.arange(at, max(at, min(end, stop + margin)), device=layer.latent.device)
            parts.append(layer.latent[frames % layer.latent.shape[0]])
            at += frames.shape[0]
        return torch.cat([part.to(parts[-1]) for part in parts]), margin, margin


class Endless:
    """Music without repeat: stretches laid end to end.

    Args:
        channels: C of a frame.
        kept: frames before a stretch that it continues.
    """

    def __init__(self, kept: int, channels: int) -> None:
        self.kept = kept
        self.first = self.start = 0
        self.frames = torch.zeros(0, channels)
        self._joints: list[tuple[int, Heard]] = []  # where a stretch begins, and what it has heard
        self._beat = 0.0  # the moment of a beat: that on which the latest tail begins

    @property
    def length(self) -> int:
        return 0

    def begin(self, moment: int) -> None:
        """Let the first stretch sound from a moment on."""
        self.first = self.start = moment
        self._beat = float(moment)

    @property
    def end(self) -> int:
        return self.start + self.frames.shape[0]

    def tail(self, moment: int, beat: float = 0.0) -> Tensor:
        """Return the music before a moment, at most `kept` frames of it: `[K, C]`.

        A model begins its music on a beat: one that goes on from a tail which begins elsewhere shifts the beats.

        Args:
            beat: frames from beat to beat, on one of which the tail begins; 0 where they are not known.
        """
        stop = moment - self.start
        first = max(0, stop - self.kept)
        if 0.0 < beat <= self.kept / 2:
            self._beat += math.ceil((self.start + first - self._beat) / beat) * beat
            first = min(round(self._beat) - self.start, stop)
        return self.frames[first:stop]

    def add(self, latent: Tensor, kept: int, at: int, decoded: int, heard: Heard, earliest: int = 0) -> None:
        """Lay a stretch in place of what was to come.

        Args:
            latent: `[T, C]`.
            kept: its first frames, which repeat the music before `at`.
            at: the moment of its first new frame.
            decoded: the moment up to which the sound is made; a stretch that comes too late begins there.
            earliest: a moment before which it must not sound, as long as there is other music.
        """
        begin = max(at, min(max(decoded, earliest), self.end))
        new = latent[kept + begin - at :]
        self.frames = torch.cat([self.frames[: begin - self.start].to(new), new])
        self._joints = [(moment, was) for moment, was in self._joints if moment < begin] + [(begin, heard)]
        spare = min(decoded, self.end) - max(self.kept, BACK) - self.start
        if spare > 0:
            self.frames, self.start = self.frames[spare:], self.start + spare
            while len(self._joints) > 1 and self._joints[1][0] <= self.start:
                self._joints.pop(0)

    def changes_at(self, start: int) -> Heard:
        return next((heard for moment, heard in reversed(self._joints) if moment <= start), Heard())

    def changes(self, start: int, stop: int) -> list[tuple[int, Heard]]:
        return _changes(self, self._joints, start, stop)

    def window(self, start: int, stop: int, margin: int) -> tuple[Tensor, int, int]:
        if start < self.start:
            raise LookupError(f"a window from {start} of music that begins at {self.start}")
        first, last = max(start - margin, self.start), min(stop + margin, self.end)
        return self.frames[first - self.start : last - self.start], start - first, last - stop


def _changes(line: Line, joints: Iterable[tuple[int, Heard]], start: int, stop: int) -> list[tuple[int, Heard]]:
    found = [(start, line.changes_at(start))]
    for moment, heard in joints:
        if start < moment < stop and heard != found[-1][1]:
            found.append((moment, heard))
    return found
