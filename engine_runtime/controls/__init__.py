"""Values that change while music plays: knobs, curves, automation. Most of it needs no torch."""
