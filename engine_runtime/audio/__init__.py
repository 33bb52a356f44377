"""Latents to audio and back."""
