"""Latents to audio and back, and audio files."""
