"""Whether an engine may play here."""
