"""Tells whether an engine may play here, and checks it."""
