"""Runs shared ComfyUI workflows that use the pack's nodes from the command line, where ComfyUI is not installed."""
