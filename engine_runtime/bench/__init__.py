"""Measures how fast the stream is on the path that plays: session, ring, tick and engine."""
