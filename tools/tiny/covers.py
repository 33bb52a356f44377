"""The same notes on other instruments: pairs from which the DiT learns the task `cover`."""

from __future__ import annotations

import random
from dataclasses import replace

from .composer import BASS_CHANNEL, CHORDS, DRUM_CHANNEL, HIGH_LEADS, LEAD, PAD, Piece
from .styles import INSTRUMENTS, STYLES

_PADS = ("pad", "strings")  # for styles that have none of their own


def cover(p: Piece) -> Piece:
    """Play a piece on the instruments of another style; the same piece has the same cover.

    Tempo, key and notes stay. A lead moves by an octave where the new instrument plays in another register, and drums
    are left out as often as the other style has none.
    """
    r = random.Random(f"cover {p.seed}")
    style = STYLES[name := r.choice([s for s in STYLES if s != p.style])]
    kinds = {LEAD: style.leads, CHORDS: style.chords, BASS_CHANNEL: style.basses, PAD: style.pads or _PADS}
    before = dict(zip([c for c in kinds if c in p.programs], p.instruments, strict=True))
    found = {}
    for channel, old in before.items():
        found[channel] = r.choice([i for i in kinds[channel] if i != old] or list(kinds[channel]))
    drums = p.drums and (p.only == "drums" or r.random() >= style.nodrums)
    up = 12 * ((found.get(LEAD) in HIGH_LEADS) - (before.get(LEAD) in HIGH_LEADS))
    notes = [
        (at, length, channel, key + (up if channel == LEAD else 0), loud)
        for at, length, channel, key, loud in p.notes
        if drums or channel != DRUM_CHANNEL
    ]
    return replace(
        p,
        style=name,
        instruments=list(found.values()),
        drums=drums,
        only=p.only or ("chords" if {n[2] for n in notes} == {CHORDS} else ""),
        notes=notes,
        programs={channel: INSTRUMENTS[i][0] for channel, i in found.items()},
        kit=r.choice(style.kits),
    )
