"""Plans in use: loading, executing, refitting."""
