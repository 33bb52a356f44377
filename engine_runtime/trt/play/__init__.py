"""Engines in use: loading, executing, refitting."""
