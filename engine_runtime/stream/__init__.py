"""Generations in flight: request, ring, tick, stage, session, and their statistics."""
