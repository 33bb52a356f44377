"""The composer of tools/tiny: what it says of a piece is true of the piece's notes."""

from __future__ import annotations

import importlib.util
import random

import numpy as np
import pytest
from ostinato.tools.tiny.composer import BASS_CHANNEL, CHORDS, DRUM_CHANNEL, LEAD, MAJOR, MINOR, Piece, compose
from ostinato.tools.tiny.covers import cover
from ostinato.tools.tiny.factory import FRAMES, HIGH, LOW, roll_of
from ostinato.tools.tiny.styles import INSTRUMENTS, STYLES
from ostinato.tools.tiny.words import caption, prompt_text

SEEDS = range(120)


@pytest.fixture(scope="module")
def pieces() -> list[Piece]:
    return [compose(seed) for seed in SEEDS]


def test_a_seed_gives_one_piece(pieces) -> None:
    assert compose(7) == pieces[7] != pieces[8]
    assert {p.style for p in pieces} == set(STYLES)
    assert {p.only for p in pieces} == {"", "drums", "bass", "chords"}


def test_notes_lie_in_the_piece(pieces) -> None:
    for p in pieces:
        assert p.notes and p.notes == sorted(p.notes)
        for at, length, _, key, velocity in p.notes:
            assert 0 <= at < p.seconds and 0 < length <= p.seconds - at
            assert 0 <= key <= 127 and 1 <= velocity <= 127


def test_the_key_is_that_of_the_notes(pieces) -> None:
    """All chords and leads lie in the scale; minor has its leading note too."""
    for p in pieces:
        scale = {(p.root + step) % 12 for step in (*MINOR, 11)} if p.minor else {(p.root + step) % 12 for step in MAJOR}
        assert all(key % 12 in scale for _, _, channel, key, _ in p.notes if channel in (CHORDS, LEAD))


def test_the_tempo_is_that_of_the_notes(pieces) -> None:
    """Drums and basses without swing lie on sixteenths of the tempo that the piece names, and on no other's."""
    checked = 0
    for p in pieces:
        if STYLES[p.style].swing:
            continue
        at = np.array([n[0] for n in p.notes if n[2] in (DRUM_CHANNEL, BASS_CHANNEL)])
        if len(at) < 20:
            continue
        off = [np.abs(at / (b / 4) - np.round(at / (b / 4))).mean() * b / 4 for b in (p.beat, p.beat * 1.07)]
        assert off[0] < 0.004 < 2 * off[1], p.seed
        checked += 1
    assert checked > 20


def test_the_metre_is_that_of_the_notes(pieces) -> None:
    """Chords held for a whole bar, and pads, begin on bars."""
    assert {p.metre for p in pieces} == {3, 4}
    for p in pieces:
        pads = {round(n[0] / p.bar, 1) for n in p.notes if n[2] == 3}
        assert all(abs(at - round(at)) < 0.11 for at in pads), p.seed


def test_only_means_only(pieces) -> None:
    channels = {"drums": {DRUM_CHANNEL}, "bass": {BASS_CHANNEL}, "chords": {CHORDS}}
    for p in pieces:
        played = {n[2] for n in p.notes}
        assert p.drums == (DRUM_CHANNEL in played)
        if p.only:
            assert played == channels[p.only]
        assert set(p.programs) >= played - {DRUM_CHANNEL}
        assert all(name in INSTRUMENTS for name in p.instruments)


def test_one_part_alone_is_said_of_every_piece_that_has_one_part(pieces) -> None:
    more = [compose(seed, 4.0, alone=0.9) for seed in range(40)]
    assert sum(bool(p.only) for p in more) > 30
    assert all(bool(p.only) == (len({n[2] for n in p.notes}) == 1) for p in [*pieces, *more] if not p.drums)


def test_a_cover_is_the_same_notes_on_other_instruments(pieces) -> None:
    for p in pieces:
        other = cover(p)
        assert other == cover(p) and other.style != p.style and other.only == p.only or not other.drums
        assert (other.bpm, other.root, other.minor, other.metre) == (p.bpm, p.root, p.minor, p.metre)
        kept = [n for n in p.notes if n[2] != DRUM_CHANNEL or other.drums]
        assert [(n[:3], n[4]) for n in other.notes] == [(n[:3], n[4]) for n in kept]
        moved = {(n[2], m[3] - n[3]) for n, m in zip(kept, other.notes, strict=True)}
        assert moved <= {(channel, 0) for channel in range(16)} | {(LEAD, 12), (LEAD, -12)}
        assert set(other.programs) == set(p.programs)
        assert [INSTRUMENTS[i][0] for i in other.instruments] == [
            other.programs[c] for c in (2, 1, 0, 3) if c in p.programs
        ]
        if len(STYLES[other.style].chords) > 1 and CHORDS in p.programs:
            assert other.programs[CHORDS] != p.programs[CHORDS]


def test_words_are_true_of_the_piece(pieces) -> None:
    for p in pieces:
        for n in range(4):
            said = caption(p, random.Random(n))
            text = said.tags.lower()
            assert said.bpm in (None, p.bpm) and said.key in ("", p.key) and said.metre in ("", str(p.metre))
            assert any(word in text for word in STYLES[p.style].words) or p.only
            assert (
                not p.only
                or p.only in text
                or INSTRUMENTS[p.instruments[0]][1][0].split()[-1] in text
                or "only" in text
            )
            assert "bpm" not in text or str(p.bpm) in text
            assert "no drums" not in text or not p.drums
            assert prompt_text(said, 10).count(f"bpm: {said.bpm or 'N/A'}\n") == 1


def test_the_roll_has_the_notes() -> None:
    p = compose(3)
    p.notes = [(0.5, 0.2, CHORDS, 60, 90), (1.0, 0.2, DRUM_CHANNEL, 36, 90)]
    roll = roll_of(p)
    assert roll.shape == (FRAMES, roll.shape[1]) and roll.sum() == 5 + 1 + 1
    assert roll[12:17, 60 - LOW].all() and roll[12, HIGH - LOW + 3 + CHORDS] and roll[25, HIGH - LOW]


@pytest.mark.skipif(not importlib.util.find_spec("tinysoundfont"), reason="no tinysoundfont: pieces are not rendered")
def test_rendering_needs_a_soundfont() -> None:
    from ostinato.tools.tiny.render import Renderer

    with pytest.raises(Exception, match="sfload|soundfont|load"):
        Renderer("/nowhere.sf3")
