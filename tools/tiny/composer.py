"""A seeded composer of short multi-track pieces.

`compose(seed)` gives the notes, and what is true of the piece: style, tempo, key, metre, who plays. The same seed gives
the same piece everywhere.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from .styles import BASS, CH, COMP, CR, DRUMS, INSTRUMENTS, OH, RD, SH, STYLES, R, S

NAMES = ["C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"]
MAJOR, MINOR = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)
BASS_CHANNEL, CHORDS, LEAD, PAD, DRUM_CHANNEL = 0, 1, 2, 3, 9
PANS = {BASS_CHANNEL: 64, CHORDS: 44, LEAD: 76, PAD: 84}  # of 127
ONLY = ("", "drums", "bass", "chords")  # what a piece may consist of; "" is everything
HIGH_LEADS = ("flute",)  # they play an octave higher

Note = tuple[float, float, int, int, int]  # start s, length s, channel, key, velocity


@dataclass
class Piece:
    """Notes and what is true of them.

    Attributes:
        root, minor: of the key, 0 = C.
        metre: beats a bar.
        instruments: `INSTRUMENTS` keys, in the order lead, chords, bass, pad.
        only: drums, bass or chords where nothing else plays.
    """

    seed: int
    style: str
    bpm: int
    root: int
    minor: bool
    metre: int
    seconds: float
    instruments: list[str] = field(default_factory=list)
    drums: bool = True
    only: str = ""
    notes: list[Note] = field(default_factory=list)
    programs: dict[int, int] = field(default_factory=dict)  # by channel
    kit: int = 0

    @property
    def beat(self) -> float:
        """Seconds of a beat."""
        return 60.0 / self.bpm

    @property
    def bar(self) -> float:
        """Seconds of a bar."""
        return self.metre * self.beat

    @property
    def key(self) -> str:
        return f"{NAMES[self.root]} {'minor' if self.minor else 'major'}"


def compose(seed: int, seconds: float = 16.0, alone: float = 0.21) -> Piece:
    """Make the piece of a seed.

    Args:
        alone: chance that drums, bass or chords alone play.
    """
    return _Writer(seed, seconds).write(alone)


class _Writer:
    """One piece in the making. All chance comes from `self.r`, in a fixed order."""

    def __init__(self, seed: int, seconds: float) -> None:
        r = self.r = random.Random(seed)
        name = r.choice(list(STYLES))
        st = self.style = STYLES[name]
        metre = 3 if r.random() < st.three else 4
        bpm = r.randint(*st.bpm)
        minor = r.random() < st.minor
        self.p = Piece(seed, name, bpm, r.randrange(12), minor, metre, seconds)
        self.bars = int(seconds / self.p.bar) + 1
        self.scale = MINOR if minor else MAJOR
        self.progression = r.choice(st.progs[minor])
        self.slow = name == "ambient" and r.random() < 0.4  # a chord for two bars
        self.sevenths = r.random() < st.seventh
        self.swing = st.swing if st.swing and r.random() < 0.9 else 0.0

    def write(self, alone: float) -> Piece:
        r, st, p = self.r, self.style, self.p
        solo = p.style in ("classical", "ambient") and r.random() < 0.35
        p.only = r.choices(ONLY, [1 - alone, *[alone / 3] * 3])[0]
        if p.only == "drums" and st.nodrums > 0.5:
            p.only = "chords"
        lead = not p.only and r.random() < (0.5 if solo else 0.7)
        bass = p.only == "bass" or (not p.only and not solo and r.random() < 0.93)
        p.drums = p.only == "drums" or (not p.only and not solo and r.random() >= st.nodrums)
        lead_from = 0 if p.only or r.random() < 0.7 else r.choice([1, 2])
        drums_from = 0 if p.only or r.random() < 0.9 else 2
        if lead:
            self.lead(lead_from)
        self.chords(lead)
        if bass:
            self.bass()
        if st.pads and not p.only and not solo and r.random() < 0.5:
            self.pad()
        if p.drums:
            self.drums(drums_from)
        if p.only in ("drums", "bass"):  # the chords were written all the same
            p.notes = [n for n in p.notes if n[2] != CHORDS]
            del p.programs[CHORDS], p.instruments[0]
        p.notes.sort()
        if {n[2] for n in p.notes} == {CHORDS}:  # a soloist without a lead
            p.only = "chords"
        return p

    def at(self, bar: int, beat: float) -> float:
        """Seconds of a beat of a bar, swung."""
        part = beat % 1.0
        if self.swing and abs(part - 0.5) < 0.01:
            beat += self.swing
        elif self.swing and abs(part - 0.75) < 0.01:
            beat += self.swing / 2
        return bar * self.p.bar + beat * self.p.beat

    def tone(self, step: int, base: int) -> int:
        """The MIDI key of a scale step, 0 the tonic."""
        octave, degree = divmod(step, 7)
        return base + self.p.root + 12 * octave + self.scale[degree]

    def chord(self, bar: int) -> list[int]:
        """Scale steps of a bar's chord."""
        d = self.progression[(bar // (2 if self.slow else 1)) % len(self.progression)] - 1
        return [d, d + 2, d + 4] + ([d + 6] if self.sevenths else [])

    def leading(self, step: int, degree: int) -> int:
        """1 for the third of a minor key's dominant, which is major."""
        return 1 if self.p.minor and degree == 4 and step % 7 == 6 else 0

    def add(self, channel: int, at: float, length: float, key: int, velocity: float) -> None:
        """A note, a few milliseconds and steps of velocity off."""
        at, end = max(0.0, at + self.r.gauss(0, 0.002)), self.p.seconds
        if at < end - 0.02 and 0 <= key <= 127:
            loud = max(1, min(127, int(velocity + self.r.gauss(0, 3))))
            self.p.notes.append((at, min(length, end - at), channel, key, loud))

    def take(self, channel: int, names: Sequence[str]) -> str:
        name = self.r.choice(list(names))
        self.p.programs[channel] = INSTRUMENTS[name][0]
        self.p.instruments.append(name)
        return name

    def rhythm(self, density: float) -> list[tuple[float, float]]:
        """A bar of the lead: (beat, beats)."""
        out, at, metre = [], 0.0, self.p.metre
        while at < metre - 0.01:
            step = self.r.choices([0.5, 1.0, 1.5, 2.0], [density * 2, 1.0, 0.4, 1.3 - density])[0]
            step = min(step, metre - at)
            if self.r.random() < 0.86:
                out.append((at, step))
            at += step
        return out or [(0.0, float(metre))]

    def lead(self, first: int) -> None:
        """A motif of two bars that lands on the chords."""
        r = self.r
        base = 72 if self.take(LEAD, self.style.leads) in HIGH_LEADS else 60
        density = self.style.density * r.uniform(0.7, 1.3)
        motif = [self.rhythm(density), self.rhythm(density)]
        moves = [[r.choice([-2, -1, -1, 0, 1, 1, 2]) for _ in range(12)] for _ in range(2)]
        at, loud = r.choice([0, 2, 4, 7]), r.randint(84, 108)
        for bar in range(first, self.bars):
            chord = self.chord(bar)
            for i, (beat, beats) in enumerate(motif[bar % 2]):
                at = max(-2, min(11, at + moves[bar % 2][i % 12]))
                if beat % 1 == 0 and (beat == 0 or r.random() < 0.55):
                    near = [x + 7 * o for x in chord[:3] for o in (-1, 0, 1, 2)]
                    at = min(near, key=lambda v, at=at: (abs(v - at), v))
                key = self.tone(at, base) + self.leading(at, chord[0] % 7)
                self.add(LEAD, self.at(bar, beat), beats * self.p.beat * 0.92, key, loud + (6 if beat == 0 else 0))

    def chords(self, lead: bool) -> None:
        r, p = self.r, self.p
        self.take(CHORDS, self.style.chords)
        patterns = [c for c in self.style.comp if p.metre == 4] or ["waltz", "waltz8", "waltzhold"]
        pattern = COMP[r.choice(patterns)]
        loud, before = r.randint(64, 88) + (0 if lead else 8), None
        for bar in range(self.bars):
            steps = self.chord(bar)
            keys = [self.tone(s % 7, 48) + self.leading(s, steps[0] % 7) for s in steps]
            before = keys = voiced(keys, before, 52)
            spread = [*keys, keys[0] + 12]
            for beat, beats, *voice in pattern:
                at, length = self.at(bar, beat), min(beats, p.metre - (0 if voice else beat)) * p.beat
                if voice:
                    self.add(CHORDS, at, length, spread[voice[0] % len(spread)], loud + 6)
                for key in () if voice else keys:
                    self.add(CHORDS, at, length * 0.97, key, loud - (4 if beat % 1 else 0))

    def bass(self) -> None:
        r, p = self.r, self.p
        self.take(BASS_CHANNEL, self.style.basses)
        lines = [n for n in self.style.bass if p.metre == 4] or ["waltz", "waltz2"]
        line, loud = BASS[r.choice(lines)], r.randint(84, 104)
        low = 36 if p.root < 5 else 24
        for bar in range(self.bars):
            degree, after = self.chord(bar)[0] % 7, self.chord(bar + 1)[0] % 7
            for beat, beats, step in line:
                if step == -1:
                    key = self.tone(after, low) + r.choice([-1, 1, -2, 2])
                else:
                    s = degree + (0, 2, 4, 7)[step]
                    key = self.tone(s, low) + self.leading(s, degree)
                while key > 52:
                    key -= 12
                while key < 28:
                    key += 12
                self.add(BASS_CHANNEL, self.at(bar, beat), min(beats, p.metre - beat) * p.beat * 0.95, key, loud)

    def pad(self) -> None:
        self.take(PAD, self.style.pads)
        before = None
        for bar in range(self.bars):
            steps = self.chord(bar)
            keys = [self.tone(s % 7, 60) + self.leading(s, steps[0] % 7) for s in steps[:3]]
            before = voiced(keys, before, 64)
            for key in before:
                self.add(PAD, bar * self.p.bar, self.p.bar * 0.99, key, 58)

    def drums(self, first: int) -> None:
        """A pattern, with fills at the end of four bars."""
        r, p = self.r, self.p
        kind = "waltz" if p.metre == 3 else self.style.drums
        grid, p.kit = r.choice(DRUMS[kind]), r.choice(self.style.kits)
        steps, louder = 4 * p.metre, r.randint(-8, 8)
        for bar in range(first, self.bars):
            fill = bar % 4 == 3 and r.random() < 0.5 and kind not in ("jazz", "soft")
            for key, row in grid.items():
                soft = 16 if key in (CH, SH, RD, OH) else 0
                for i, mark in enumerate(row[:steps]):
                    if mark != "." and not (fill and i >= steps - 4 and key in (S, R)):
                        velocity = {"X": 112, "x": 88, "o": 54}[mark] + louder - soft
                        self.add(DRUM_CHANNEL, self.at(bar, i / 4), 0.2, key, velocity)
            for i in range(4 if fill else 0):
                tom = r.choice([S, 45, 47, 50])
                self.add(DRUM_CHANNEL, self.at(bar, p.metre - 1 + i / 4), 0.2, tom, 82 + 8 * i)
            if bar > first and bar % 4 == 0 and r.random() < 0.6 and kind in ("rock", "pop"):
                self.add(DRUM_CHANNEL, self.at(bar, 0), 1.0, CR, 96)


def voiced(keys: list[int], before: list[int] | None, centre: int) -> list[int]:
    """The inversion nearest to the chord before, and to the middle of the register."""

    def cost(voicing: list[int]) -> float:
        mean = sum(voicing) / len(voicing)
        target = sum(before) / len(before) if before else centre + 4
        return abs(mean - target) + 0.2 * abs(mean - (centre + 4))

    turns = [sorted(keys[n:] + [k + 12 for k in keys[:n]]) for n in range(len(keys))]
    return min(([k + o for k in turn] for turn in turns for o in (-24, -12, 0, 12)), key=cost)
