"""Measures where a tick's time goes, layer by layer."""
