"""How fast the stream is, measured on the path that plays: session, ring, tick and engine."""
