"""A pool of processes that composes, renders, words and tokenizes pieces; a trainer takes them as they come."""

from __future__ import annotations

import math
import multiprocessing as mp
import os
import queue
import random
import signal
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .composer import BASS_CHANNEL, DRUM_CHANNEL, Piece, compose
from .covers import cover
from .styles import CH, CR, OH, RD, SH, K
from .words import caption, prompt_text

ASKED_FOR = (*["text2music"] * 5, "repaint", *["cover"] * 2)  # tasks of a piece's wordings
REPAINT, COVER = ASKED_FOR.index("repaint"), ASKED_FOR.index("cover")  # the first of each; covers are the last
WORDINGS, TOKENS = len(ASKED_FOR), 87  # tokens kept of each
SECONDS, RATE = 16, 48_000
SAMPLES, FRAMES = SECONDS * RATE, SECONDS * 25
LOW, HIGH = 28, 104  # MIDI keys of the roll
ROLL = HIGH - LOW + 8  # then onsets: kick, snare and toms, cymbals, bass, chords, lead, pad, and one spare
_CYMBALS = (CH, OH, RD, CR, SH)
LENGTHS = (10, 10, 12, 15, 20, 30, 60)  # seconds that prompts ask for


def roll_of(p: Piece) -> NDArray[np.uint8]:
    """Draw the notes that sound in each frame, `[400, ROLL]` of 0 and 1. For trainings; the model never sees it."""
    out, onsets = np.zeros((FRAMES, ROLL), np.uint8), HIGH - LOW
    for at, length, channel, key, _ in p.notes:
        first = int(at * 25)
        if first >= FRAMES:
            continue
        if channel == DRUM_CHANNEL:
            out[first, onsets + (0 if key == K else 2 if key in _CYMBALS else 1)] = 1
        else:
            out[first : max(first + 1, int((at + length) * 25)), min(max(key - LOW, 0), onsets - 1)] = 1
            out[first, onsets + 3 + channel - BASS_CHANNEL] = 1
    return out


@dataclass(frozen=True)
class Rendered:
    """One piece and its cover, if covers are made: the first axis. Arrays of sound and notes are views of a slot that
    `Factory.release` gives back."""

    slot: int
    seed: int
    audio: NDArray[np.int16]  # [1 or 2, 2, SAMPLES]
    roll: NDArray[np.uint8]  # [1 or 2, FRAMES, ROLL]
    ids: NDArray[np.int16]  # [1 or 2, WORDINGS, TOKENS]
    lengths: NDArray[np.int16]  # [1 or 2, WORDINGS]
    beat: float  # seconds
    metre: int


class Factory:
    """The pool. Start it before CUDA.

    Args:
        first: seed of the first piece.
        procs: processes.
        slots: pieces that may wait.
        count: pieces to make, 0 for no end.
        covers: make a cover of each piece too.
    """

    def __init__(
        self,
        soundfont: str,
        tokenizer: str,
        first: int,
        procs: int,
        slots: int = 96,
        count: int = 0,
        covers: bool = False,
    ) -> None:
        ctx, self.covers = mp.get_context("fork"), covers
        audio, rolls = (slots, 1 + covers, 2, SAMPLES), (slots, 1 + covers, FRAMES, ROLL)
        self.audio = np.frombuffer(mp.RawArray("h", math.prod(audio)), np.int16).reshape(audio)
        self.rolls = np.frombuffer(mp.RawArray("B", math.prod(rolls)), np.uint8).reshape(rolls)
        self.free, self.done = ctx.Queue(), ctx.Queue()
        for slot in range(slots):
            self.free.put(slot)
        end = first + count if count else None
        self.procs = [
            ctx.Process(target=self._work, args=(soundfont, tokenizer, first + i, procs, end), daemon=True)
            for i in range(procs)
        ]
        for p in self.procs:
            p.start()

    def _work(self, soundfont: str, tokenizer: str, seed: int, step: int, end: int | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.nice(5)
        from tokenizers import Tokenizer

        from .render import Renderer

        renderer, tok = Renderer(soundfont), Tokenizer.from_file(tokenizer)
        while end is None or seed < end:
            slot, p = self.free.get(), compose(seed, SECONDS)
            both = [p, cover(p)] if self.covers else [p]
            for n, one in enumerate(both):
                np.multiply(renderer.render(one), 32767, out=self.audio[slot, n], casting="unsafe")
                self.rolls[slot, n] = roll_of(one)
            ids, lengths = map(np.stack, zip(*(worded(one, tok) for one in both), strict=True))
            self.done.put((slot, seed, ids, lengths, p.beat, p.metre))
            seed += step

    def take(self, wait: bool = True) -> Rendered | None:
        """The next piece; None where none came within 30 s, or at once without `wait`."""
        try:
            slot, seed, ids, lengths, beat, metre = self.done.get(timeout=30) if wait else self.done.get_nowait()
        except queue.Empty:
            return None
        return Rendered(slot, seed, self.audio[slot], self.rolls[slot], ids, lengths, beat, metre)

    def release(self, piece: Rendered) -> None:
        self.free.put(piece.slot)

    def stop(self) -> None:
        for p in self.procs:
            p.kill()


def worded(p: Piece, tok) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Tokens `[WORDINGS, TOKENS]` of a piece's prompts, and how many each has `[WORDINGS]`."""
    r = random.Random(p.seed + 7)
    ids, lengths = np.zeros((WORDINGS, TOKENS), np.int16), np.zeros(WORDINGS, np.int16)
    for i, task in enumerate(ASKED_FOR):
        found = tok.encode(prompt_text(caption(p, r), r.choice(LENGTHS), task)).ids[:TOKENS]
        ids[i, : len(found)], lengths[i] = found, len(found)
    return ids, lengths
