"""Loading a model, and turning prompts and audio into conditions and sources."""
