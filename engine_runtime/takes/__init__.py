"""Rendering requests, recording what a session was told, playing it again."""
