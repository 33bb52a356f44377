"""The pace of a live session's sound: how long decodes take, how large windows are by that, when the next is made."""

from __future__ import annotations

from collections.abc import Callable

from .level import SAMPLE_RATE

SIZES = (2, 4, 6, 8, 12, 25)  # frames of a window
WARM = SIZES[:4]  # that are tried before music plays
SAFE = 1.8  # of the first decode's time: decodes take 1.4 to 2 times as long once the ring plays
FORGET = 0.03  # share by which the longest decode of late is forgotten at each window
BUSY = 0.5  # share of a window's time that its decode may usually take before windows grow
CALM = 0.2  # the same, in which smaller ones are decoded again
# Sound of a loop that is made ahead, in longest decodes. A change replaces what is ahead, so that it costs no latency,
# but its decodes would take the ring's time on a CPU: while the ring works, they wait as long as enough is sent.
READY, ENOUGH, SOON = 10, 4, 1
SLACK = 1.5  # of the time that sound must last
# Longest decodes that the first window lasts, of an epoch or after a change. Smaller windows take more of the ring's
# time in all: where a knob was turned as soon as the turn before was heard, on two cores, the 95th percentile of the
# turns was heard after 0.37 to 0.47 s with 2.5 and 0.50 to 0.55 with 1.5.
LASTS = 2.5
TRANSIT = 240  # samples that pass before a block can be at a listener nearby: 5 ms
MOST_AHEAD = 2 * SAMPLE_RATE  # samples that are made ahead of the listener at most


class Pace:
    """The times of decodes, learned from each.

    Args:
        frames: counts what is decoded for a window of so many frames, margins included; times go by it.
        rate: frames a second.

    Attributes:
        size: frames of a window.
        usual, spent: seconds that the decode of one takes, on average and on the safe side.
    """

    def __init__(self, frames: Callable[[int], int], rate: float) -> None:
        self.size, self.usual, self.spent = SIZES[1], 0.0, 0.0
        self._frames, self._rate = frames, rate
        self._known = set(WARM)  # sizes that were decoded before

    def begin(self, seconds: float) -> None:
        """Note the first decode of a whole window."""
        self.usual, self.spent = seconds, SAFE * seconds

    def use(self, frames: Callable[[int], int]) -> None:
        """Go on with another decoder, whose times are not known yet."""
        self._frames, self._known = frames, set()

    def learn(self, seconds: float, count: int) -> None:
        """Note how long the decode of `count` frames took, and choose the size of the next windows by it.

        The first of a size is passed over: on a GPU kernels are tried in it, which took half a second.
        """
        if count not in self._known:
            self._known.add(count)
            return
        seconds /= self._share(count)  # as a whole window's
        self.usual += 0.2 * (seconds - self.usual)
        self.spent = max(seconds, self.spent + FORGET * (seconds - self.spent))
        at = SIZES.index(self.size)
        if self.usual * self._rate > BUSY * self.size and at + 1 < len(SIZES):
            size = SIZES[at + 1]
        elif at and self.usual_of(SIZES[at - 1]) * self._rate < CALM * SIZES[at - 1]:
            size = SIZES[at - 1]
        else:
            return
        longer = self._share(size)
        self.size, self.usual, self.spent = size, self.usual * longer, self.spent * longer

    def usual_of(self, count: int) -> float:
        """Return the usual seconds of a decode of `count` frames."""
        return self.usual * self._share(count)

    @property
    def opening(self) -> int:
        """Return the frames of the first window of an epoch: enough to last while the next are made, up to two sizes
        above the usual.
        """
        usual = SIZES.index(self.size)
        sizes = SIZES[usual : usual + 3]
        return next((size for size in sizes if size >= LASTS * self.spent * self._rate), sizes[-1])

    def first(self, now: int, hop: int) -> tuple[int, int]:
        """Return the first frame of the window after a change that can be made before it is heard, and its size: the
        smallest that lasts while the next are made, up to the one above the usual if that was decoded before. The start
        of that frame may be heard before.

        Args:
            now: the position that is heard.
            hop: samples of a frame.
        """
        usual = SIZES.index(self.size)
        larger = (size for size in SIZES[usual + 1 : usual + 2] if size in self._known)  # see `learn`
        for size in (*SIZES[: usual + 1], *larger):
            soon = now + int(self.usual_of(size) * SAMPLE_RATE)
            frame = soon // hop
            if (frame + size) * hop - soon >= LASTS * self.spent * SAMPLE_RATE:
                break
        return frame, size

    def spare(self, ahead: int, sent: int, lead: int, works: bool, coming: float) -> int:
        """Return the samples that may pass before the next window of a loop is decoded; 0 for now.

        Args:
            ahead: samples of the latest music that are made beyond the listener.
            sent: samples that are made beyond it, of older music too.
            lead: samples that it wants.
            works: the ring works, and decodes take time from it.
            coming: seconds until a change is in the music; 0 where none is on its way.
        """
        if coming > 0.0:
            late = coming < self.spent  # a decode that begins now would be in the way of that of the change
            need = SLACK * coming + self.spent if late else coming + 2 * self.spent + lead / SAMPLE_RATE
            if sent > need * SAMPLE_RATE:
                return max(1, int(coming * SAMPLE_RATE))
            return 0  # it will be needed, and is least in the way now
        if works:
            return min(self._beyond(ahead, lead, SOON), self._beyond(sent, lead, ENOUGH))
        return self._beyond(ahead, lead, READY)

    def spare_endless(self, ahead: int, lead: int) -> int:
        """Return the same of endless music, which goes on from what is decoded."""
        return self._beyond(ahead, lead, SOON)

    def _beyond(self, samples: int, lead: int, decodes: int) -> int:
        return max(0, samples - min(MOST_AHEAD, lead + int(decodes * self.spent * SAMPLE_RATE)))

    def _share(self, count: int) -> float:
        return self._frames(count) / self._frames(self.size)
