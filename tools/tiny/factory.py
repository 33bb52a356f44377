"""A pool of processes that composes, renders, words and tokenizes pieces; a trainer takes them as they come."""

from __future__ import annotations

import multiprocessing as mp
import os
import queue
import random
import signal
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .composer import BASS_CHANNEL, DRUM_CHANNEL, Piece, compose
from .styles import CH, CR, OH, RD, SH, K
from .words import caption, prompt_text

WORDINGS, TOKENS = 6, 79  # of a piece (the last asks for a repaint); tokens kept of each
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
    """One piece; `audio` and `roll` are views of a slot that `Factory.release` gives back."""

    slot: int
    seed: int
    audio: NDArray[np.int16]  # [2, SAMPLES]
    roll: NDArray[np.uint8]  # [FRAMES, ROLL]
    ids: NDArray[np.int16]  # [WORDINGS, TOKENS]
    lengths: NDArray[np.int16]  # [WORDINGS]
    beat: float  # seconds
    metre: int


class Factory:
    """The pool. Start it before CUDA.

    Args:
        first: seed of the first piece.
        procs: processes.
        slots: pieces that may wait.
        count: pieces to make, 0 for no end.
    """

    def __init__(self, soundfont: str, tokenizer: str, first: int, procs: int, slots: int = 96, count: int = 0) -> None:
        ctx = mp.get_context("fork")
        self.audio = np.frombuffer(mp.RawArray("h", slots * 2 * SAMPLES), np.int16).reshape(slots, 2, SAMPLES)
        self.rolls = np.frombuffer(mp.RawArray("B", slots * FRAMES * ROLL), np.uint8).reshape(slots, FRAMES, ROLL)
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
            np.multiply(renderer.render(p), 32767, out=self.audio[slot], casting="unsafe")
            self.rolls[slot] = roll_of(p)
            self.done.put((slot, seed, *worded(p, tok), p.beat, p.metre))
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
    for i in range(WORDINGS):
        task = "repaint" if i == WORDINGS - 1 else "text2music"
        found = tok.encode(prompt_text(caption(p, r), r.choice(LENGTHS), task)).ids[:TOKENS]
        ids[i, : len(found)], lengths[i] = found, len(found)
    return ids, lengths
