"""Decoders behind one contract: rows in, velocity out."""
