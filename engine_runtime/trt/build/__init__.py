"""Builds engines in a child process."""
