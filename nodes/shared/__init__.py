"""Code that several nodes share; no node is defined here."""
