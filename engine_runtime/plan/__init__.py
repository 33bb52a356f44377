"""Says beforehand what a card plays: what fits in its memory, and about how fast."""
